//! The one shape of an error answer.

use serde::{Deserialize, Serialize};

/// A stable word for programs; the message is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ErrorCode {
    /// A field has a value that cannot be used. 400
    InvalidInput,
    /// The manifest cannot be read; `details` says where. 400
    InvalidManifest,
    /// A repository, branch or tag could not be found or reached. 422
    SourceUnavailable,
    /// No credential, or one that is not good. 401
    Unauthenticated,
    /// A join token that was used already. 403
    TokenUsed,
    /// A join token past its time. 403
    TokenExpired,
    /// A join token nobody made, or revoked. 403
    TokenUnknown,
    /// A signature that does not fit, a clock too far off, or a nonce seen before. 401
    SignatureRefused,
    /// 404
    NotFound,
    /// The plan was made against something that has changed. 409
    StalePlan,
    /// What was asked contradicts what is: a route taken, nothing to roll back to. 409
    Conflict,
    /// 413
    TooLarge,
    /// Too many tries; wait. 429
    TooManyRequests,
    /// The control plane's disk is full, or nearly so. 507
    DiskFull,
    /// Ours; details are in the control plane's log under the request id. 500
    Internal,
    /// The database or another part is not reachable now; try again. 503
    Unavailable,
    /// From a newer control plane.
    #[serde(other)]
    Other,
}

/// One place in the input that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorDetail {
    /// `services.web.port`
    pub field: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// What is wrong with which value.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

/// Body of every answer with a status of 400 or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    #[serde(default)]
    pub details: Vec<ErrorDetail>,
    #[serde(default)]
    pub help: Option<String>,
    #[serde(default)]
    pub request_id: Option<crate::ids::RequestId>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), help: None, request_id: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
