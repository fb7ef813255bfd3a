//! Projects in, manifests out. What is written must be readable by the parser, whatever the project.

use crate::good_input::source;
use manifest::detect::{DetectError, Detection, Entry, Folder, Tree, detect};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

struct Project {
    name: String,
    files: BTreeMap<String, String>,
}

impl Tree for Project {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn list(&self, folder: &str) -> Vec<Entry> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let below = self.files.keys().filter_map(|path| path.strip_prefix(&prefix));
        let entries: BTreeSet<Entry> = below
            .map(|rest| match rest.split_once('/') {
                Some((folder, _)) => Entry { name: folder.into(), is_folder: true },
                None => Entry { name: rest.into(), is_folder: false },
            })
            .collect();
        entries.into_iter().collect()
    }

    fn read(&self, path: &str) -> Option<String> {
        self.files.get(path).cloned()
    }
}

fn project(files: &[(&str, &str)]) -> Project {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    Project { name: "My Shop".into(), files }
}

#[track_caller]
fn found(files: &[(&str, &str)]) -> Detection {
    let detection = detect(&project(files)).unwrap_or_else(|e| panic!("{e}"));
    let stack =
        manifest::parse(&detection.manifest, Some(&source())).unwrap_or_else(|e| panic!("{e}\n{}", detection.manifest));
    assert_eq!(stack.name.as_str(), "my-shop");
    detection
}

/// Build, run and port of each service, without the comments.
#[track_caller]
fn lines(files: &[(&str, &str)]) -> String {
    let manifest = found(files).manifest;
    let lines = manifest.lines().map(|l| l.split("  #").next().unwrap_or(l));
    lines.filter(|l| !l.starts_with('#') && !l.is_empty() && !l.starts_with("name =")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_node_project_gets_a_manifest_that_says_why() {
    let package = r#"{"scripts": {"start": "node server.js", "build": "tsc"}, "dependencies": {"express": "4"}}"#;
    let detection = found(&[("package.json", package), ("package-lock.json", "{}")]);
    let expected = r#"# This is a Node project (npm): built with `npm ci && npm run build`, started with `npm start`.
# - there is a package.json, and a package-lock.json
# - package.json has a `build` script
# - package.json has a `start` script
# All fields: docs/reference/manifest.md of Mainstay. See what would happen: mainstay plan

name = "my-shop"

[services.my-shop]
build = "npm ci && npm run build"
run = "npm start"
route = "/"  # any host; or "shop.example.com"
# health = "/healthz"  # a path that answers 200 when all is well; without it, an open port is enough
"#;
    assert_eq!(detection.manifest, expected);
}

#[test]
fn the_package_manager_follows_from_the_lock_file() {
    let package = r#"{"scripts": {"start": "x"}}"#;
    for (lock, start) in
        [("pnpm-lock.yaml", "pnpm start"), ("yarn.lock", "yarn start"), ("package-lock.json", "npm start")]
    {
        let lines = lines(&[("package.json", package), (lock, "")]);
        assert!(lines.contains(&format!("run = \"{start}\"")), "{lines}");
    }
    let none = lines(&[("package.json", r#"{"main": "lib/main.js"}"#), ("lib/main.js", "")]);
    assert_eq!(none, "[services.my-shop]\nrun = \"node lib/main.js\"\nroute = \"/\"");
}

#[test]
fn a_front_end_that_only_builds_files_is_served_as_files() {
    let package = r#"{"scripts": {"build": "vite build"}, "devDependencies": {"vite": "5"}}"#;
    let lines = lines(&[("package.json", package), ("index.html", "")]);
    assert!(lines.ends_with("static = \"dist\"\nroute = \"/\""), "{lines}");
}

#[test]
fn python_frameworks_are_started_by_their_servers() {
    let flask = lines(&[
        ("requirements.txt", "flask\ngunicorn\n"),
        ("app.py", "from flask import Flask\nserver = Flask(__name__)\n"),
    ]);
    assert!(flask.contains("run = \".venv/bin/python -m gunicorn --bind 127.0.0.1:$PORT app:server\""), "{flask}");
    assert!(flask.contains("python3 -m venv .venv && .venv/bin/python -m pip install -r requirements.txt"), "{flask}");
    let fastapi =
        lines(&[("pyproject.toml", "[project]\nname = \"x\""), ("main.py", "app: FastAPI = fastapi.FastAPI()\n")]);
    assert!(
        fastapi.contains("run = \".venv/bin/python -m uvicorn main:app --host 127.0.0.1 --port $PORT\""),
        "{fastapi}"
    );
    let manage = "os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"blog.settings\")";
    let django = lines(&[("requirements.txt", "Django\ngunicorn"), ("manage.py", manage)]);
    assert!(django.contains("run = \".venv/bin/python -m gunicorn --bind 127.0.0.1:$PORT blog.wsgi\""), "{django}");
    let plain = lines(&[("main.py", "print(1)")]);
    assert!(plain.contains("run = \"python3 main.py\"") && !plain.contains("build"), "{plain}");
}

#[test]
fn a_rust_program_is_built_for_release_and_its_target_folder_kept() {
    let rust = lines(&[("Cargo.toml", "[package]\nname = \"hello-api\""), ("Cargo.lock", ""), ("src/main.rs", "")]);
    let expected = "[services.my-shop]\nbuild = { command = \"cargo build --release --locked\", cache = [\"target\"] }\nrun = \"./target/release/hello-api\"\nroute = \"/\"";
    assert_eq!(rust, expected);
}

#[test]
fn a_go_program_at_the_root_or_below_cmd_is_found() {
    assert!(
        lines(&[("go.mod", "module x"), ("main.go", "package main\n")]).contains("build = \"go build -o bin/app .\"")
    );
    let below = lines(&[("go.mod", "module x"), ("lib.go", "package x\n"), ("cmd/api/main.go", "package main\n")]);
    assert!(below.contains("-o bin/app ./cmd/api\"") && below.contains("run = \"./bin/app\""), "{below}");
}

#[test]
fn php_is_served_from_its_public_folder() {
    let php = lines(&[("composer.json", "{}"), ("public/index.php", "<?php")]);
    assert!(php.contains("run = \"php -S 127.0.0.1:$PORT -t public\"") && php.contains("composer install"), "{php}");
}

#[test]
fn a_folder_of_files_is_served_as_it_is() {
    assert_eq!(lines(&[("index.html", "")]), "[services.my-shop]\nstatic = \".\"\nroute = \"/\"");
    assert_eq!(lines(&[("public/index.html", "")]), "[services.my-shop]\nstatic = \"public\"\nroute = \"/\"");
}

#[test]
fn a_procfile_wins_and_its_processes_become_services_with_safe_names() {
    let files = [
        ("Procfile", "web: node server.js\n# a comment\nmail_worker: node mail.js\nrelease: node migrate.js\n"),
        ("package.json", r#"{"scripts": {"start": "other"}}"#),
    ];
    let detection = found(&files);
    assert_eq!(detection.what, "This is a Node project (npm) with a Procfile: it runs web, mail-worker.");
    assert!(
        detection.reasons.iter().any(|r| r.contains("`mail_worker` is called `mail-worker`")),
        "{:?}",
        detection.reasons
    );
    assert!(detection.reasons.iter().any(|r| r.contains("`release` command is not run")), "{:?}", detection.reasons);
    let lines = lines(&files);
    assert!(lines.contains("[services.web]\nrun = \"node server.js\"\nroute = \"/\""), "{lines}");
    assert!(lines.contains("[services.mail-worker]\nrun = \"node mail.js\"\nport = false"), "{lines}");
}

#[test]
fn two_programs_side_by_side_are_said_and_not_chosen_between() {
    let files = [("package.json", r#"{"scripts": {"start": "x"}}"#), ("main.py", "")];
    let error = detect(&project(&files)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`My Shop` could be more than one kind of project: a Node project (npm), started with `npm start`; or a Python project, started with `python3 main.py`"
    );
    assert_eq!(error.help(), "say which by a mainstay.toml, or by a Procfile with `web: COMMAND`");
}

#[test]
fn front_end_tools_beside_a_program_do_not_make_it_ambiguous() {
    let files = [
        ("package.json", r#"{"scripts": {"build": "vite build"}, "devDependencies": {"vite": "5"}}"#),
        ("go.mod", "module x"),
        ("main.go", "package main"),
    ];
    assert!(found(&files).what.starts_with("This is a Go project"));
}

#[test]
fn what_cannot_be_told_is_said_with_what_was_seen() {
    let error = detect(&project(&[("README.md", "")])).unwrap_err();
    assert!(matches!(&error, DetectError::Unknown { seen: None, .. }), "{error}");
    let error = detect(&project(&[("Cargo.toml", "[workspace]\nmembers = [\"a\"]")])).unwrap_err();
    assert!(error.to_string().contains("Cargo.toml is a workspace"), "{error}");
    let error = detect(&project(&[("Procfile", "nonsense")])).unwrap_err();
    assert!(error.to_string().contains("lines look like `web: COMMAND`"), "{error}");
}

#[test]
fn a_folder_on_disk_is_read_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("public")).unwrap();
    std::fs::write(folder.path().join("public/index.html"), "hello").unwrap();
    let detection = detect(&Folder::new(folder.path())).unwrap();
    assert!(detection.manifest.contains("static = \"public\""), "{}", detection.manifest);
    assert!(detect(&Folder::new(folder.path().join("missing"))).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_the_project_holds_the_manifest_written_for_it_can_be_read(
        name in ".{0,20}", file in proptest::sample::select(&["Procfile", "package.json", "Cargo.toml", "requirements.txt", "main.py", "go.mod"][..]),
        word in "[ -~\u{80}-\u{2ff}\u{0}-\u{1f}]{0,24}",
    ) {
        let text = match file {
            "Procfile" => format!("web: {word}\n{word}: x"),
            "package.json" => serde_json::json!({"main": word, "scripts": {"start": word}}).to_string(),
            "Cargo.toml" => format!("[package]\nname = {}", toml_text(&word)),
            "main.py" => format!("{word} = Flask(__name__)"),
            _ => word.clone(),
        };
        let files = [(file.to_owned(), text), (word, String::new()), ("src/main.rs".to_owned(), String::new())].into_iter().collect();
        let tree = Project { name, files };
        if let Ok(detection) = detect(&tree) {
            let parsed = manifest::parse(&detection.manifest, Some(&source()));
            prop_assert!(parsed.is_ok(), "{}\n{}", parsed.unwrap_err(), detection.manifest);
        }
    }
}

fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
