//! Node: `package.json`.

use super::{Guess, Kind, Run, Tree, has};
use serde_json::Value;

/// Tools that turn sources into a folder of files, and that folder.
const STATIC_BUILDERS: [(&str, &str); 5] = [
    ("vite", "dist"),
    ("react-scripts", "build"),
    ("@vue/cli-service", "dist"),
    ("astro", "dist"),
    ("@11ty/eleventy", "_site"),
];

pub fn guess(tree: &dyn Tree) -> Option<Guess> {
    let package: Value = serde_json::from_str(&tree.read("package.json")?).ok()?;
    let script = |name: &str| package["scripts"][name].as_str().filter(|s| !s.trim().is_empty());
    let dependency =
        |name: &str| ["dependencies", "devDependencies"].iter().any(|group| package[*group].get(name).is_some());
    let has_dependencies = ["dependencies", "devDependencies"]
        .iter()
        .any(|group| package[*group].as_object().is_some_and(|g| !g.is_empty()));

    let manager = Manager::of(tree);
    let mut reasons = vec![manager.reason.to_owned()];
    let mut steps = Vec::new();
    if has_dependencies || manager.has_lock {
        steps.push(manager.install.to_owned());
    }
    if script("build").is_some() {
        reasons.push("package.json has a `build` script".into());
        steps.push(format!("{} run build", manager.program));
    }

    let main = package["main"].as_str().filter(|m| tree.read(m).is_some());
    let entry = ["server.js", "index.js", "app.js"].into_iter().find(|f| has(tree, f));
    let run = if script("start").is_some() {
        reasons.push("package.json has a `start` script".into());
        Run::Command(format!("{} start", manager.program))
    } else if let Some(main) = main {
        reasons.push(format!("package.json names `{main}` as `main`"));
        Run::Command(format!("node {}", quoted(main)))
    } else if let Some(entry) = entry {
        reasons.push(format!("package.json has no `start` script, but there is {entry}"));
        Run::Command(format!("node {entry}"))
    } else if let Some((tool, folder)) =
        STATIC_BUILDERS.iter().find(|(tool, _)| script("build").is_some() && dependency(tool))
    {
        reasons.push(format!("it is built by {tool}, which writes files to `{folder}`"));
        Run::Static((*folder).to_owned())
    } else {
        Run::Unknown("package.json has neither a `start` script nor a `main` file".into())
    };
    Some(Guess {
        kind: Kind::Node,
        noun: format!("a Node project ({})", manager.program),
        reasons,
        build: (!steps.is_empty()).then(|| steps.join(" && ")),
        // Downloads are kept anyway: the home folder of a service's builds stays. `npm ci` deletes `node_modules`.
        cache: Vec::new(),
        run,
        env: Vec::new(),
    })
}

struct Manager {
    program: &'static str,
    install: &'static str,
    has_lock: bool,
    reason: &'static str,
}

impl Manager {
    fn of(tree: &dyn Tree) -> Self {
        if has(tree, "pnpm-lock.yaml") {
            return Self {
                program: "pnpm",
                install: "pnpm install --frozen-lockfile",
                has_lock: true,
                reason: "there is a package.json, and a pnpm-lock.yaml",
            };
        }
        if has(tree, "yarn.lock") {
            return Self {
                program: "yarn",
                install: "yarn install --frozen-lockfile",
                has_lock: true,
                reason: "there is a package.json, and a yarn.lock",
            };
        }
        let has_lock = has(tree, "package-lock.json") || has(tree, "npm-shrinkwrap.json");
        Self {
            program: "npm",
            install: if has_lock { "npm ci" } else { "npm install" },
            has_lock,
            reason: if has_lock {
                "there is a package.json, and a package-lock.json"
            } else {
                "there is a package.json"
            },
        }
    }
}

/// A file name as one word for the shell.
pub fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    if !path.is_empty() && !path.starts_with('-') && path.chars().all(plain) {
        return path.to_owned();
    }
    format!("'./{}'", path.replace('\'', r"'\''"))
}
