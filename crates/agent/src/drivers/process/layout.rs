//! Where everything lies on disk.
//!
//! ```text
//! <data>/
//!   git/                    configuration, known hosts and helper names for git
//!   sources/<service>/      bare mirror, one per service
//!   builds/<build key>/     source/ (checkout and what the build made of it), .ready written last
//!   preparations/           <revision>.json: how each preparation ended
//!   cache/<service>/        folders/<name> kept between builds, home/ of the build
//!   logs/<deployment>/      build logs
//!   instances/<instance>/   spec.json, status.json, control.sock, lock, log/, home/
//!   ports.lock
//! ```
//!
//! Every name in a path is a typed id or was checked by [`build_key`], so none can lead out of here.

use crate::drivers::DriverError;
use crate::drivers::files::{io_error, private_directory};
use api::ids::{DeploymentId, InstanceId, ServiceId};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn open(root: &Path) -> Result<Self, DriverError> {
        let failed = |path: &Path| io_error("create the folder", path);
        std::fs::create_dir_all(root).map_err(failed(root))?;
        // Absolute, because supervisors and builds run in other working directories.
        let root = root.canonicalize().map_err(failed(root))?;
        let layout = Self { root };
        for name in ["sources", "builds", "preparations", "cache", "logs", "instances"] {
            private_directory(&layout.root.join(name)).map_err(failed(&layout.root.join(name)))?;
        }
        Ok(layout)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn git(&self) -> PathBuf {
        self.root.join("git")
    }
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }
    pub fn source(&self, service: &ServiceId) -> PathBuf {
        self.sources().join(service.as_str())
    }
    pub fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }
    pub fn build(&self, key: &BuildKey) -> PathBuf {
        self.builds().join(&key.0)
    }
    pub fn preparations(&self) -> PathBuf {
        self.root.join("preparations")
    }
    pub fn caches(&self) -> PathBuf {
        self.root.join("cache")
    }
    pub fn cache(&self, service: &ServiceId) -> PathBuf {
        self.caches().join(service.as_str())
    }
    pub fn build_logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    pub fn build_log(&self, deployment: &DeploymentId) -> PathBuf {
        self.build_logs().join(deployment.as_str())
    }
    pub fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }
    pub fn instance(&self, instance: &InstanceId) -> PathBuf {
        self.instances().join(instance.as_str())
    }
    pub fn ports_lock(&self) -> PathBuf {
        self.root.join("ports.lock")
    }
}

/// A build key that is safe as the name of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildKey(String);

impl BuildKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

pub fn build_key(text: &str) -> Result<BuildKey, DriverError> {
    let ok = (8..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !ok {
        let shown: String = text.chars().take(80).collect();
        return Err(DriverError::refused(format!(
            "`{shown}` is not a build key (8 to 64 lowercase hexadecimal digits); the control plane and this agent do not agree"
        )));
    }
    Ok(BuildKey(text.to_owned()))
}
