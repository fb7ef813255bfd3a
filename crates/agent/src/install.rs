//! The agent as a systemd service: started at boot, restarted after a crash, removed without a trace.
//!
//! `KillMode=process` is the heart of the unit: stopping or restarting the agent ends the agent and
//! nothing it started, because services and gateway outlive it. The control groups of services lie beside
//! the unit, not below it (see [`crate::drivers::process::cgroup`]), hence no `Delegate=`. Hardening is limited to what services, which
//! inherit it, never need: loading kernel modules, the kernel's log, the host's name, another
//! execution domain. What would break them (a read-only `/usr`, no new privileges, a private `/tmp`)
//! is deliberately absent.

use crate::drivers::dns::{self, DnsPaths};
use crate::drivers::process::cgroup::Cgroups;
use crate::identity::{self, Identity, IdentityError, RegisterError};
use crate::paths::AgentDirectory;
use crate::run::Agent;
use api::name::Name;
use api::secret::Secret;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const UNIT: &str = "mainstay-agent.service";
/// Name of the control group above those of services.
const GROUP: &str = "mainstay";
const SYSTEMCTL_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(
        "systemd does not run on this machine, so there is nothing to install the agent into. Start it yourself \
         with `mainstay agent --data-dir {}` from whatever starts programs here", data_dir.display()
    )]
    NoSystemd { data_dir: PathBuf },
    #[error("installing needs root; run it with sudo")]
    NotRoot,
    #[error("this machine has not joined a control plane: give --join URL and --token TOKEN")]
    NotJoined,
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("`systemctl {arguments}` failed: {reason}")]
    Systemctl { arguments: String, reason: String },
    #[error("{} step(s) failed; the others were done: {}", .0.len(), .0.join("; "))]
    Incomplete(Vec<String>),
}

#[derive(Debug, Clone)]
pub struct InstallOptions {
    /// Prefix of system paths. Other than `/`: files are written, nothing is started.
    pub root: PathBuf,
    pub binary: PathBuf,
    pub data_dir: PathBuf,
    /// Joins first, if this machine has not yet.
    pub join: Option<(String, Secret)>,
    pub name: Option<Name>,
    /// Whether internal names may be hooked into this machine's resolver.
    pub dns_hook: bool,
    /// What the agent is told of the mesh, as it takes it on its command line.
    pub mesh_arguments: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct UninstallOptions {
    pub root: PathBuf,
    pub data_dir: PathBuf,
    /// Leave services, gateway and data as they are; only the unit and the name hook go.
    pub keep_services: bool,
}

/// Writes, enables and starts the unit. `say` gets each step.
pub async fn install(options: InstallOptions, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), InstallError> {
    let live = is_live(&options.root);
    if live {
        require_systemd(&options.root, base(&options.data_dir))?;
        require_root()?;
    }
    join(&options, say).await?;
    let path = unit_path(&options.root);
    let mut arguments: Vec<String> = Vec::new();
    arguments.extend((!options.dns_hook).then(|| "--no-dns".to_owned()));
    arguments.extend(options.mesh_arguments.iter().cloned());
    write(&path, &unit(&options.binary, base(&options.data_dir), &arguments))?;
    say(&format!("wrote {}", path.display()));
    if live {
        systemctl(&["daemon-reload"]).await?;
        systemctl(&["enable", UNIT]).await?;
        systemctl(&["restart", UNIT]).await?;
        say(&format!("enabled and started {UNIT}; it starts again after a crash and at boot"));
        say(&format!("its log: journalctl -u {UNIT} -f"));
    } else {
        let link = wants_path(&options.root);
        create_parent(&link)?;
        remove_if_there(&link)?;
        let target = format!("/etc/systemd/system/{UNIT}");
        std::os::unix::fs::symlink(target, &link).map_err(|source| InstallError::File {
            operation: "make",
            path: link.clone(),
            source,
        })?;
        say(&format!("enabled it in {}; it starts when that system boots", options.root.display()));
    }
    Ok(())
}

/// Takes everything away again: unit, services, gateway, name hook, data. Goes on after a failed
/// step and names all that failed.
pub async fn uninstall(options: UninstallOptions, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), InstallError> {
    let live = is_live(&options.root);
    if live {
        require_root()?;
    }
    let mut failed = Vec::new();
    let identity = Identity::load(&AgentDirectory::new(&options.data_dir).identity()).ok().flatten();
    let path = unit_path(&options.root);
    if live && path.exists() {
        match systemctl(&["disable", "--now", UNIT]).await {
            Ok(()) => say(&format!("stopped and disabled {UNIT}")),
            Err(error) => failed.push(error.to_string()),
        }
    }
    if options.keep_services {
        say("services and gateway keep running, and their data stays");
        let owner = std::path::absolute(&options.data_dir).unwrap_or_else(|_| options.data_dir.clone());
        match dns::remove_hooks(&DnsPaths::under(&options.root), &owner.display().to_string()).await {
            Ok(()) => say("removed the hook for internal names"),
            Err(error) => failed.push(error.describe()),
        }
    } else {
        stop_everything(&options, say, &mut failed).await;
    }
    for link in [wants_path(&options.root), path.clone()] {
        match remove_if_there(&link) {
            Ok(true) => say(&format!("removed {}", link.display())),
            Ok(false) => {}
            Err(error) => failed.push(describe(&error)),
        }
    }
    if live
        && require_systemd(&options.root, &options.data_dir).is_ok()
        && let Err(error) = systemctl(&["daemon-reload"]).await
    {
        failed.push(error.to_string());
    }
    if !options.keep_services && failed.is_empty() {
        match remove_data(&options.data_dir) {
            Ok(true) => {
                say(&format!("removed {}", options.data_dir.display()));
                // Goes if the agent was all that it held; a control plane's data stays.
                let _ = fs::remove_dir(base(&options.data_dir));
            }
            Ok(false) => {}
            Err(error) => failed.push(describe(&error)),
        }
        remove_empty_groups(&options.root.join("sys/fs/cgroup"), say);
    }
    if let Some(identity) = identity.filter(|_| !options.keep_services) {
        let (name, url) = (identity.name, identity.control_plane_url);
        say(&format!("{url} still lists this machine; to forget it there: mainstay servers remove {name}"));
    }
    if failed.is_empty() { Ok(()) } else { Err(InstallError::Incomplete(failed)) }
}

async fn stop_everything(options: &UninstallOptions, say: &mut (dyn FnMut(&str) + Send), failed: &mut Vec<String>) {
    match Agent::stop_all(&options.data_dir).await {
        Ok(stopped) => {
            let instances = api::words::count(stopped.instances, "instance");
            say(&format!("stopped {instances}{}", if stopped.gateway { " and the gateway" } else { "" }));
            if stopped.problems.is_empty() {
                say("internal names no longer resolve on this machine");
            }
            Cgroups::detect().remove_if_empty();
            failed.extend(stopped.problems);
        }
        Err(error) => failed.push(format!("{error:#}")),
    }
}

async fn join(options: &InstallOptions, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), InstallError> {
    let path = AgentDirectory::new(&options.data_dir).identity();
    if let Some(identity) = Identity::load(&path)? {
        say(&format!("this machine is already a member of {} as {}", identity.control_plane_url, identity.name));
        return Ok(());
    }
    let Some((url, token)) = options.join.clone() else { return Err(InstallError::NotJoined) };
    let facts = crate::facts::detect(&crate::facts::Machine::this(), Default::default());
    let identity = identity::register(&path, &url, token, options.name.clone(), facts, crate::clock::now_ms()).await?;
    say(&format!("joined {url} as {}", identity.name));
    Ok(())
}

/// Mainstay's data directory, which `--data-dir` names; the agent's own lies in it as `agent`.
fn base(agent_directory: &Path) -> &Path {
    let parent = agent_directory.parent().filter(|_| agent_directory.file_name().is_some_and(|name| name == "agent"));
    parent.unwrap_or(agent_directory)
}

/// The unit's text; `arguments` are those of the agent beside its directory.
pub fn unit(binary: &Path, data_dir: &Path, arguments: &[String]) -> String {
    let arguments: String = arguments.iter().map(|argument| format!(" {argument}")).collect();
    format!(
        "# Made by `mainstay agent install`; removed by `mainstay agent uninstall`.\n\
         [Unit]\n\
         Description=Mainstay agent\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={} agent --data-dir {}{arguments}\n\
         Restart=always\n\
         RestartSec=1\n\
         # Services and gateway outlive the agent.\n\
         KillMode=process\n\
         TimeoutStopSec=30\n\
         OOMPolicy=continue\n\
         TasksMax=infinity\n\
         LimitNOFILE=1048576\n\
         LockPersonality=yes\n\
         ProtectHostname=yes\n\
         ProtectKernelLogs=yes\n\
         ProtectKernelModules=yes\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        quote(binary),
        quote(data_dir)
    )
}

/// One argument as systemd reads it: quoted, with its own specifiers and variables made plain.
fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

fn is_live(root: &Path) -> bool {
    root == Path::new("/")
}

fn unit_path(root: &Path) -> PathBuf {
    root.join("etc/systemd/system").join(UNIT)
}

fn wants_path(root: &Path) -> PathBuf {
    root.join("etc/systemd/system/multi-user.target.wants").join(UNIT)
}

fn require_systemd(root: &Path, data_dir: &Path) -> Result<(), InstallError> {
    if root.join("run/systemd/system").is_dir() {
        Ok(())
    } else {
        Err(InstallError::NoSystemd { data_dir: data_dir.to_owned() })
    }
}

fn require_root() -> Result<(), InstallError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(InstallError::NotRoot) }
}

async fn systemctl(arguments: &[&str]) -> Result<(), InstallError> {
    let failed = |reason: String| InstallError::Systemctl { arguments: arguments.join(" "), reason };
    let mut command = tokio::process::Command::new("systemctl");
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(SYSTEMCTL_TIMEOUT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", SYSTEMCTL_TIMEOUT.as_secs()))),
    }
}

/// Only what is plainly an agent's directory.
fn remove_data(data_dir: &Path) -> Result<bool, InstallError> {
    let directory = AgentDirectory::new(data_dir);
    if !directory.identity().exists() && !directory.ledger().exists() {
        return Ok(false);
    }
    fs::remove_dir_all(data_dir).map_err(|source| InstallError::File {
        operation: "remove",
        path: data_dir.to_owned(),
        source,
    })?;
    // Where nothing but the agent lived, the directory around it goes, too; otherwise this is refused.
    let _ = data_dir.parent().map(fs::remove_dir);
    Ok(true)
}

/// The groups above those of services, in each hierarchy. The kernel refuses it while one is in use,
/// by another agent on this machine, say; then it stays.
fn remove_empty_groups(cgroups: &Path, say: &mut (dyn FnMut(&str) + Send)) {
    let hierarchies = fs::read_dir(cgroups).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in std::iter::once(cgroups.to_owned()).chain(hierarchies) {
        let group = hierarchy.join(GROUP);
        if group.is_dir() && fs::remove_dir(&group).is_ok() {
            say(&format!("removed {}", group.display()));
        }
    }
}

fn create_parent(path: &Path) -> Result<(), InstallError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|source| InstallError::File {
        operation: "make",
        path: parent.to_owned(),
        source,
    })
}

fn write(path: &Path, content: &str) -> Result<(), InstallError> {
    create_parent(path)?;
    fs::write(path, content).map_err(|source| InstallError::File { operation: "write", path: path.to_owned(), source })
}

fn remove_if_there(path: &Path) -> Result<bool, InstallError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(InstallError::File { operation: "remove", path: path.to_owned(), source }),
    }
}

fn describe(error: &InstallError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_keeps_services_running_and_takes_odd_paths_literally() {
        let text = unit(Path::new("/opt/main stay/mainstay"), Path::new("/data/100%$x\"y"), &["--no-dns".to_owned()]);
        assert!(
            text.contains("ExecStart=\"/opt/main stay/mainstay\" agent --data-dir \"/data/100%%$$x\\\"y\" --no-dns\n"),
            "{text}"
        );
        assert!(!unit(Path::new("/m"), Path::new("/d"), &[]).contains("--no-dns"));
        for line in ["KillMode=process", "Restart=always", "OOMPolicy=continue", "After=network-online.target"] {
            assert!(text.lines().any(|l| l == line), "{line} is missing");
        }
        assert!(!text.contains("Delegate"), "groups of services below the unit would keep it from starting again");
    }

    #[tokio::test]
    async fn a_machine_that_has_not_joined_is_not_installed() {
        let root = tempfile::tempdir().unwrap();
        let options = InstallOptions {
            root: root.path().to_owned(),
            binary: "/usr/bin/mainstay".into(),
            data_dir: root.path().join("data"),
            join: None,
            name: None,
            dns_hook: true,
            mesh_arguments: Vec::new(),
        };
        let error = install(options, &mut |_| {}).await.unwrap_err();
        assert!(matches!(error, InstallError::NotJoined), "{error}");
        assert!(!unit_path(root.path()).exists());
    }

    #[tokio::test]
    async fn uninstalling_takes_away_what_installing_wrote_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let data_dir = root.path().join("data");
        fs::create_dir_all(root.path().join("etc/systemd/system")).unwrap();
        fs::write(root.path().join("etc/systemd/system/other.service"), "theirs").unwrap();
        let identity = Identity {
            server_id: "srv_00000000000000000000000000000001".parse().unwrap(),
            name: "web-1".parse().unwrap(),
            index: 1,
            control_plane_url: "http://127.0.0.1:1".into(),
            secret: wire::RequestSigner::generate_secret(),
            control_plane_key: "k".into(),
            machine_key: wire::SigningKey::generate(),
            poll_interval_ms: 10_000,
            registered_at_ms: 1,
        };
        identity.save(&AgentDirectory::new(&data_dir).identity()).unwrap();
        let options = InstallOptions {
            root: root.path().to_owned(),
            binary: "/usr/bin/mainstay".into(),
            data_dir: data_dir.clone(),
            join: None,
            name: None,
            dns_hook: true,
            mesh_arguments: Vec::new(),
        };
        let mut said = Vec::new();
        install(options, &mut |step| said.push(step.to_owned())).await.unwrap();
        assert!(said[0].contains("already a member"), "{said:?}");
        assert!(unit_path(root.path()).exists() && wants_path(root.path()).symlink_metadata().is_ok());

        let options =
            UninstallOptions { root: root.path().to_owned(), data_dir: data_dir.clone(), keep_services: true };
        uninstall(options, &mut |_| {}).await.unwrap();
        assert!(!unit_path(root.path()).exists() && wants_path(root.path()).symlink_metadata().is_err());
        assert!(data_dir.exists(), "what is kept is kept");
        assert!(root.path().join("etc/systemd/system/other.service").exists());

        fs::create_dir_all(root.path().join("sys/fs/cgroup/memory/mainstay")).unwrap();
        fs::create_dir_all(root.path().join("sys/fs/cgroup/pids/mainstay/of-another-agent")).unwrap();
        let options =
            UninstallOptions { root: root.path().to_owned(), data_dir: data_dir.clone(), keep_services: false };
        uninstall(options, &mut |_| {}).await.unwrap();
        assert!(!data_dir.exists() && root.path().exists());
        assert!(!root.path().join("sys/fs/cgroup/memory/mainstay").exists());
        assert!(root.path().join("sys/fs/cgroup/pids/mainstay/of-another-agent").exists());
    }
}
