//! Extractors whose refusals are API errors: what was wrong with which part of the request.

use crate::error::HttpError;
use api::error::{ErrorCode, ErrorDetail};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::DeserializeOwned;

/// A JSON body. The content type is not insisted on; what it holds is.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = HttpError;
    async fn from_request(request: Request, state: &S) -> Result<Self, HttpError> {
        let bytes = Bytes::from_request(request, state).await.map_err(refuse_body)?;
        parse_json(&bytes).map(Self)
    }
}

/// JSON with the place of the mistake in the error.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let place = |number: usize| u32::try_from(number).ok().filter(|n| *n > 0);
        let detail = ErrorDetail {
            field: None,
            line: place(error.line()),
            column: place(error.column()),
            message: error.to_string(),
            help: None,
        };
        let message = if bytes.is_empty() {
            "the request has no body; a JSON document is expected".into()
        } else {
            format!("the request's body is not the expected JSON: {error}")
        };
        HttpError::new(ErrorCode::InvalidInput, message).details(vec![detail])
    })
}

fn refuse_body(rejection: BytesRejection) -> HttpError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return HttpError::new(ErrorCode::TooLarge, "the request's body is larger than this endpoint takes");
    }
    HttpError::new(ErrorCode::InvalidInput, format!("the request's body cannot be read: {}", rejection.body_text()))
}

/// A query string.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = HttpError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let refuse = |rejection: QueryRejection| {
            HttpError::new(ErrorCode::InvalidInput, format!("the query cannot be used: {}", rejection.body_text()))
        };
        axum::extract::Query::from_request_parts(parts, state).await.map(|query| Self(query.0)).map_err(refuse)
    }
}

/// The variable parts of the path.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = HttpError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let refuse = |rejection: PathRejection| {
            HttpError::new(ErrorCode::InvalidInput, format!("the path cannot be used: {}", rejection.body_text()))
        };
        axum::extract::Path::from_request_parts(parts, state).await.map(|path| Self(path.0)).map_err(refuse)
    }
}

/// Which part of a list is asked for. Each list says what its things are named by, and has most that it answers with.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
pub struct Part {
    /// Name of the last one of the part before: go on behind it.
    pub after: Option<String>,
    /// At most so many. A part is never longer than the list's own limit; without `limit` and `after` all come.
    pub limit: Option<u32>,
}

impl Part {
    /// Whether the list is wanted whole.
    pub fn is_all(&self) -> bool {
        self.after.is_none() && self.limit.is_none()
    }

    pub fn limit(&self, most: u32) -> u32 {
        self.limit.unwrap_or(most).clamp(1, most)
    }
}
