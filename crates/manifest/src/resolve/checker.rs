//! Collects complaints and reads the kinds of value that occur everywhere.

use crate::place::Places;
use crate::raw::{DurationText, SizeText};
use crate::text::{duration_text, parse_duration_ms, parse_size_bytes, size_text};
use api::error::ErrorDetail;
use api::name::{Name, NameError};
use api::services::GitTextError;
use std::ops::RangeInclusive;

pub struct Checker<'c, 't> {
    places: &'c Places<'t>,
    errors: &'c mut Vec<ErrorDetail>,
}

/// Most bytes of one command or of one value in the environment: the kernel's limit for one argument
/// is 128 KiB.
pub const TEXT_VALUE_LIMIT_BYTES: usize = 64 * 1024;

impl<'c, 't> Checker<'c, 't> {
    pub fn new(places: &'c Places<'t>, errors: &'c mut Vec<ErrorDetail>) -> Self {
        Self { places, errors }
    }

    pub fn fail(&mut self, field: &str, message: String, help: Option<String>) {
        self.errors.push(self.places.detail(field, message, help));
    }

    pub fn missing<T>(&mut self, field: &str, message: &str, help: &str) -> Option<T> {
        // A field that was written, but with the wrong kind of value, has its complaint already.
        if !self.errors.iter().any(|e| e.field.as_deref() == Some(field)) {
            self.fail(field, message.into(), Some(help.into()));
        }
        None
    }

    pub fn name(&mut self, field: &str, text: &str) -> Option<Name> {
        match text.parse() {
            Ok(name) => Some(name),
            Err(NameError::NotDnsSafe { value, suggestion }) => {
                let help = suggestion.map(|s| format!("`{s}` would do"));
                let plain = NameError::NotDnsSafe { value, suggestion: None };
                self.fail(field, plain.to_string(), help);
                None
            }
            Err(error) => {
                self.fail(field, error.to_string(), Some("choose a shorter or another name".into()));
                None
            }
        }
    }

    pub fn git<T>(&mut self, field: &str, parsed: Result<T, GitTextError>) -> Option<T> {
        parsed
            .map_err(|error| match error {
                GitTextError::Url { value, reason } => {
                    let help = "use https://, ssh://, git@host:path, git:// or file:///path".to_owned();
                    self.fail(field, format!("`{value}` is not a git URL that Mainstay fetches: {reason}"), Some(help));
                }
                GitTextError::Ref { value, reason } => {
                    self.fail(
                        field,
                        format!("`{value}` is not a branch, tag or commit: {reason}"),
                        Some("write its plain name".into()),
                    );
                }
            })
            .ok()
    }

    pub fn duration(
        &mut self,
        field: &str,
        text: Option<&DurationText>,
        default_ms: u64,
        range_ms: RangeInclusive<u64>,
    ) -> u64 {
        let Some(DurationText(text)) = text else { return default_ms };
        match parse_duration_ms(text) {
            Ok(ms) if range_ms.contains(&ms) => return ms,
            Ok(_) => {
                let (low, high) = (duration_text(*range_ms.start()), duration_text(*range_ms.end()));
                self.fail(field, format!("`{text}` is out of range"), Some(format!("it may be from {low} to {high}")));
            }
            Err(reason) => {
                let shown: String = text.chars().take(80).collect();
                self.fail(
                    field,
                    format!("`{shown}` is not a duration: {reason}"),
                    Some("write \"30s\", \"5m\" or \"1m30s\"".into()),
                );
            }
        }
        default_ms
    }

    pub fn size(&mut self, field: &str, text: Option<&SizeText>, range: RangeInclusive<u64>) -> Option<u64> {
        let SizeText(text) = text?;
        match parse_size_bytes(text) {
            Ok(bytes) if range.contains(&bytes) => return Some(bytes),
            Ok(_) => {
                let (low, high) = (size_text(*range.start()), size_text(*range.end()));
                self.fail(field, format!("`{text}` is out of range"), Some(format!("it may be from {low} to {high}")));
            }
            Err(reason) => {
                let shown: String = text.chars().take(80).collect();
                self.fail(field, format!("`{shown}` is not a size: {reason}"), Some("write \"512M\" or \"2G\"".into()));
            }
        }
        None
    }

    pub fn count(&mut self, field: &str, number: Option<i64>, range: RangeInclusive<i64>) -> Option<u32> {
        let number = number?;
        if range.contains(&number) {
            return u32::try_from(number).ok();
        }
        let help = format!("it may be from {} to {}", range.start(), range.end());
        self.fail(field, format!("{number} is out of range"), Some(help));
        None
    }

    /// Processor time in cores to thousandths of one.
    pub fn cpu(&mut self, field: &str, cores: Option<f64>) -> Option<u64> {
        let cores = cores?;
        if (0.01..=1024.0).contains(&cores) {
            return Some((cores * 1000.0).round() as u64);
        }
        self.fail(
            field,
            format!("{cores} is out of range"),
            Some("it may be from 0.01 to 1024 cores; 0.5 is half of one".into()),
        );
        None
    }

    /// A command for the shell: any text that can be an argument.
    pub fn command(&mut self, field: &str, text: &str) -> Option<String> {
        let problem = match text {
            _ if text.trim().is_empty() => "the command is empty",
            _ if text.contains('\0') => "the command holds a NUL character, which no program can be given",
            _ if text.len() > TEXT_VALUE_LIMIT_BYTES => "the command is longer than 64 KiB",
            _ => return Some(text.to_owned()),
        };
        let help = "write the command as you would type it; put a long one into a script in the repository";
        self.fail(field, problem.into(), Some(help.into()));
        None
    }

    /// A folder below `base` (itself a clean relative path), without `.` and `..` segments; empty for
    /// the top. `..` may be used as long as the result stays inside `inside`.
    pub fn folder(&mut self, field: &str, base: &str, text: &str, inside: &str) -> Option<String> {
        let shown: String = text.chars().take(200).collect::<String>().escape_debug().to_string();
        let refuse = |this: &mut Self, reason: &str| {
            let help = format!("write a folder inside {inside}, such as \"web\"");
            this.fail(field, format!("`{shown}` is not a usable folder: {reason}"), Some(help));
            None
        };
        if text.is_empty() || text.len() > 1024 {
            return refuse(self, "it must have 1 to 1024 characters");
        }
        if text.starts_with('/') || text.starts_with('~') {
            return refuse(self, "it is absolute");
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return refuse(self, "it holds a backslash or a control character");
        }
        let mut parts: Vec<&str> = base.split('/').filter(|p| !p.is_empty()).collect();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if parts.pop().is_none() {
                        return refuse(self, &format!("it leaves {inside}"));
                    }
                }
                ".git" => return refuse(self, "`.git` belongs to git"),
                part => parts.push(part),
            }
        }
        Some(parts.join("/"))
    }
}
