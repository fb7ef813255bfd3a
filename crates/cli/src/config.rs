//! `config.json`: the control planes that this user has signed in to, with their tokens.

use crate::{paths, private_file};
use api::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Config {
    /// Address used when none is named.
    #[serde(default)]
    pub default: Option<String>,
    #[serde(default)]
    pub servers: BTreeMap<String, KnownServer>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct KnownServer {
    pub token: Secret,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}; mend or remove it and sign in again with `mainstay login`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is not in the form that this version writes: {source}; remove it and sign in again with `mainstay login`"
    )]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error(
        "cannot write {path}: {source}; check the folder's owner, or set XDG_CONFIG_HOME to one that can be written"
    )]
    Write { path: PathBuf, source: std::io::Error },
    #[error("there is no home directory to keep the token in; set HOME or XDG_CONFIG_HOME, or pass --token each time")]
    NoHome,
}

impl Config {
    pub fn load() -> Result<Self, ConfigError> {
        let Some(path) = paths::config_file() else { return Ok(Self::default()) };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        serde_json::from_slice(&text).map_err(|source| ConfigError::Parse { path, source })
    }

    pub fn save(&self) -> Result<PathBuf, ConfigError> {
        let path = paths::config_file().ok_or(ConfigError::NoHome)?;
        let text = serde_json::to_vec_pretty(self).expect("a config serializes to JSON");
        private_file::write(&path, &text).map_err(|source| ConfigError::Write { path: path.clone(), source })?;
        Ok(path)
    }

    pub fn token(&self, address: &str) -> Option<Secret> {
        self.servers.get(address).map(|server| server.token.clone())
    }

    pub fn remember(&mut self, address: &str, token: Secret) {
        self.servers.insert(address.to_owned(), KnownServer { token });
    }
}
