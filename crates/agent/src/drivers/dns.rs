//! Internal names on the host: `<service>.svc.internal` leads to the gateway on loopback.
//!
//! Three ways, the first that is safe here:
//!
//! 1. *systemd-resolved*, if it answers for this machine and has no global servers of its own: a
//!    drop-in that routes our domain, and only it, to our responder inside the gateway. With global
//!    servers configured we would join one list with them, and resolved asks only one of a list at a
//!    time, so half the names would vanish; then the next way is taken.
//! 2. *A block in `/etc/hosts`*, which every libc asks first. It names each service, so it works
//!    without any responder and keeps working while the gateway is down. Lines of others are never
//!    touched; the file is replaced atomically under a lock.
//! 3. *None*, without root or where somebody chose so: nothing is touched and `SERVICE_<NAME>_URL` points to a port
//!    on loopback. The first is told as a problem, the choice is not.
//!
//! Absent on purpose: putting our responder first into `/etc/resolv.conf`. It would make every name
//! lookup of the machine depend on our process, its order of servers means "try one, wait five
//! seconds, try the next", and DHCP clients overwrite the file. The hosts block gives the same names
//! at no such price.
//!
//! Several agents may live on one machine (tests do), so the block and the drop-in carry the data
//! directory of their owner.

mod hosts;

use super::{Config, DriverError};
use api::gateway::DnsObserved;
use hosts::{Markers, read_or_empty, replace_block, replace_file, split_block};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const RELOAD_TIMEOUT: Duration = Duration::from_secs(15);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a verdict about whether names resolve is believed.
const VERIFIED_FOR: Duration = Duration::from_secs(60);

/// What should resolve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsDesired {
    /// Whole names, sorted: `web.svc.internal`. Empty: nothing should be hooked.
    pub names: Vec<String>,
    /// `svc.internal`
    pub domain: String,
    pub responder_port: u16,
}

/// How names are made to resolve here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsMethod {
    SystemdResolved,
    HostsFile,
    /// It cannot be done here.
    None {
        reason: String,
    },
    /// Somebody chose so.
    SwitchedOff {
        consequence: String,
    },
}

impl DnsMethod {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::SystemdResolved => "systemd-resolved",
            Self::HostsFile => "hosts-file",
            Self::None { .. } | Self::SwitchedOff { .. } => "none",
        }
    }

    pub fn resolves(&self) -> bool {
        !matches!(self, Self::None { .. } | Self::SwitchedOff { .. })
    }
}

/// The files concerned, under any root.
#[derive(Debug, Clone)]
pub struct DnsPaths {
    root: PathBuf,
}

impl DnsPaths {
    pub fn system() -> Self {
        Self::under("/")
    }

    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn is_system(&self) -> bool {
        self.root == Path::new("/")
    }
    fn hosts(&self) -> PathBuf {
        self.root.join("etc/hosts")
    }
    fn resolv_conf(&self) -> PathBuf {
        self.root.join("etc/resolv.conf")
    }
    fn resolved_conf(&self) -> PathBuf {
        self.root.join("etc/systemd/resolved.conf")
    }
    fn resolved_drop_ins(&self) -> PathBuf {
        self.root.join("etc/systemd/resolved.conf.d")
    }
    fn resolved_running(&self) -> PathBuf {
        self.root.join("run/systemd/resolve/stub-resolv.conf")
    }
}

pub struct DnsDriver {
    paths: DnsPaths,
    /// Marks what is ours: the agent's data directory.
    owner: String,
    method: DnsMethod,
    verified: Mutex<Option<(String, Instant, Option<String>)>>,
}

impl DnsDriver {
    /// `privileged`: whether system files may be written.
    pub fn new(paths: DnsPaths, owner: &Path, privileged: bool) -> Self {
        let method = detect(&paths, privileged);
        Self { paths, owner: owner.display().to_string(), method, verified: Mutex::default() }
    }

    /// Hooks nothing, for whoever does not want system files touched.
    pub fn off(owner: &Path, consequence: &str) -> Self {
        let method = DnsMethod::SwitchedOff { consequence: consequence.to_owned() };
        Self { paths: DnsPaths::system(), owner: owner.display().to_string(), method, verified: Mutex::default() }
    }

    pub fn method(&self) -> &DnsMethod {
        &self.method
    }

    /// Whether names reach our responder, so that it has to run.
    pub fn needs_responder(&self) -> bool {
        self.method == DnsMethod::SystemdResolved
    }

    /// Digest that [`Config::live_digest`] answers once `desired` is live.
    pub fn desired_digest(&self, desired: &DnsDesired) -> String {
        wire::sha256_hex(self.render(desired).as_bytes())
    }

    /// The whole text that is ours: a drop-in, or the lines between the markers.
    fn render(&self, desired: &DnsDesired) -> String {
        if desired.names.is_empty() {
            return String::new();
        }
        match &self.method {
            DnsMethod::None { .. } | DnsMethod::SwitchedOff { .. } => String::new(),
            DnsMethod::HostsFile => desired.names.iter().map(|name| format!("127.0.0.1 {name}\n")).collect(),
            DnsMethod::SystemdResolved => format!(
                "# Made by mainstay for {}; removed by `mainstay agent uninstall`.\n[Resolve]\nDNS=127.0.0.1:{}\nDomains=~{}\n",
                self.owner, desired.responder_port, desired.domain
            ),
        }
    }

    fn live_text(&self) -> io::Result<String> {
        match &self.method {
            DnsMethod::None { .. } | DnsMethod::SwitchedOff { .. } => Ok(String::new()),
            DnsMethod::HostsFile => Ok(split_block(&read_or_empty(&self.paths.hosts())?, &self.markers()).block),
            DnsMethod::SystemdResolved => read_or_empty(&self.drop_in()),
        }
    }

    fn drop_in(&self) -> PathBuf {
        drop_in(&self.paths, &self.owner)
    }

    fn markers(&self) -> Markers {
        Markers::of(&self.owner)
    }

    /// What is live, for the report: the names that really resolve.
    pub async fn observe(&self, desired: &DnsDesired) -> DnsObserved {
        let method = self.method.as_str().to_owned();
        match &self.method {
            DnsMethod::None { reason } => {
                return DnsObserved { method, problem: Some(reason.clone()), ..DnsObserved::default() };
            }
            DnsMethod::SwitchedOff { consequence } => {
                return DnsObserved { method, switched_off: Some(consequence.clone()), ..DnsObserved::default() };
            }
            DnsMethod::HostsFile | DnsMethod::SystemdResolved => {}
        }
        let unread = |error: io::Error| (Vec::new(), Some(format!("the hook cannot be read: {error}")));
        let (names, problem) = match self.live_text() {
            Err(error) => unread(error),
            Ok(live) => {
                let names = self.live_names(&live, desired);
                match self.verify(&live, names.first()).await {
                    None => (names, None),
                    problem => (Vec::new(), problem),
                }
            }
        };
        DnsObserved { method, names, problem, switched_off: None }
    }

    fn live_names(&self, live: &str, desired: &DnsDesired) -> Vec<String> {
        match &self.method {
            DnsMethod::HostsFile => live.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect(),
            // The hook is for the whole domain; which names it has, the responder is told with the routes.
            DnsMethod::SystemdResolved if !live.is_empty() => desired.names.clone(),
            DnsMethod::SystemdResolved | DnsMethod::None { .. } | DnsMethod::SwitchedOff { .. } => Vec::new(),
        }
    }

    /// Asks the machine itself, now and then, whether a name leads to loopback.
    async fn verify(&self, live: &str, name: Option<&String>) -> Option<String> {
        let name = name.filter(|_| self.paths.is_system())?;
        let digest = wire::sha256_hex(live.as_bytes());
        {
            let verified = self.verified.lock().unwrap_or_else(|e| e.into_inner());
            if let Some((of, at, problem)) = &*verified
                && *of == digest
                && problem.is_none()
                && at.elapsed() < VERIFIED_FOR
            {
                return None;
            }
        }
        let problem = match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name.as_str(), 80))).await {
            Ok(Ok(addresses)) => {
                let local = addresses.into_iter().any(|address| address.ip().is_loopback());
                (!local).then(|| format!("{name} resolves, but not to this machine"))
            }
            Ok(Err(error)) => {
                Some(format!("{name} does not resolve: {error}; check the `hosts:` line of /etc/nsswitch.conf"))
            }
            Err(_) => Some(format!("{name} did not resolve within {} s", RESOLVE_TIMEOUT.as_secs())),
        };
        *self.verified.lock().unwrap_or_else(|e| e.into_inner()) = Some((digest, Instant::now(), problem.clone()));
        problem
    }

    async fn write(&self, text: &str) -> Result<(), DriverError> {
        match &self.method {
            DnsMethod::None { .. } | DnsMethod::SwitchedOff { .. } => Ok(()),
            DnsMethod::HostsFile => replace_block(&self.paths.hosts(), &self.markers(), text)
                .map_err(|e| failed("rewrite", &self.paths.hosts(), e)),
            DnsMethod::SystemdResolved => {
                let path = self.drop_in();
                let written = if text.is_empty() { remove_if_there(&path) } else { write_new(&path, text) };
                written.map_err(|e| failed("write", &path, e))?;
                if self.paths.is_system() { reload_resolved().await } else { Ok(()) }
            }
        }
    }
}

impl Config for DnsDriver {
    type Desired = DnsDesired;

    fn name(&self) -> &'static str {
        "dns"
    }

    async fn live_digest(&self) -> Option<String> {
        self.live_text().ok().map(|text| wire::sha256_hex(text.as_bytes()))
    }

    async fn apply(&self, desired: &DnsDesired) -> Result<String, DriverError> {
        self.write(&self.render(desired)).await?;
        Ok(self.desired_digest(desired))
    }

    async fn remove(&self) -> Result<(), DriverError> {
        remove_hooks(&self.paths, &self.owner).await
    }
}

/// Takes away whatever an agent with this data directory ever hooked, by any method.
pub async fn remove_hooks(paths: &DnsPaths, owner: &str) -> Result<(), DriverError> {
    let path = drop_in(paths, owner);
    if path.exists() {
        remove_if_there(&path).map_err(|e| failed("remove", &path, e))?;
        if paths.is_system() {
            reload_resolved().await?;
        }
    }
    let hosts = paths.hosts();
    let markers = Markers::of(owner);
    let text = read_or_empty(&hosts).map_err(|e| failed("read", &hosts, e))?;
    if text.contains(&markers.begin) {
        replace_block(&hosts, &markers, "").map_err(|e| failed("rewrite", &hosts, e))?;
    }
    Ok(())
}

fn detect(paths: &DnsPaths, privileged: bool) -> DnsMethod {
    if !privileged {
        return DnsMethod::None {
            reason: "the agent does not run as root, so it cannot make internal names resolve; \
                     SERVICE_<NAME>_URL points to a port on loopback instead"
                .into(),
        };
    }
    let resolv_conf = fs::read_to_string(paths.resolv_conf()).unwrap_or_default();
    let asks_resolved = resolv_conf.lines().any(|line| line.trim() == "nameserver 127.0.0.53");
    if asks_resolved && paths.resolved_running().exists() && !has_global_servers(paths) {
        DnsMethod::SystemdResolved
    } else {
        DnsMethod::HostsFile
    }
}

fn has_global_servers(paths: &DnsPaths) -> bool {
    let mut files = vec![paths.resolved_conf()];
    if let Ok(entries) = fs::read_dir(paths.resolved_drop_ins()) {
        let names = entries.flatten().map(|e| e.path());
        files.extend(names.filter(|p| !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("mainstay"))));
    }
    let names_one = |text: String| {
        text.lines().any(|line| line.trim().strip_prefix("DNS=").is_some_and(|servers| !servers.trim().is_empty()))
    };
    files.into_iter().filter_map(|path| fs::read_to_string(path).ok()).any(names_one)
}

fn drop_in(paths: &DnsPaths, owner: &str) -> PathBuf {
    let file = if owner == "/var/lib/mainstay/agent" {
        "mainstay.conf".to_owned()
    } else {
        format!("mainstay-{}.conf", &wire::sha256_hex(owner.as_bytes())[..8])
    };
    paths.resolved_drop_ins().join(file)
}

async fn reload_resolved() -> Result<(), DriverError> {
    let mut command = tokio::process::Command::new("systemctl");
    command.args(["reload-or-restart", "systemd-resolved.service"]).kill_on_drop(true);
    match tokio::time::timeout(RELOAD_TIMEOUT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(DriverError::temporary(format!(
            "`systemctl reload-or-restart systemd-resolved` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        Ok(Err(error)) => Err(DriverError::temporary(format!("`systemctl` could not be run: {error}"))),
        Err(_) => Err(DriverError::temporary("systemd-resolved did not reload in time")),
    }
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    replace_file(path, content)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> DriverError {
    DriverError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, DnsPaths) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc")).unwrap();
        for (path, content) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let paths = DnsPaths::under(directory.path());
        (directory, paths)
    }

    fn desired(names: &[&str]) -> DnsDesired {
        let names = names.iter().map(|n| format!("{n}.svc.internal")).collect();
        DnsDesired { names, domain: "svc.internal".into(), responder_port: 5353 }
    }

    fn driver(paths: &DnsPaths) -> DnsDriver {
        DnsDriver::new(paths.clone(), Path::new("/data/agent"), true)
    }

    #[tokio::test]
    async fn the_hosts_block_comes_and_goes_and_every_foreign_byte_stays() {
        let foreign = "127.0.0.1 localhost\n\n# mine\n10.0.0.1 db # BEGIN mainstay\n";
        let (_directory, paths) = root(&[("etc/hosts", foreign)]);
        fs::set_permissions(paths.hosts(), fs::Permissions::from_mode(0o640)).unwrap();
        let driver = driver(&paths);
        assert_eq!(driver.method(), &DnsMethod::HostsFile);

        let wanted = desired(&["api", "web"]);
        driver.apply(&wanted).await.unwrap();
        let text = fs::read_to_string(paths.hosts()).unwrap();
        assert!(text.starts_with(foreign) && text.contains("\n127.0.0.1 web.svc.internal\n"), "{text}");
        assert_eq!(driver.live_digest().await, Some(driver.desired_digest(&wanted)));
        assert_eq!(driver.observe(&wanted).await.names, wanted.names);

        driver.apply(&desired(&["web"])).await.unwrap();
        assert!(!fs::read_to_string(paths.hosts()).unwrap().contains("api.svc.internal"));
        assert_ne!(driver.live_digest().await, Some(driver.desired_digest(&wanted)));

        driver.remove().await.unwrap();
        assert_eq!(fs::read_to_string(paths.hosts()).unwrap(), foreign);
        assert_eq!(fs::metadata(paths.hosts()).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(driver.live_digest().await, Some(driver.desired_digest(&desired(&[]))));
    }

    #[tokio::test]
    async fn a_hosts_file_without_final_newline_and_one_of_another_agent_are_respected() {
        let other = "# BEGIN mainstay /tmp\n127.0.0.1 x.svc.internal\n# END mainstay /tmp\n127.0.0.1 localhost";
        let (_directory, paths) = root(&[("etc/hosts", other)]);
        let driver = driver(&paths);
        driver.apply(&desired(&["web"])).await.unwrap();
        let text = fs::read_to_string(paths.hosts()).unwrap();
        assert!(text.starts_with(other), "{text}");
        driver.remove().await.unwrap();
        assert_eq!(fs::read_to_string(paths.hosts()).unwrap(), format!("{other}\n"));
    }

    #[tokio::test]
    async fn the_block_of_an_agent_that_is_gone_is_swept_away() {
        let alive = tempfile::tempdir().unwrap();
        let block =
            |owner: &str| format!("# BEGIN mainstay {owner}\n127.0.0.1 x.svc.internal\n# END mainstay {owner}\n");
        let kept = block(&alive.path().display().to_string());
        let hosts = format!("127.0.0.1 localhost\n{}{kept}", block("/nonexistent/agent"));
        let (_directory, paths) = root(&[("etc/hosts", &hosts)]);
        driver(&paths).apply(&desired(&["web"])).await.unwrap();
        let text = fs::read_to_string(paths.hosts()).unwrap();
        assert!(text.starts_with(&format!("127.0.0.1 localhost\n{kept}# BEGIN mainstay /data/agent\n")), "{text}");
    }

    #[tokio::test]
    async fn resolved_gets_a_drop_in_for_our_domain_only_and_loses_it_again() {
        let files = [
            ("etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0\n"),
            ("run/systemd/resolve/stub-resolv.conf", ""),
            ("etc/systemd/resolved.conf", "[Resolve]\n#DNS=1.1.1.1\n"),
            ("etc/hosts", "127.0.0.1 localhost\n"),
        ];
        let (directory, paths) = root(&files);
        let driver = driver(&paths);
        assert_eq!(driver.method(), &DnsMethod::SystemdResolved);
        driver.apply(&desired(&["web"])).await.unwrap();
        let text = fs::read_to_string(driver.drop_in()).unwrap();
        assert!(text.contains("DNS=127.0.0.1:5353\nDomains=~svc.internal\n"), "{text}");
        assert_eq!(driver.live_digest().await, Some(driver.desired_digest(&desired(&["web"]))));
        remove_hooks(&paths, "/data/agent").await.unwrap();
        assert!(!driver.drop_in().exists());
        drop(directory);
    }

    #[test]
    fn global_servers_of_resolved_are_not_mixed_with_ours() {
        let files = [
            ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
            ("run/systemd/resolve/stub-resolv.conf", ""),
            ("etc/systemd/resolved.conf.d/company.conf", "[Resolve]\nDNS=10.0.0.53\n"),
        ];
        let (_directory, paths) = root(&files);
        assert_eq!(driver(&paths).method(), &DnsMethod::HostsFile);
    }

    #[tokio::test]
    async fn without_root_nothing_is_touched_and_the_reason_is_given() {
        let (_directory, paths) = root(&[("etc/hosts", "127.0.0.1 localhost\n")]);
        let driver = DnsDriver::new(paths.clone(), Path::new("/data/agent"), false);
        let wanted = desired(&["web"]);
        driver.apply(&wanted).await.unwrap();
        assert_eq!(fs::read_to_string(paths.hosts()).unwrap(), "127.0.0.1 localhost\n");
        assert_eq!(driver.live_digest().await, Some(driver.desired_digest(&wanted)), "nothing is left to do");
        let observed = driver.observe(&wanted).await;
        assert_eq!(observed.method, "none");
        assert!(observed.problem.unwrap().contains("SERVICE_<NAME>_URL"));
    }
}
