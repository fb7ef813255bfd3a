//! A container engine of its own for a test: Podman with its storage in a temporary folder, in a network namespace of its
//! own, so that nothing of the machine is touched and tests run beside each other. And images made from nothing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Which programs the tests need, and root.
pub fn is_possible() -> Result<(), String> {
    for name in ["podman", "runc", "nsenter", "ip", "busybox"] {
        if program(name).is_none() {
            return Err(format!("{name} is not installed"));
        }
    }
    let status = Command::new("unshare").args(["--net", "true"]).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err("network namespaces cannot be made here (that needs root)".into());
    }
    Ok(())
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A network namespace, gone with the value.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ms-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        run(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]));
        Self { name }
    }

    /// From here on, this thread and what it starts are inside of it.
    #[allow(dead_code, reason = "not every test that includes this file has to")]
    pub fn enter(&self) {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
    }

    /// A command inside of it. Not by `ip netns exec`, which hides the control groups.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// Podman's API in a namespace.
pub struct Engine {
    place: PathBuf,
    pub namespace: Namespace,
    service: Option<Child>,
}

impl Engine {
    pub fn start(place: &Path) -> Self {
        let mut engine = Self { place: place.join("engine"), namespace: Namespace::new(), service: None };
        for name in ["root", "run", "tmp", "net", "conf"] {
            std::fs::create_dir_all(engine.place.join(name)).unwrap();
        }
        // crun refuses machines that have both versions of control groups; runc does not.
        let conf = "[engine]\nruntime = \"runc\"\n[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        std::fs::write(engine.place.join("conf/containers.conf"), conf).unwrap();
        // Of its own namespace.
        let registries = "[[registry]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n";
        std::fs::write(engine.place.join("conf/registries.conf"), registries).unwrap();
        engine.start_service();
        engine
    }

    pub fn socket(&self) -> PathBuf {
        self.place.join("podman.sock")
    }

    pub fn start_service(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let mut command = self.podman(&["system", "service", "--time", "0"]);
        command.arg(format!("unix://{}", self.socket().display()));
        let log = std::fs::File::create(self.place.join("service.log")).unwrap();
        self.service = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let log = || std::fs::read_to_string(self.place.join("service.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "Podman's API did not start: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The engine's API ends; its containers stay.
    pub fn stop_service(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
        let _ = std::fs::remove_file(self.socket());
    }

    pub fn podman(&self, arguments: &[&str]) -> Command {
        let at = |name: &str| self.place.join(name);
        let mut command = self.namespace.command("podman");
        command
            .env("CONTAINERS_CONF", at("conf/containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", at("conf/registries.conf"))
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("TMPDIR", at("tmp"))
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .arg("--tmpdir")
            .arg(at("tmp"))
            .arg("--network-config-dir")
            .arg(at("net"))
            .args(["--network-backend", "netavark", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "file", "--storage-driver", "overlay"])
            .args(arguments);
        command
    }

    /// What Podman printed.
    pub fn say(&self, arguments: &[&str]) -> String {
        let output = self.podman(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn load(&self, archive: &Path) {
        self.say(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.podman(&["rm", "--all", "--force", "--time", "0"]).output();
        self.stop_service();
        // What Podman leaves of a health check for some minutes.
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&*self.place.to_string_lossy()) {
                let pid = entry.file_name();
                let _ = Command::new("kill").arg("-KILL").arg(pid).stderr(Stdio::null()).status();
            }
        }
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let ours: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for mount in ours.iter().rev().filter(|mount| Path::new(mount).starts_with(&self.place)) {
            let _ = Command::new("umount").args(["--lazy", mount]).status();
        }
    }
}

/// An image from nothing but busybox, as an archive to be loaded. `config` is merged into the image's configuration.
pub fn image_archive(place: &Path, name: &str, page: &str, config: serde_json::Value) -> PathBuf {
    let work = tempfile::Builder::new().prefix("image-").tempdir_in(place).unwrap();
    let root = work.path().join("root");
    for folder in ["bin", "www", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy(program("busybox").unwrap(), root.join("bin/busybox")).unwrap();
    for applet in ["sh", "httpd", "sleep", "cat", "echo", "ls", "env", "id", "nslookup", "nc", "touch", "ip"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("www/index.html"), page).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n").unwrap();
    tar(&root, &work.path().join("layer.tar"));
    let digest = wire::sha256_hex(&std::fs::read(work.path().join("layer.tar")).unwrap());
    let description = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    std::fs::write(work.path().join("config.json"), description.to_string()).unwrap();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    std::fs::write(work.path().join("manifest.json"), manifest.to_string()).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    let archive = place.join(format!("{}.tar", name.replace(['/', ':'], "-")));
    tar(work.path(), &archive);
    archive
}

fn tar(folder: &Path, archive: &Path) {
    let names: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
    run(Command::new("tar").arg("--create").arg("--file").arg(archive).arg("--directory").arg(folder).args(names));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
