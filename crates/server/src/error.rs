//! The one error of all handlers and what a client is told of it.
//!
//! An [`HttpError::Answer`] is already in the words of the API: it was made where the mistake was
//! understood, and is shown as it is. Everything else is ours: it is logged here, once, under the
//! request id, and the client is told that id and nothing more, because the inside of a failure may
//! hold addresses, statements or secrets.
//!
//! The request id is put into the body by [`crate::requests`], which knows it.

use api::error::{ApiError, ErrorCode, ErrorDetail};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What a handler can fail with.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A mistake that the client can understand and mend.
    #[error("{0}")]
    Answer(Box<ApiError>),
    /// Too many tries; good again after some seconds.
    #[error("{answer}")]
    Wait { answer: Box<ApiError>, seconds: u64 },
    /// The database or another part is away for now.
    #[error("unavailable")]
    Unavailable(#[source] anyhow::Error),
    /// Ours.
    #[error("internal")]
    Internal(#[source] anyhow::Error),
}

pub type Result<T> = std::result::Result<T, HttpError>;

impl HttpError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Answer(Box::new(ApiError::new(code, message)))
    }

    /// Adds what to do next.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        if let Self::Answer(answer) | Self::Wait { answer, .. } = &mut self {
            answer.help = Some(help.into());
        }
        self
    }

    pub fn details(mut self, details: Vec<ErrorDetail>) -> Self {
        if let Self::Answer(answer) | Self::Wait { answer, .. } = &mut self {
            answer.details = details;
        }
        self
    }

    /// One field with a value that cannot be used.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let detail =
            ErrorDetail { field: Some(field.into()), line: None, column: None, message: message.clone(), help: None };
        Self::new(ErrorCode::InvalidInput, message).details(vec![detail])
    }

    /// `noun` is as in DESIGN.md; `value` is what the client named.
    pub fn not_found(noun: &str, value: &str) -> Self {
        let shown: String = value.chars().take(80).collect();
        Self::new(ErrorCode::NotFound, format!("there is no {noun} `{}`", shown.escape_debug()))
    }

    /// Whether what was asked for is not there, as opposed to any other mistake.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Answer(answer) if answer.code == ErrorCode::NotFound)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self::Internal(error.into())
    }

    /// The status and the body; what is ours is logged on the way.
    pub fn to_answer(&self) -> (StatusCode, ApiError) {
        match self {
            Self::Answer(answer) | Self::Wait { answer, .. } => (status_of(answer.code), (**answer).clone()),
            Self::Unavailable(source) => {
                tracing::warn!(error = format!("{source:#}"), "a request could not be answered: a part is unavailable");
                let answer =
                    ApiError::new(ErrorCode::Unavailable, "a part that is needed for this is not reachable now")
                        .help("try again in a moment; the control plane's log says which part");
                (StatusCode::SERVICE_UNAVAILABLE, answer)
            }
            Self::Internal(source) => {
                tracing::error!(error = format!("{source:#}"), "a request failed inside the control plane");
                let answer = ApiError::new(ErrorCode::Internal, "the control plane failed to answer this request")
                    .help("its log has the details under the request id");
                (StatusCode::INTERNAL_SERVER_ERROR, answer)
            }
        }
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidInput | ErrorCode::InvalidManifest => StatusCode::BAD_REQUEST,
        ErrorCode::SourceUnavailable => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Unauthenticated | ErrorCode::SignatureRefused => StatusCode::UNAUTHORIZED,
        ErrorCode::TokenUsed | ErrorCode::TokenExpired | ErrorCode::TokenUnknown => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::StalePlan | ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal | ErrorCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let (status, answer) = self.to_answer();
        let mut response = (status, Json(&answer)).into_response();
        if let Self::Wait { seconds, .. } = self {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the request layer, which adds the id to the body.
        response.extensions_mut().insert(answer);
        response
    }
}

impl From<store::Error> for HttpError {
    fn from(error: store::Error) -> Self {
        crate::store_error::to_http(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_ours_tells_the_client_nothing_of_its_inside() {
        let error = HttpError::Internal(anyhow::anyhow!("password=hunter2 at 10.0.0.1"));
        let (status, answer) = error.to_answer();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        let text = serde_json::to_string(&answer).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("10.0.0.1"), "{text}");
    }

    #[test]
    fn what_a_client_named_is_shown_shortened_and_escaped() {
        let (_, answer) = HttpError::not_found("stack", &format!("a\n{}", "x".repeat(500))).to_answer();
        assert!(answer.message.len() < 120 && !answer.message.contains('\n'), "{}", answer.message);
    }
}
