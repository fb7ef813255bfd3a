//! What the store's errors mean to a client.

use crate::error::HttpError;
use api::error::ErrorCode;
use store::Error;

pub fn to_http(error: Error) -> HttpError {
    match error {
        Error::NotFound { noun, key } => HttpError::not_found(noun, &key),
        Error::Conflict(message) => HttpError::conflict(message),
        Error::Stale { .. } => {
            HttpError::conflict("this was changed by somebody else at the same moment; nothing was changed")
                .help("look again and repeat it")
        }
        Error::TokenUnknown => token(ErrorCode::TokenUnknown, "this join token is not known; it may have been revoked"),
        Error::TokenUsed => {
            token(ErrorCode::TokenUsed, "this join token was used already; each is good for one machine")
        }
        Error::TokenExpired => token(ErrorCode::TokenExpired, "this join token has expired"),
        Error::ServersFull => {
            HttpError::conflict(error.to_string()).help("remove a server first: mainstay servers remove NAME")
        }
        Error::AddressesFull { .. } => {
            HttpError::conflict(error.to_string()).help("add a server, or run fewer containers there")
        }
        Error::Full(_) => {
            tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "the database's disk is full");
            HttpError::new(ErrorCode::DiskFull, "nothing was changed: the disk of the control plane's database is full")
                .help("free some space there, and repeat it; what runs on the servers is not touched")
        }
        Error::Unavailable(_) => HttpError::Unavailable(error.into()),
        Error::Url
        | Error::Connect(_)
        | Error::Missing { .. }
        | Error::Stream(_)
        | Error::Damaged { .. }
        | Error::Newer { .. }
        | Error::Migrate(_)
        | Error::Corrupt { .. }
        | Error::Database(_) => HttpError::Internal(error.into()),
    }
}

fn token(code: ErrorCode, message: &str) -> HttpError {
    HttpError::new(code, message).help(
        "nothing was changed; make a new one with `mainstay tokens create --join` or in the dashboard under Servers",
    )
}
