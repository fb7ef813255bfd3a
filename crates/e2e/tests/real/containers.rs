//! Images from a real registry, run by a real Podman, each test in a network of its own.

#[path = "../../../agent/tests/workloads/engine_lab.rs"]
mod engine_lab;

use crate::{Load, Machine, get};
use e2e::{eventually, skip};
use engine_lab::{Engine, image_archive, is_possible};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const REGISTRY: &str = "127.0.0.1:5000";
const LIMIT: Duration = Duration::from_secs(30);
/// A web server that ends when it is told to, which busybox's own does not as the first process.
const SERVE: &str = "/bin/busybox httpd -p 8080 -h /www; trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

/// Engine, registry and machine in one network.
struct Lab {
    // Ends before the engine, whose network it is in.
    machine: Machine,
    registry: Child,
    engine: Engine,
    place: tempfile::TempDir,
}

impl Lab {
    /// In the network of the thread that asks.
    fn start() -> Self {
        let place = tempfile::Builder::new().prefix("mainstay-lab-").tempdir().unwrap();
        let engine = Engine::start(place.path());
        engine.namespace.enter();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
            place.path().join("registry").display()
        );
        std::fs::write(place.path().join("registry.yml"), config).unwrap();
        let mut registry = Command::new("docker-registry");
        registry.arg("serve").arg(place.path().join("registry.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = registry.spawn().unwrap();
        let lab = Self { machine: Machine::new().unwrap(), registry, engine, place };
        for version in ["v1", "v2"] {
            lab.push(version);
        }
        lab
    }

    fn push(&self, version: &str) {
        let name = format!("localhost/web:{version}");
        let config = serde_json::json!({ "ExposedPorts": { "8080/tcp": {} }, "Cmd": ["/bin/sh", "-c", SERVE] });
        self.engine.load(&image_archive(self.place.path(), &name, &format!("version {version}\n"), config));
        let there = format!("{REGISTRY}/team/web:{version}");
        let arguments = ["push", "--quiet", "--tls-verify=false", &name, &there];
        let mut tries = 0;
        while !self.engine.podman(&arguments).output().unwrap().status.success() {
            tries += 1;
            assert!(tries < 50, "the registry takes no image");
            std::thread::sleep(Duration::from_millis(100));
        }
        self.engine.say(&["rmi", "--force", &name]);
    }

    /// A stack in a folder, which need not be a repository.
    fn stack(&self, manifest: &str) -> PathBuf {
        let folder = self.machine.folder().join("stack");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("mainstay.toml"), format!("name = \"shop\"\n{manifest}")).unwrap();
        folder
    }

    fn web(&self, version: &str, health: &str) -> PathBuf {
        self.stack(&format!(
            "[services.web]\nimage = \"{REGISTRY}/team/web:{version}\"\nroute = \"/\"\nreplicas = 2\n\
             health = {{ http = \"{health}\", interval = \"500ms\" }}\n\
             [services.web.rollout]\nbake = \"0s\"\nwarm = \"0s\"\nhealthy_within = \"10s\"\n"
        ))
    }

    fn up(&self, folder: &std::path::Path) -> e2e::Answer {
        let socket = self.engine.socket();
        let network = &self.engine.namespace.name;
        let options = ["--container-socket", socket.to_str().unwrap(), "--container-network", network];
        self.machine.up(folder, &options)
    }

    async fn page_is(&self, version: &str) {
        let expected = format!("version {version}");
        eventually(&expected, LIMIT, || async {
            let page = get(&self.machine.gateway_url()).await?;
            (page.trim() == expected).then_some(())
        })
        .await;
    }

    /// Ids of the service's containers that run.
    fn containers(&self) -> Vec<String> {
        let said = self.engine.say(&["ps", "--quiet", "--filter", "label=mainstay.service.name=web"]);
        let mut all: Vec<String> = said.lines().map(str::to_owned).collect();
        all.sort();
        all
    }

    async fn healthy(&self, count: usize) {
        eventually(&format!("{count} healthy instances"), LIMIT, || async {
            let instances = self.machine.status("web")["instances"].clone();
            let healthy = instances.as_array()?.iter().filter(|i| i["observed"]["state"] == "healthy");
            (healthy.count() == count).then_some(())
        })
        .await;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

/// A test whose every connection and process is in the network of its lab.
fn in_a_lab(test: &'static str, story: impl AsyncFnOnce(Lab) + Send + 'static) {
    let missing = is_possible().err().or_else(|| {
        let mut registry = Command::new("docker-registry");
        registry.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        registry.status().is_err().then(|| "docker-registry is not installed".to_owned())
    });
    if let Some(reason) = missing {
        return skip(test, &reason);
    }
    let thread = std::thread::spawn(move || {
        let lab = Lab::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story(lab));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn an_image_is_deployed_updated_under_load_and_kept_running_whatever_happens_to_its_containers() {
    in_a_lab("containers", async |lab| {
        let machine = &lab.machine;
        lab.up(&lab.web("v1", "/")).ok().says("pulling");
        lab.page_is("v1").await;
        lab.healthy(2).await;
        let status = machine.status("web");
        assert!(status["current"]["source_version"].as_str().unwrap().starts_with("sha256:"), "{status:#}");
        assert_eq!(status["current"]["source_subject"], format!("{REGISTRY}/team/web:v1"));
        let stages: Vec<_> = status["deployment"]["stages"].as_array().unwrap().iter().map(|s| &s["stage"]).collect();
        assert!(stages.iter().any(|stage| *stage == "pulling"), "{stages:?}");

        let load = Load::start(&machine.gateway_url(), 4);
        tokio::time::sleep(Duration::from_millis(300)).await;
        machine.run_in(&lab.web("v2", "/"), &["deploy"]).ok();
        lab.page_is("v2").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let report = load.finish().await;
        assert!(report.failures.is_empty(), "{report:#?}");
        assert_eq!(report.bodies.len(), 2, "{report:#?}");

        let unhealthy = machine.run_in(&lab.web("v1", "/missing"), &["deploy"]);
        assert_ne!(unhealthy.code, 0, "{}", unhealthy.all());
        unhealthy.says("404");
        lab.page_is("v2").await;
        let missing = machine.run_in(&lab.web("v9", "/"), &["deploy"]);
        assert_ne!(missing.code, 0, "{}", missing.all());
        missing.says("v9");

        lab.healthy(2).await;
        let before = lab.containers();
        assert_eq!(before.len(), 2, "{before:?}");
        lab.engine.say(&["rm", "--force", "--time", "0", &before[0]]);
        lab.engine.say(&["kill", &before[1]]);
        eventually("both run again", LIMIT, || async {
            let now = lab.containers();
            (now.len() == 2 && now.contains(&before[1]) && !now.contains(&before[0])).then_some(())
        })
        .await;
        lab.healthy(2).await;
        machine.run(&["events"]).ok().says("removed by something other than Mainstay");

        let before = lab.containers();
        let load = Load::start(&machine.gateway_url(), 2);
        machine.pids_of(&["up", "--background"]).into_iter().for_each(e2e::kill);
        tokio::time::sleep(Duration::from_millis(500)).await;
        lab.up(&lab.web("v2", "/")).ok();
        lab.healthy(2).await;
        let report = load.finish().await;
        assert!(report.failures.is_empty(), "{report:#?}");
        assert_eq!(lab.containers(), before, "adopted, and not made anew");
    });
}

#[test]
fn a_container_reaches_other_services_by_name_and_strangers_do_not_at_the_same_address() {
    in_a_lab("names for containers", async |lab| {
        let machine = &lab.machine;
        // busybox finds names by nslookup, but its other programs cannot use them.
        let ask = "u=${SERVICE_WEB_URL#http://}; h=${u%:*}; p=${u##*:}; echo port $p; nslookup $h; \
                   g=$(cat /etc/resolv.conf); g=${g#*nameserver }; g=${g%%[!0-9.]*}; \
                   (printf 'GET / HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n' $h; sleep 1) | nc $g $p; while :; do sleep 1; done";
        let folder = lab.stack(&format!(
            "[services.web]\nimage = \"{REGISTRY}/team/web:v1\"\n\
             [services.ask]\nimage = \"{REGISTRY}/team/web:v1\"\nport = false\n\
             command = [\"/bin/sh\", \"-c\", '''sleep 4; {ask}''']\n"
        ));
        lab.up(&folder).ok();
        let log = eventually("it got an answer by name", LIMIT, || async {
            let log = machine.run(&["logs", "ask"]).stdout;
            (log.contains("version v1") && log.contains("Name:") && log.contains("web.svc.internal")).then_some(log)
        })
        .await;
        let port = log.lines().find_map(|line| line.rsplit_once("port ")?.1.trim().parse::<u16>().ok()).unwrap();
        let network = lab.engine.say(&["network", "inspect", &lab.engine.namespace.name]);
        let network: serde_json::Value = serde_json::from_str(&network).unwrap();
        let gateway = network[0]["subnets"][0]["gateway"].as_str().unwrap();
        // An address such as a visitor has.
        let added = Command::new("ip").args(["address", "add", "192.0.2.7/32", "dev", "lo"]).status().unwrap();
        assert!(added.success());
        let visitor = reqwest::Client::builder().local_address(std::net::IpAddr::from([192, 0, 2, 7])).build().unwrap();
        let ask = visitor.get(format!("http://{gateway}:{port}/")).header("host", "web.svc.internal");
        let answer = ask.timeout(Duration::from_secs(5)).send().await.unwrap();
        assert_eq!(answer.status(), 404, "whoever is not in the containers' network is a stranger there");
    });
}
