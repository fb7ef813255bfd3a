//! What the engine answers, as far as it is used. Every field may be missing: versions differ, and nothing of it is
//! worth failing for.

use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Version {
    pub version: String,
    pub api_version: String,
    pub components: Vec<Component>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Component {
    pub name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    pub runtimes: Option<BTreeMap<String, RuntimePath>>,
    pub default_runtime: Option<String>,
    pub security_options: Option<Vec<String>>,
    pub memory_limit: bool,
    pub cpu_cfs_quota: bool,
    pub pids_limit: bool,
    pub rootless: bool,
    pub docker_root_dir: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimePath {
    pub path: String,
}

/// One of the list of containers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSummary {
    pub id: String,
    pub state: String,
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerInspect {
    pub id: String,
    pub state: ContainerState,
    pub config: ContainerConfig,
    pub log_path: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    pub status: String,
    pub running: bool,
    pub paused: bool,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    pub pid: u32,
    pub exit_code: i32,
    pub error: String,
    pub started_at: String,
    pub finished_at: String,
}

/// Of a container or an image.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    pub labels: Option<BTreeMap<String, String>>,
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub user: Option<String>,
    pub stop_signal: Option<String>,
    pub healthcheck: Option<Healthcheck>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    pub test: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageInspect {
    pub id: String,
    pub repo_tags: Option<Vec<String>>,
    pub repo_digests: Option<Vec<String>>,
    pub config: Option<ContainerConfig>,
    /// Here in Podman's own answer.
    pub healthcheck: Option<Healthcheck>,
    pub size: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkInspect {
    pub id: String,
    pub driver: String,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ipam {
    pub config: Option<Vec<IpamConfig>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    pub subnet: Option<String>,
    pub gateway: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeInspect {
    pub name: String,
    pub created_at: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
    pub mountpoint: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Created {
    pub id: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecInspect {
    pub exit_code: Option<i32>,
    pub pid: u32,
}

/// One line of the events.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EngineEvent {
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    pub attributes: Option<BTreeMap<String, String>>,
}

/// One line of a pull.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PullProgress {
    pub status: Option<String>,
    pub id: Option<String>,
    #[serde(rename = "progressDetail")]
    pub detail: Option<PullDetail>,
    pub error: Option<String>,
    /// Podman's own words beside Docker's.
    pub stream: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PullDetail {
    pub current: Option<u64>,
    pub total: Option<u64>,
}

/// `2026-12-01T11:47:40.781083566Z` in milliseconds; `None` for the year 1, which engines write for "never".
pub fn millis(text: &str) -> Option<api::UnixMillis> {
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(at.as_millisecond()).filter(|at| *at > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_never_was_is_none() {
        assert_eq!(millis("0001-01-01T00:00:00Z"), None);
        assert_eq!(millis("2026-12-01T11:47:40.781083566Z"), Some(1_796_125_660_781));
        assert_eq!(millis("2026-12-01T12:47:40.5+01:00"), Some(1_796_125_660_500));
    }

    #[test]
    fn an_answer_of_another_version_is_read_as_far_as_it_goes() {
        let seen: ContainerInspect = serde_json::from_str(
            r#"{"Id":"a","State":{"Status":"running","Running":true,"Pid":7},"Config":{"Labels":null}}"#,
        )
        .unwrap();
        assert!(seen.state.running && seen.config.labels.is_none() && seen.state.pid == 7);
    }
}
