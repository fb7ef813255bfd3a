//! Where the agent keeps what it keeps: one directory, and nothing outside it except the hooks that
//! `drivers::dns` and `install` name.

use std::path::{Path, PathBuf};

/// The agent's data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentDirectory {
    root: PathBuf,
}

impl AgentDirectory {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Who this machine is to the control plane. Holds secrets: mode 0600.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity.json")
    }
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.db")
    }
    /// Held by the one agent that works in this directory.
    pub fn lock(&self) -> PathBuf {
        self.root.join("agent.lock")
    }
    /// Sockets, config and logs of the gateway process.
    pub fn gateway(&self) -> PathBuf {
        self.root.join("gateway")
    }
}
