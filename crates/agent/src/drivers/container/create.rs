//! The request that creates a container: pure, from what is desired and what the image says.
//!
//! What is fixed, whatever the manifest says: no published port, no restart policy of the engine's, no capability that
//! was not named, no new privileges, no health check run by the engine (Podman leaves them to systemd timers), and a log
//! as a file of bounded size that we copy from.

use super::record::Spec;
use api::images::{ContainerSpec, Isolation};
use api::secret::Secret;
use api::services::Limits;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The engine's own log of a container: only a buffer, while the agent is away.
const ENGINE_LOG_SIZE: &str = "16m";
/// The OCI runtime that is gVisor.
pub const GVISOR: &str = "runsc";

/// All that decides about a container.
#[derive(Debug, Clone)]
pub struct Creation<'a> {
    pub spec: &'a Spec,
    pub owner: &'a str,
    pub container: &'a ContainerSpec,
    pub limits: &'a Limits,
    /// All variables.
    pub env: BTreeMap<String, String>,
    /// What the engine knows the image by.
    pub image: &'a str,
    /// Secret files on the machine by their path in the container.
    pub files: BTreeMap<String, PathBuf>,
    /// Names of the engine's volumes by the path in the container.
    pub volumes: BTreeMap<String, (String, bool)>,
    pub network: &'a str,
    /// Its name server; `None`: as the engine does it.
    pub dns: Option<Ipv4Addr>,
    pub docker: bool,
    /// Most open files and processes that this agent may give, if it may not give any number.
    pub ceilings: Option<Ceilings>,
}

/// Limits of the agent's own process that what it starts cannot exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    pub open_files: u64,
    pub processes: u64,
}

impl Ceilings {
    /// An engine asks for a million of each, which is refused where the right to raise limits (CAP_SYS_RESOURCE) is
    /// missing: inside of some other container. Then what can be had is asked for.
    pub fn of_this_process() -> Option<Self> {
        const CAP_SYS_RESOURCE: u64 = 1 << 24;
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        if u64::from_str_radix(bounding.trim(), 16).ok()? & CAP_SYS_RESOURCE != 0 {
            return None;
        }
        let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
        let hard = |name: &str| -> Option<u64> {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        // Podman gives itself no more processes than there can be ids.
        let ids = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
        let processes = hard("Max processes").unwrap_or(u64::MAX).min(ids);
        Some(Self { open_files: hard("Max open files")?, processes })
    }
}

/// `02:42:0a:c8:01:05` for 10.200.1.5: an address that is given again keeps its MAC, and neighbours need not forget it.
pub fn mac_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The body of `POST /containers/create`.
pub fn request(creation: &Creation<'_>) -> Value {
    let Creation { spec, container, .. } = creation;
    let mac = mac_of(spec.address);
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| _ = body.insert(name.to_owned(), value);
    set("Image", json!(creation.image));
    let env: Vec<String> = creation.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    set("Env", json!(env));
    set("Labels", json!(spec.labels(creation.owner)));
    if let Some(entrypoint) = &container.entrypoint {
        set("Entrypoint", json!(entrypoint));
    }
    if let Some(command) = &container.command {
        set("Cmd", json!(command));
    }
    if let Some(user) = &container.user {
        set("User", json!(user));
    }
    if spec.image_check.is_some() {
        set("Healthcheck", json!({ "Test": ["NONE"] }));
    }
    if creation.docker {
        // Older ones read it here, newer ones below.
        set("MacAddress", json!(mac));
    }
    set("HostConfig", host_config(creation));
    let endpoint = json!({ "IPAMConfig": { "IPv4Address": spec.address.to_string() }, "MacAddress": mac });
    set("NetworkingConfig", json!({ "EndpointsConfig": { creation.network: endpoint } }));
    Value::Object(body)
}

fn host_config(creation: &Creation<'_>) -> Value {
    let Creation { container, limits, .. } = creation;
    let mut host = Map::new();
    let mut set = |name: &str, value: Value| _ = host.insert(name.to_owned(), value);
    set("NetworkMode", json!(creation.network));
    set("RestartPolicy", json!({ "Name": "no" }));
    set("CapDrop", json!(["ALL"]));
    if !container.capabilities.is_empty() {
        set("CapAdd", json!(container.capabilities));
    }
    set("SecurityOpt", json!(["no-new-privileges"]));
    set("ReadonlyRootfs", json!(container.read_only));
    set("LogConfig", log_config(creation.docker));
    let binds = binds(creation);
    if !binds.is_empty() {
        set("Binds", json!(binds));
    }
    if !container.tmpfs.is_empty() {
        let options = |size: &Option<u64>| size.map(|bytes| format!("size={bytes}")).unwrap_or_default();
        let tmpfs: BTreeMap<&String, String> =
            container.tmpfs.iter().map(|(path, size)| (path, options(size))).collect();
        set("Tmpfs", json!(tmpfs));
    }
    if let Some(bytes) = limits.memory_bytes {
        set("Memory", json!(bytes));
        // As much with swap as without: none of it is swapped.
        set("MemorySwap", json!(bytes));
    }
    if let Some(millis) = limits.cpu_millis {
        set("NanoCpus", json!(millis * 1_000_000));
    }
    if let Some(pids) = limits.pids {
        set("PidsLimit", json!(pids));
    }
    let ulimits = ulimits(container.open_files, creation.ceilings);
    if !ulimits.is_empty() {
        set("Ulimits", json!(ulimits));
    }
    if let Some(dns) = creation.dns {
        set("Dns", json!([dns.to_string()]));
    }
    if container.isolation == Isolation::Gvisor {
        set("Runtime", json!(GVISOR));
    }
    Value::Object(host)
}

fn log_config(docker: bool) -> Value {
    let mut config = Map::from_iter([("max-size".to_owned(), json!(ENGINE_LOG_SIZE))]);
    if docker {
        // With one file only, Docker empties it; with two the end is still there to be read.
        config.insert("max-file".into(), json!("2"));
    }
    json!({ "Type": "json-file", "Config": config })
}

fn binds(creation: &Creation<'_>) -> Vec<String> {
    let mode = |read_only: bool| if read_only { ":ro" } else { "" };
    let volumes =
        creation.volumes.iter().map(|(path, (volume, read_only))| format!("{volume}:{path}{}", mode(*read_only)));
    let files = creation.files.iter().map(|(path, source)| format!("{}:{path}:ro", source.display()));
    volumes.chain(files).collect()
}

fn ulimits(open_files: Option<u64>, ceilings: Option<Ceilings>) -> Vec<Value> {
    let limit = |name: &str, value: u64| json!({ "Name": name, "Soft": value, "Hard": value });
    match (open_files, ceilings) {
        (None, None) => Vec::new(),
        (Some(files), None) => vec![limit("nofile", files)],
        (files, Some(most)) => {
            vec![limit("nofile", files.unwrap_or(most.open_files).min(most.open_files)), limit("nproc", most.processes)]
        }
    }
}

/// The variables of a container: what Mainstay says, then what the user set. Everything else is the image's.
pub fn environment(
    spec: &Spec,
    version: &str,
    injected: &BTreeMap<String, Secret>,
    own: &BTreeMap<String, Secret>,
) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    if let Some(port) = spec.port {
        env.insert("PORT".to_owned(), port.to_string());
        env.insert("HOST".to_owned(), "0.0.0.0".to_owned());
    }
    env.insert("MAINSTAY_SERVICE".into(), spec.service.to_string());
    env.insert("MAINSTAY_IMAGE".into(), version.to_owned());
    crate::drivers::process::overlay(&mut env, injected, own)?;
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::spec;
    use super::*;

    fn creation<'a>(spec: &'a Spec, container: &'a ContainerSpec, limits: &'a Limits) -> Creation<'a> {
        Creation {
            spec,
            owner: "0123",
            container,
            limits,
            env: environment(spec, "sha256:00", &BTreeMap::new(), &BTreeMap::from([("A".into(), Secret::new("b"))]))
                .unwrap(),
            image: "docker.io/library/nginx@sha256:00",
            files: BTreeMap::new(),
            volumes: BTreeMap::new(),
            network: "mainstay",
            dns: None,
            docker: false,
            ceilings: None,
        }
    }

    #[test]
    fn the_least_of_a_container_has_no_port_no_capability_and_no_restart_of_the_engines() {
        let spec = spec();
        let mut body = request(&creation(&spec, &ContainerSpec::default(), &Limits::default()));
        assert_eq!(body["Labels"]["mainstay.instance.id"], spec.instance_id.as_str());
        body["Labels"] = Value::Null;
        let expected = json!({
            "Image": "docker.io/library/nginx@sha256:00",
            "Env": ["A=b", "HOST=0.0.0.0", "MAINSTAY_IMAGE=sha256:00", "MAINSTAY_SERVICE=web", "PORT=8080"],
            "Labels": null,
            "HostConfig": {
                "NetworkMode": "mainstay",
                "RestartPolicy": { "Name": "no" },
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "ReadonlyRootfs": false,
                "LogConfig": { "Type": "json-file", "Config": { "max-size": "16m" } },
            },
            "NetworkingConfig": { "EndpointsConfig": { "mainstay": {
                "IPAMConfig": { "IPv4Address": "10.200.1.5" }, "MacAddress": "02:42:0a:c8:01:05",
            } } },
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn all_that_a_manifest_can_say_is_in_the_request() {
        let mut spec = spec();
        spec.image_check = Some(vec!["CMD".into(), "/ok".into()]);
        let container = ContainerSpec {
            entrypoint: Some(vec!["/entry".into()]),
            command: Some(vec!["a".into(), "b c".into()]),
            user: Some("1000:1000".into()),
            read_only: true,
            tmpfs: BTreeMap::from([("/tmp".into(), Some(1024)), ("/run".into(), None)]),
            capabilities: vec!["NET_BIND_SERVICE".into()],
            open_files: Some(4096),
            isolation: Isolation::Gvisor,
            ..ContainerSpec::default()
        };
        let limits = Limits { memory_bytes: Some(64_000_000), cpu_millis: Some(250), pids: Some(40) };
        let body = request(&Creation {
            files: BTreeMap::from([("/etc/key".into(), PathBuf::from("/run/mainstay/x/0"))]),
            volumes: BTreeMap::from([("/data".into(), ("v1".into(), false)), ("/ro".into(), ("v2".into(), true))]),
            dns: Some(Ipv4Addr::new(10, 200, 1, 1)),
            docker: true,
            ceilings: Some(Ceilings { open_files: 1024, processes: 500 }),
            ..creation(&spec, &container, &limits)
        });
        let part = |name: &str| body[name].clone();
        assert_eq!(part("Entrypoint"), json!(["/entry"]));
        assert_eq!(part("Cmd"), json!(["a", "b c"]));
        assert_eq!((part("User"), part("MacAddress")), (json!("1000:1000"), json!("02:42:0a:c8:01:05")));
        assert_eq!(part("Healthcheck"), json!({ "Test": ["NONE"] }));
        let expected = json!({
            "NetworkMode": "mainstay",
            "RestartPolicy": { "Name": "no" },
            "CapDrop": ["ALL"],
            "CapAdd": ["NET_BIND_SERVICE"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": true,
            "LogConfig": { "Type": "json-file", "Config": { "max-size": "16m", "max-file": "2" } },
            "Binds": ["v1:/data", "v2:/ro:ro", "/run/mainstay/x/0:/etc/key:ro"],
            "Tmpfs": { "/tmp": "size=1024", "/run": "" },
            "Memory": 64_000_000, "MemorySwap": 64_000_000, "NanoCpus": 250_000_000, "PidsLimit": 40,
            "Ulimits": [
                { "Name": "nofile", "Soft": 1024, "Hard": 1024 }, { "Name": "nproc", "Soft": 500, "Hard": 500 },
            ],
            "Dns": ["10.200.1.1"],
            "Runtime": "runsc",
        });
        assert_eq!(part("HostConfig"), expected);
    }
}
