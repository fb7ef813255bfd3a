//! One-time join tokens, API tokens and signing in.

use crate::UnixMillis;
use crate::ids::{StackId, TokenId};
use crate::name::Name;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TokenPurpose {
    /// Lets one machine join, once. Bound to a stack or to a whole project: the server takes only
    /// services of it.
    Join {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<Name>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stack: Option<StackId>,
    },
    /// Lets a program use the API.
    Api,
}

/// `POST /api/v1/tokens`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenRequest {
    pub name: String,
    pub purpose: TokenPurpose,
    /// How long it is good for; `None`: 24 hours for a join token, no end for an API token.
    #[serde(default)]
    pub lifetime_ms: Option<u64>,
}

/// The one time that the token itself is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenCreated {
    pub token: Secret,
    #[serde(flatten)]
    pub view: TokenView,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TokenState {
    Usable,
    Used,
    Expired,
    Revoked,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenView {
    pub id: TokenId,
    pub name: String,
    pub purpose: TokenPurpose,
    pub state: TokenState,
    pub created_at_ms: UnixMillis,
    #[serde(default)]
    pub expires_at_ms: Option<UnixMillis>,
    #[serde(default)]
    pub used_at_ms: Option<UnixMillis>,
}

/// `POST /api/v1/session`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignInRequest {
    pub user: String,
    pub password: Secret,
}

/// `PUT /api/v1/session/password`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PasswordChange {
    pub old: Secret,
    pub new: Secret,
}

/// `GET /api/v1/info`: which control plane this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Info {
    pub version: String,
    pub organization: String,
    /// Who the caller is.
    pub actor: String,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// Whether `file://` repositories on the control plane's machine may be deployed.
    pub local_sources: bool,
    /// Set while the control plane's disk has no room for anything new, with what is so and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_low: Option<String>,
}
