use api::plans::{DefaultSource, StackSpec};
use api::services::{HealthCheck, PortSpec, RunSpec};

pub fn source() -> DefaultSource {
    DefaultSource {
        git: "https://example.com/shop.git".parse().unwrap(),
        reference: Some("main".parse().unwrap()),
        directory: String::new(),
    }
}

fn parse(text: &str) -> StackSpec {
    manifest::parse(text, Some(&source())).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn five_lines_describe_a_service_and_everything_else_has_a_default() {
    let stack =
        parse("name = \"shop\"\n[services.web]\nrun = \"node server.js\"\nroute = \"/\"\nhealth = \"/healthz\"\n");
    assert_eq!(stack.name.as_str(), "shop");
    let web = &stack.services[&"web".parse().unwrap()];
    assert_eq!(web.source.git().unwrap().git.as_str(), "https://example.com/shop.git");
    assert_eq!(web.source.git().unwrap().reference.as_ref().unwrap().as_str(), "main");
    assert_eq!(web.port, PortSpec::Injected);
    assert_eq!(web.health.check, HealthCheck::Http { path: "/healthz".into() });
    assert_eq!(web.routes[0].label(), "*/");
    assert_eq!((web.rollout.bake_ms, web.stop.grace_ms, web.replicas), (30_000, 10_000, None));
}

#[test]
fn every_field_reaches_the_service() {
    let text = r#"
name = "shop"
project = "storefront"

[services.web]
git = "ssh://git@example.com/team/web.git"
tag = "v1.2"
directory = "./apps/web/"
submodules = true
credential = "deploy-key"
build = { command = "npm ci", timeout = "20m", memory = "2G", cpu = 2, pids = 500, cache = ["node_modules", ".cache/x"] }
run = "node server.js"
port = 3000
replicas = 1
route = ["shop.example.com", { host = "Example.com", path = "/shop/", strip_prefix = true, tls = "optional" }]
health = { http = "/ok", interval = "2s", timeout = "500ms", healthy_after = 2, unhealthy_after = 4, start_grace = "1m30s" }
memory = "512M"
cpu = 0.5
pids = 200

[services.web.env]
TEXT = "x"
NUMBER = 3
FLAG = true

[services.web.rollout]
bake = "10s"
warm = "1h"
drain = "5s"
healthy_within = "3m"

[services.web.stop]
grace = "3s"

[services.web.restart]
backoff = "1s"
backoff_limit = "30s"
crash_loop_after = 7
crash_loop_window = "2m"
"#;
    let stack = parse(text);
    let web = serde_json::to_value(&stack.services[&"web".parse().unwrap()]).unwrap();
    let expected = serde_json::json!({
        "name": "web",
        "source": {"git": "ssh://git@example.com/team/web.git", "reference": "v1.2", "directory": "apps/web", "credential": "deploy-key", "submodules": true},
        "build": {"command": "npm ci", "timeout_ms": 1_200_000, "limits": {"memory_bytes": 2_147_483_648u64, "cpu_millis": 2000, "pids": 500}, "cache": ["node_modules", ".cache/x"]},
        "run": {"kind": "command", "command": "node server.js"},
        "env": {"FLAG": "true", "NUMBER": "3", "TEXT": "x"},
        "port": {"kind": "fixed", "port": 3000},
        "replicas": 1,
        "routes": [
            {"host": "shop.example.com", "path": "/", "strip_prefix": false},
            {"host": "example.com", "path": "/shop", "strip_prefix": true, "tls": "optional"}
        ],
        "health": {"check": {"kind": "http", "path": "/ok"}, "interval_ms": 2000, "timeout_ms": 500, "healthy_after": 2, "unhealthy_after": 4, "start_grace_ms": 90_000},
        "limits": {"memory_bytes": 536_870_912, "cpu_millis": 500, "pids": 200},
        "restart": {"backoff_ms": 1000, "backoff_limit_ms": 30_000, "crash_loop_after": 7, "crash_loop_window_ms": 120_000},
        "stop": {"grace_ms": 3000},
        "rollout": {"healthy_within_ms": 180_000, "drain_ms": 5000, "bake_ms": 10_000, "warm_ms": 3_600_000}
    });
    assert_eq!(web, expected);
    assert_eq!(stack.project.unwrap().as_str(), "storefront");
}

#[test]
fn without_a_health_check_a_port_is_tried_and_a_worker_must_only_live() {
    let stack = parse(
        "name = \"a\"\n[services.web]\nrun = \"x\"\n[services.jobs]\nrun = \"y\"\nport = false\n[services.site]\nstatic = \"public\"",
    );
    let check = |name: &str| stack.services[&name.parse().unwrap()].health.check.clone();
    assert_eq!(check("web"), HealthCheck::Tcp);
    assert_eq!(check("site"), HealthCheck::Tcp);
    assert_eq!(check("jobs"), HealthCheck::Process);
    assert_eq!(stack.services[&"site".parse().unwrap()].run, RunSpec::Static { directory: "public".into() });
}

#[test]
fn a_folder_is_relative_to_the_manifest_without_git_and_to_the_repository_with_it() {
    let below = DefaultSource { directory: "deploy".into(), ..source() };
    let text = "name = \"a\"\n[services.own]\nrun = \"x\"\n[services.up]\nrun = \"x\"\ndirectory = \"../web\"\n[services.other]\nrun = \"x\"\ngit = \"https://h/o.git\"\ndirectory = \"web\"";
    let stack = manifest::parse(text, Some(&below)).unwrap();
    let folder = |name: &str| stack.services[&name.parse().unwrap()].source.git().unwrap().directory.clone();
    assert_eq!((folder("own"), folder("up"), folder("other")), ("deploy".into(), "web".into(), "web".into()));
    let other = &stack.services[&"other".parse().unwrap()].source.git().unwrap();
    assert_eq!(other.reference, None, "the branch of this repository means nothing in another one");
}

#[test]
fn a_branch_without_git_chooses_another_branch_of_the_same_repository() {
    let stack = parse("name = \"a\"\n[services.web]\nrun = \"x\"\nbranch = \"release/2\"");
    let source = stack.services[&"web".parse().unwrap()].source.git().unwrap();
    assert_eq!(
        (source.git.as_str(), source.reference.as_ref().unwrap().as_str()),
        ("https://example.com/shop.git", "release/2")
    );
}

#[test]
fn three_lines_describe_a_container_and_everything_else_can_be_said() {
    let stack = parse("name = \"shop\"\n[services.web]\nimage = \"nginx:1.27\"\nport = 25000\nreplicas = 3");
    let web = &stack.services[&"web".parse().unwrap()];
    assert_eq!(web.run, RunSpec::Container(Default::default()));
    assert_eq!((&web.port, web.machine_port()), (&PortSpec::Fixed { port: 25_000 }, None));
    let stack = parse(
        r#"
name = "shop"
[services.web]
image = "registry.example.com:5000/team/shop@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
pull = "always"
credential = "registry"
entrypoint = ["/entry"]
command = ["serve", "--all"]
user = "1000:1000"
read_only = true
tmpfs = { "/tmp" = "64M" }
volumes = { "/data/" = "data", "/models" = { volume = "models", read_only = true } }
files = { "/etc/app.conf" = "secret" }
capabilities = ["cap_net_bind_service"]
open_files = 4096
isolation = "gvisor"
health = { image = true, interval = "10s" }
memory = "64M"
"#,
    );
    let web = &stack.services[&"web".parse().unwrap()];
    let expected = serde_json::json!({
        "kind": "container",
        "entrypoint": ["/entry"], "command": ["serve", "--all"], "user": "1000:1000", "read_only": true,
        "tmpfs": { "/tmp": 64 << 20 },
        "volumes": { "/data": { "volume": "data", "read_only": false }, "/models": { "volume": "models", "read_only": true } },
        "files": { "/etc/app.conf": "secret" },
        "capabilities": ["NET_BIND_SERVICE"], "open_files": 4096, "isolation": "gvisor",
    });
    assert_eq!(serde_json::to_value(&web.run).unwrap(), expected);
    assert_eq!((&web.health.check, web.health.interval_ms), (&HealthCheck::Image, 10_000));
    assert_eq!(web.limits.memory_bytes, Some(64 << 20));
}
