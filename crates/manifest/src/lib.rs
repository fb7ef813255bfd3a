//! `mainstay.toml`: what a person writes about their services, read into [`api::plans::StackSpec`].
//!
//! A manifest is read in three steps, each of which goes on after a mistake, so that a person sees
//! everything that is wrong at once instead of one thing per try:
//!
//! 1. **Syntax.** The TOML parser recovers after an error and reports the next one too.
//! 2. **Shape** ([`shape`]). The document is compared with the JSON schema of the types in [`raw`]:
//!    unknown fields ("did you mean `replicas`?") and values of the wrong kind. What does not fit is
//!    cut out, so that the rest can still be looked at. The same schema makes `docs/reference/manifest.md`,
//!    so the reference cannot say anything else than what is accepted.
//! 3. **Meaning** ([`resolve`]). Texts become types, defaults are filled in, and what contradicts
//!    itself is refused: two services on one route, a path that leaves the repository.
//!
//! Every complaint names the field, the place, the value and the mend.
//!
//! [`detect`] goes the other way: it looks at a project without a manifest and writes one, so that
//! what was guessed is a text that a person can read, keep and change, and takes the same way in.
//!
//! Deliberately absent: variables, includes and templates. A manifest is data.

pub mod detect;
mod place;
pub mod raw;
mod redact;
mod resolve;
mod shape;
mod suggest;
mod text;

use api::error::{ApiError, ErrorCode, ErrorDetail};
use api::plans::{DefaultSource, StackSpec};
use api::words::count_of;

pub use detect::{DetectError, Detection, detect};
pub use redact::{with_env_values, without_env_values};
pub use text::{duration_text, parse_duration_ms, parse_size_bytes, size_text};

/// Name of the file, as it is looked for in a repository.
pub const FILE_NAME: &str = "mainstay.toml";

/// A longer text is refused unread: nobody writes one by hand, and it comes from outside.
pub const TEXT_LIMIT_BYTES: usize = 1024 * 1024;

/// Everything that is wrong with a manifest, in the order of its lines. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestErrors(pub Vec<ErrorDetail>);

impl std::error::Error for ManifestErrors {}

impl std::fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{FILE_NAME} has {}", count_of(&self.0, "problem"))?;
        for detail in &self.0 {
            f.write_str("\n  ")?;
            if let (Some(line), Some(column)) = (detail.line, detail.column) {
                write!(f, "line {line}, column {column}: ")?;
            }
            if let Some(field) = &detail.field {
                write!(f, "{field}: ")?;
            }
            f.write_str(&detail.message)?;
            if let Some(help) = &detail.help {
                write!(f, "; {help}")?;
            }
        }
        Ok(())
    }
}

impl From<ManifestErrors> for ApiError {
    fn from(errors: ManifestErrors) -> Self {
        let message = format!("the manifest has {}; nothing was changed", count_of(&errors.0, "problem"));
        ApiError { details: errors.0, ..ApiError::new(ErrorCode::InvalidManifest, message) }
    }
}

/// Reads a manifest. `default_source` is the repository that holds it: the source of every service
/// that names no `git` of its own.
pub fn parse(text: &str, default_source: Option<&DefaultSource>) -> Result<StackSpec, ManifestErrors> {
    if text.len() > TEXT_LIMIT_BYTES {
        let message = format!("the manifest has {} bytes; the limit is {TEXT_LIMIT_BYTES}", text.len());
        return Err(ManifestErrors(vec![ErrorDetail { field: None, line: None, column: None, message, help: None }]));
    }
    let (document, mut errors) = shape::read(text)?;
    let spec = resolve::stack(&document, default_source, &mut errors);
    errors.sort_by_key(|e| (e.line, e.column));
    match spec {
        Some(spec) if errors.is_empty() => Ok(spec),
        _ => Err(ManifestErrors(errors)),
    }
}

/// The JSON schema of a manifest, from which the reference is made and which editors can use.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::Manifest).to_value()
}
