//! Why a request did not give an answer, in words that help.

use api::error::{ApiError, ErrorCode};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{value}` is not the address of a control plane: {reason}; write it like http://127.0.0.1:4600")]
    Address { value: String, reason: String },
    #[error(
        "cannot reach the control plane at {url}: {reason}; is it running? start it with `mainstay up` or name another with --server"
    )]
    Unreachable { url: String, reason: String },
    #[error(
        "the control plane at {url} did not answer within {timeout_ms} ms while asked to {action}; try again, and look at its log if it stays silent"
    )]
    TimedOut { url: String, action: String, timeout_ms: u64 },
    /// The control plane's own words.
    #[error("{error}")]
    Api { status: u16, error: Box<ApiError> },
    #[error(
        "what answers at {url} does not speak Mainstay's API ({reason}); is the address right, and is it the same version as this command?"
    )]
    NotMainstay { url: String, reason: String },
}

impl ClientError {
    /// The control plane's error, if it was reached and refused.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api { error, .. } => Some(error),
            _ => None,
        }
    }

    pub fn has_code(&self, code: ErrorCode) -> bool {
        self.api().is_some_and(|error| error.code == code)
    }

    /// Whether the control plane could not be spoken to at all, as opposed to having refused.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }

    /// Whether asking again later could give another answer.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Api { status, .. } => *status >= 500 || *status == 429,
            Self::Address { .. } | Self::NotMainstay { .. } => false,
        }
    }
}

/// The deepest cause in a chain says what really happened (`connection refused`); what lies above it
/// repeats the URL. Operating system errors lose their number.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        deepest = cause.to_string();
        next = cause.source();
    }
    let text = match deepest.find(" (os error ") {
        Some(at) => deepest[..at].to_owned(),
        None => deepest,
    };
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "no reason was given".to_owned(),
    }
}
