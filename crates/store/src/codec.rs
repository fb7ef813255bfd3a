//! Values to columns and back. Everything that may hold a secret passes [`seal`] and [`open`]: the
//! one place where sealing at rest goes in. Today it is plain JSON, so the database file is as
//! secret as what it holds (it is made readable by its owner alone).

use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;

/// Free text as both databases keep it: PostgreSQL has no NUL in text.
pub fn text(value: &str) -> Cow<'_, str> {
    if value.contains('\0') { Cow::Owned(value.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(value) }
}

/// A document column.
pub fn to_json<T: Serialize>(noun: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::corrupt(noun, e))
}

pub fn from_json<T: DeserializeOwned>(noun: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::corrupt(noun, e))
}

/// A document column that may hold secrets.
pub fn seal<T: Serialize>(noun: &'static str, value: &T) -> Result<String> {
    to_json(noun, value)
}

pub fn open<T: DeserializeOwned>(noun: &'static str, text: &str) -> Result<T> {
    from_json(noun, text)
}

/// An id, a name, a number as text.
pub fn parse<T>(noun: &'static str, text: &str) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| Error::corrupt(noun, e.to_string()))
}

/// A word of an enum as serde writes it: `draining`.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

pub fn from_word<T: DeserializeOwned>(noun: &'static str, text: String) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(text)).map_err(|e| Error::corrupt(noun, e))
}
