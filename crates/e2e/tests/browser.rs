//! The dashboard in a real browser: the walks of `browser/` against the real binary.
//!
//! They need node, npm and Chromium, which a machine that only builds Mainstay need not have. Where one
//! is missing the tests say so and pass; `MAINSTAY_BROWSER_TESTS=required` makes that a failure.

use e2e::{Machine, eventually};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const FILES: [&str; 7] =
    ["package.json", "package-lock.json", "people.mjs", "axe.mjs", "contrast.mjs", "dashboard.mjs", "story.mjs"];
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn people_can_use_the_dashboard_in_a_browser() {
    let Some(tools) = Tools::find() else { return };
    let machine = Machine::new().expect("a machine for the test");
    let repository = machine.repository("shop").expect("a repository");
    repository.write_app("one", "").expect("a manifest");
    repository.commit("A shop").expect("a commit");
    machine.up(&repository.path, &[]).ok();
    let mut walk = tools.walk("dashboard.mjs", &machine);
    println!("{}", run(walk.env("MAINSTAY_SERVICE", "shop/web"), LIMIT).unwrap_or_else(|problem| panic!("{problem}")));
}

#[tokio::test]
async fn a_new_user_gets_from_an_empty_page_to_a_service_a_failure_and_back_in_a_browser() {
    let Some(tools) = Tools::find() else { return };
    let machine = Machine::new().expect("a machine for the test");
    let repository = machine.repository("shop").expect("a repository");
    let (listen, gateway) = (format!("127.0.0.1:{}", machine.control_port), machine.gateway_port.to_string());
    let control_plane = ["server", "--listen", &listen, "--gateway-port", &gateway, "--allow-local-sources"];
    let _server = machine.start("server.log", &control_plane);
    eventually("the control plane answers", LIMIT, || async {
        reqwest::get(format!("{}/healthz", machine.control_url())).await.ok()
    })
    .await;
    let mut walk = tools.walk("story.mjs", &machine);
    walk.env("MAINSTAY", e2e::binary("mainstay"))
        .env("APPLICATION", e2e::binary("e2e-app"))
        .env("REPOSITORY", &repository.path)
        .env("GATEWAY", machine.gateway_url());
    println!("{}", run(&mut walk, LIMIT).unwrap_or_else(|problem| panic!("{problem}")));
}

struct Tools {
    chromium: PathBuf,
    /// Under the target directory, so that the source tree stays as it is.
    folder: PathBuf,
}

impl Tools {
    /// Found and set up once; `None` where something is missing and nobody asks for more than to hear that.
    fn find() -> Option<&'static Self> {
        static FOUND: OnceLock<Result<Tools, String>> = OnceLock::new();
        let missing = match FOUND.get_or_init(Self::set_up) {
            Ok(tools) => return Some(tools),
            Err(missing) => missing,
        };
        let required = std::env::var_os("MAINSTAY_BROWSER_TESTS").is_some_and(|value| value == "required");
        assert!(!required, "the browser test cannot run: {missing}");
        println!("skipped: {missing}");
        eprintln!("the browser test was skipped: {missing}");
        None
    }

    /// A walk through the dashboard of a machine.
    fn walk(&self, file: &str, machine: &Machine) -> Command {
        let password = machine.data().join("server/initial-password");
        let password = std::fs::read_to_string(password).expect("the first password is kept");
        let mut command = Command::new("node");
        machine.prepare(&mut command);
        command
            .arg(self.folder.join(file))
            .env("MAINSTAY_ADDRESS", machine.control_url())
            .env("MAINSTAY_PASSWORD", password.trim())
            .env("CHROMIUM", &self.chromium);
        // To look at the pages: they cost time, so only on demand.
        if let Some(folder) = std::env::var_os("MAINSTAY_SCREENSHOTS") {
            command.env("SHOTS", folder);
        }
        command
    }

    fn set_up() -> Result<Self, String> {
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
