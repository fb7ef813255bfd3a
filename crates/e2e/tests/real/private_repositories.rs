//! Private repositories on real hosts: over SSH with a deploy key, over HTTPS with a token.

use crate::{answering, version_is};
use e2e::{HttpsHost, Machine, Repository, SshHost};

/// A repository that is deployed from its host, by a manifest that lies somewhere else.
struct Scene {
    machine: Machine,
    repository: Repository,
    manifests: Repository,
}

impl Scene {
    fn new() -> Self {
        let machine = Machine::new().unwrap();
        let repository = machine.repository("code").unwrap();
        let manifests = machine.repository("manifests").unwrap();
        let scene = Self { machine, repository, manifests };
        scene.begin();
        scene
    }

    /// With nothing deployed by it.
    fn begin(&self) {
        let listen = format!("127.0.0.1:{}", self.machine.control_port);
        let gateway = self.machine.gateway_port.to_string();
        self.machine.run(&["up", "--detach", "--listen", &listen, "--gateway-port", &gateway]).ok();
    }

    fn commit(&self, version: &str) {
        self.repository.write("version", version).unwrap();
        self.repository.commit(version).unwrap();
    }

    /// The service `web` is what lies at that address; it runs under the version that it finds there.
    fn write_manifest(&self, git: &str, extra: &str) {
        let app = e2e::binary("e2e-app");
        let manifest = format!(
            "name = \"shop\"\n\n[services.web]\ngit = \"{git}\"\nrun = \"exec {} $(cat version)\"\nroute = \"/\"\n\
             health = \"/healthz\"\n{extra}\n",
            app.display()
        );
        self.manifests.write("mainstay.toml", &manifest).unwrap();
        self.manifests.commit("manifest").unwrap();
    }

    fn deploy(&self) -> e2e::Answer {
        self.machine.run_in(&self.manifests.path, &["deploy"])
    }

    fn add_credential(&self, arguments: &[&str]) {
        self.machine.run(&[&["credentials", "add"], arguments].concat()).ok();
    }

    /// What is refused is refused before anything is recorded, and says what to do.
    fn refused(&self, words: &[&str]) {
        let answer = self.deploy();
        assert_ne!(answer.code, 0, "{}", answer.all());
        for words in words {
            answer.says(words);
        }
    }

    /// Nothing that the machine keeps or says holds the secret, but for the database, as its documentation says.
    fn is_nowhere(&self, secret: &str) {
        let mut folders = vec![self.machine.data()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                let is_database = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".db"));
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(bytes) = std::fs::read(&path).ok().filter(|_| !is_database) {
                    let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!found, "{} has it", path.display());
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_repository_is_deployed_over_ssh_with_its_deploy_key() {
    let scene = Scene::new();
    let Some(mut host) = SshHost::start(scene.machine.folder()).unwrap() else {
        return e2e::skip("a real SSH server", "asyncssh is not installed (Debian: apt-get install python3-asyncssh)");
    };
    scene.commit("v1");
    let url = host.url(&scene.repository.path);
    scene.write_manifest(&url, "");
    scene.refused(&["refused access", "mainstay credentials add"]);

    scene.write_manifest(&url, "credential = \"shop\"");
    scene.refused(&["shop", "mainstay credentials add"]);
    scene.add_credential(&["shop", "--deploy-key", &host.key("wrong-key").to_string_lossy()]);
    scene.refused(&["refused access", "the stored credential does not open it"]);
    scene.machine.run(&["credentials", "remove", "shop"]).ok();
    scene.add_credential(&["shop", "--deploy-key", &host.key("deploy-key").to_string_lossy()]);
    scene.deploy().ok();
    assert!(answering(&scene.machine).await.starts_with("version v1 "));

    scene.commit("v2");
    scene.deploy().ok();
    version_is(&scene.machine, "v2").await;
    let key = std::fs::read_to_string(host.key("deploy-key")).unwrap();
    scene.is_nowhere(key.lines().nth(2).unwrap());

    // Another host at the same address is not trusted, and what runs goes on.
    host.begin_with_new_host_key().unwrap();
    scene.commit("v3");
    scene.refused(&["the host key of", "is not the one known before", "known_hosts"]);
    version_is(&scene.machine, "v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_repository_is_deployed_over_https_with_its_token() {
    const TOKEN: &str = "t0ken-that-nobody-else-has";
    let mut scene = Scene::new();
    scene.commit("v1");
    let folder = scene.machine.folder().to_owned();
    let host = HttpsHost::start(&folder, &folder, &format!("ci:{TOKEN}")).unwrap();
    scene.write_manifest(&host.url("code/.git"), "");
    scene.refused(&["certificate", "GIT_SSL_CAINFO"]);

    // As the administrator of such a host does for the services of Mainstay.
    scene.machine.run(&["down"]).ok();
    let trust = ("GIT_SSL_CAINFO", host.certificate().to_string_lossy().into_owned());
    scene.machine.environment.extend([trust]);
    scene.begin();
    scene.refused(&["refused access", "mainstay credentials add"]);

    scene.write_manifest(&host.url("code/.git"), "credential = \"shop\"");
    let token = folder.join("token");
    for (text, works) in [("another", false), (TOKEN, true)] {
        std::fs::write(&token, format!("{text}\n")).unwrap();
        scene.add_credential(&["shop", "--user", "ci", "--git-token-file", &token.to_string_lossy()]);
        if works {
            scene.deploy().ok();
        } else {
            scene.refused(&["refused access", "the stored credential does not open it"]);
            scene.machine.run(&["credentials", "remove", "shop"]).ok();
        }
    }
    assert!(answering(&scene.machine).await.starts_with("version v1 "));
    std::fs::remove_file(token).unwrap();
    scene.is_nowhere(TOKEN);

    // A host that is away changes nothing of what runs.
    drop(host);
    scene.commit("v2");
    scene.refused(&["cannot be reached"]);
    version_is(&scene.machine, "v1").await;
}
