//! The dashboard in a real browser: `browser/dashboard.mjs` against the real binary.
//!
//! It needs node, npm and Chromium, which a machine that only builds Mainstay need not have. Where one
//! is missing the test says so and passes; `MAINSTAY_BROWSER_TESTS=required` makes that a failure.

use e2e::Machine;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FILES: [&str; 4] = ["package.json", "package-lock.json", "dashboard.mjs", "contrast.mjs"];
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn people_can_use_the_dashboard_in_a_browser() {
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(missing) => {
            let required = std::env::var_os("MAINSTAY_BROWSER_TESTS").is_some_and(|value| value == "required");
            assert!(!required, "the browser test cannot run: {missing}");
            println!("skipped: {missing}");
            eprintln!("the browser test was skipped: {missing}");
            return;
        }
    };
    let machine = Machine::new().expect("a machine for the test");
    let repository = machine.repository("shop").expect("a repository");
    repository.write_app("one", "").expect("a manifest");
    repository.commit("A shop").expect("a commit");
    machine.up(&repository.path, &[]).ok();
    let password =
        std::fs::read_to_string(machine.data().join("server/initial-password")).expect("the first password is kept");

    let mut command = Command::new("node");
    command
        .arg(tools.folder.join("dashboard.mjs"))
        .env("MAINSTAY_ADDRESS", machine.control_url())
        .env("MAINSTAY_PASSWORD", password.trim())
        .env("MAINSTAY_SERVICE", "shop/web")
        .env("CHROMIUM", &tools.chromium)
        .stdin(Stdio::null());
    // To look at the pages: they cost time, so only on demand.
    if let Some(folder) = std::env::var_os("MAINSTAY_SCREENSHOTS") {
        command.env("SHOTS", folder);
    }
    let said = run(&mut command, LIMIT);
    println!("{}", said.unwrap_or_else(|problem| panic!("{problem}")));
}

struct Tools {
    chromium: PathBuf,
    /// Under the target directory, so that the source tree stays as it is.
    folder: PathBuf,
}

impl Tools {
    fn find() -> Result<Self, String> {
        for name in ["node", "npm"] {
            on_path(name).ok_or_else(|| format!("`{name}` is not installed (apt-get install nodejs npm)"))?;
        }
        let chromium = on_path("chromium").ok_or("`chromium` is not installed (apt-get install chromium)")?;
        let folder = e2e::binary("mainstay").with_file_name("browser");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
        std::fs::create_dir_all(&folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
        let mut changed = !folder.join("node_modules/playwright-core/package.json").exists();
        for file in FILES {
            let text = std::fs::read(source.join(file)).map_err(|error| format!("read {file}: {error}"))?;
            let copy = folder.join(file);
            if std::fs::read(&copy).is_ok_and(|old| old == text) {
                continue;
            }
            changed |= file.ends_with(".json");
            std::fs::write(&copy, text).map_err(|error| format!("write {}: {error}", copy.display()))?;
        }
        if changed {
            let mut install = Command::new("npm");
            install
                .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
                .current_dir(&folder)
                .stdin(Stdio::null());
            run(&mut install, LIMIT).map_err(|problem| format!("playwright-core cannot be installed: {problem}"))?;
        }
        Ok(Self { chromium, folder })
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Runs a command to its end; what it printed, or what went wrong.
fn run(command: &mut Command, limit: Duration) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("output");
    let output = std::fs::File::create(&path).map_err(|error| error.to_string())?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let mut child = command.stdout(output).stderr(errors).spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if begun.elapsed() < limit => std::thread::sleep(Duration::from_millis(50)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let said = std::fs::read_to_string(&path).unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(said),
        Some(status) => Err(format!("{command:?} ended with {status}\n{said}")),
        None => Err(format!("{command:?} did not end within {limit:?}\n{said}")),
    }
}
