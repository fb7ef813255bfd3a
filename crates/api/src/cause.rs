//! Who or what asked. Every mutation carries its cause into events and audit, so that "why did this
//! restart?" always has an answer.

use crate::ids::{DeploymentId, RequestId};
use serde::{Deserialize, Serialize};

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Actor {
    /// A person in the dashboard.
    User { name: String },
    /// A holder of an API token (the command line, a script).
    Token { name: String },
    /// An agent, reporting.
    Agent { server: String },
    /// Mainstay itself: the rollout engine, a timer, retention.
    System { part: String },
}

impl Actor {
    pub fn system(part: &str) -> Self {
        Self::System { part: part.into() }
    }

    /// Who may be meant by a name: `user admin` and `token cli` say which, `admin` alone is either.
    pub fn people_named(text: &str) -> Vec<Self> {
        let user = |name: &str| Self::User { name: name.into() };
        let token = |name: &str| Self::Token { name: name.into() };
        match text.split_once(' ') {
            Some(("user", name)) => vec![user(name)],
            Some(("token", name)) => vec![token(name)],
            _ => vec![user(text), token(text)],
        }
    }

    /// One short text for a table: `user admin`, `token cli`, `agent web-1`, `system rollout`.
    pub fn label(&self) -> String {
        match self {
            Self::User { name } => format!("user {name}"),
            Self::Token { name } => format!("token {name}"),
            Self::Agent { server } => format!("agent {server}"),
            Self::System { part } => format!("system {part}"),
        }
    }
}

/// What led to something, as far back as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cause {
    pub actor: Actor,
    /// What was asked for, in a few words: `deploy`, `rollback`, `process exited with code 1`.
    pub action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<DeploymentId>,
}

impl Cause {
    pub fn system(part: &str, action: impl Into<String>) -> Self {
        Self { actor: Actor::system(part), action: action.into(), request_id: None, deployment_id: None }
    }
}
