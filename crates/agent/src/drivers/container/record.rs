//! What is remembered of an instance beside its container: a folder with two files, and the same words as labels.
//!
//! ```text
//! <data>/containers/
//!   instances/<instance>/   spec.json, status.json, log/, log-position.json
//!   pulls/<deployment>/     the log of getting an image
//!   images/<build key>.json which image it is, and whether it was pulled by us
//!   preparations/           <revision>.json: how each preparation ended
//! ```
//!
//! The container carries all that is needed to find it again without the folder: labels for people and other tools, and
//! the spec as one label more. Nothing in it is secret; variables and files are only in the container itself.

use super::keeper::Status;
use crate::drivers::files::{Durability, private_directory, read_json, remove_tree, write_json};
use api::ids::{DeploymentId, InstanceId, RevisionId, ServiceId};
use api::name::Name;
use api::services::RestartSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Whose it is: one agent's data directory.
pub const OWNER_LABEL: &str = "mainstay.owner";
pub const INSTANCE_LABEL: &str = "mainstay.instance.id";
const SPEC_LABEL: &str = "mainstay.spec";

pub const SPEC_FILE: &str = "spec.json";
const STATUS_FILE: &str = "status.json";
pub const LOG_DIRECTORY: &str = "log";

/// Written when an instance is started, and then only by the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub instance_id: InstanceId,
    pub service_id: ServiceId,
    pub service: Name,
    pub revision_id: RevisionId,
    pub deployment_id: DeploymentId,
    pub build_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub address: Ipv4Addr,
    pub restart: RestartSpec,
    /// What the image wants to be told to end; SIGTERM where it says nothing.
    pub stop_signal: String,
    /// The image's own health check, as it is written there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_check: Option<Vec<String>>,
}

impl Spec {
    pub fn container_name(&self) -> String {
        format!("{}-{}-{}", self.service, self.deployment_id.short(), self.instance_id.short())
    }

    pub fn labels(&self, owner: &str) -> BTreeMap<String, String> {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        BTreeMap::from([
            label(OWNER_LABEL, owner),
            label("mainstay.deployment.id", self.deployment_id.as_str()),
            label("mainstay.service.id", self.service_id.as_str()),
            label("mainstay.service.name", self.service.as_str()),
            label(INSTANCE_LABEL, self.instance_id.as_str()),
            label("mainstay.revision.id", self.revision_id.as_str()),
            label(SPEC_LABEL, &serde_json::to_string(self).unwrap_or_default()),
        ])
    }

    pub fn from_labels(labels: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(labels.get(SPEC_LABEL)?).ok()
    }
}

#[derive(Debug, Clone)]
pub struct Folders {
    root: PathBuf,
}

impl Folders {
    pub fn open(data: &Path) -> io::Result<Self> {
        let root = data.join("containers");
        for name in ["instances", "pulls", "images", "preparations"] {
            private_directory(&root.join(name))?;
        }
        Ok(Self { root: root.canonicalize()? })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn engine(&self) -> PathBuf {
        self.root.join("engine.json")
    }
    pub fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }
    pub fn instance(&self, id: &InstanceId) -> PathBuf {
        self.instances().join(id.as_str())
    }
    pub fn log(&self, id: &InstanceId) -> PathBuf {
        self.instance(id).join(LOG_DIRECTORY)
    }
    pub fn pulls(&self) -> PathBuf {
        self.root.join("pulls")
    }
    pub fn pull(&self, id: &DeploymentId) -> PathBuf {
        self.pulls().join(id.as_str())
    }
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }
    pub fn preparations(&self) -> PathBuf {
        self.root.join("preparations")
    }

    /// Every instance with its spec; a folder that cannot be read is left alone and said.
    pub fn load(&self) -> Vec<(Spec, Status)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.instances()).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| name.parse::<InstanceId>().is_err()) {
                continue;
            }
            let spec = read_json::<Spec>(&entry.path().join(SPEC_FILE));
            let status = read_json::<Status>(&entry.path().join(STATUS_FILE));
            match (spec, status) {
                (Ok(Some(spec)), Ok(status)) => found.push((spec, status.unwrap_or_default())),
                (Ok(Some(spec)), Err(_)) => found.push((spec, Status::default())),
                (Ok(None), _) => {}
                (Err(error), _) => {
                    tracing::error!(folder = %entry.path().display(), %error, "an instance cannot be read; its folder is left alone");
                }
            }
        }
        found
    }

    pub fn save_spec(&self, spec: &Spec) -> io::Result<()> {
        let folder = self.instance(&spec.instance_id);
        private_directory(&folder)?;
        write_json(&folder.join(SPEC_FILE), spec, Durability::Synced)
    }

    /// Renamed and not synced: it speaks of containers, and after a power cut none of them runs.
    pub fn save_status(&self, id: &InstanceId, status: &Status) {
        let path = self.instance(id).join(STATUS_FILE);
        if let Err(error) = write_json(&path, status, Durability::Renamed) {
            tracing::warn!(path = %path.display(), %error, "what became of an instance cannot be written down");
        }
    }

    pub fn forget(&self, id: &InstanceId) -> io::Result<()> {
        remove_tree(&self.instance(id))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn spec() -> Spec {
        serde_json::from_value(serde_json::json!({
            "instance_id": format!("ins_{:032x}", 0xabc1_u64), "service_id": format!("svc_{:032x}", 2), "service": "web",
            "revision_id": format!("rev_{:032x}", 3), "deployment_id": format!("dep_{:032x}", 0xdef4_u64),
            "build_key": "aaaaaaaa", "port": 8080, "address": "10.200.1.5", "restart": RestartSpec::default(),
            "stop_signal": "SIGTERM",
        }))
        .unwrap()
    }

    #[test]
    fn a_container_is_found_again_by_its_labels_alone() {
        let labels = spec().labels("0123");
        assert_eq!(Spec::from_labels(&labels), Some(spec()));
        assert_eq!(labels["mainstay.service.name"], "web");
        assert_eq!(labels["mainstay.owner"], "0123");
        assert_eq!(spec().container_name(), "web-0000def4-0000abc1");
    }
}
