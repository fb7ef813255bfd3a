//! Names that end up in DNS, in paths and in host headers, parsed once.

use crate::text::text_form;
use std::fmt;
use std::str::FromStr;

/// Why a text is not a usable name; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name must not be empty")]
    Empty,
    #[error("`{value}` is {length} characters long; a name may have at most {limit}")]
    TooLong { value: String, length: usize, limit: usize },
    #[error(
        "`{value}` is not a DNS-safe name: use lowercase letters, digits and single hyphens, \
         beginning with a letter and ending with a letter or digit{}",
        suggestion.as_ref().map(|s| format!("; `{s}` would do")).unwrap_or_default()
    )]
    NotDnsSafe { value: String, suggestion: Option<String> },
    #[error("`{value}` is not a host name: {reason}")]
    NotAHost { value: String, reason: &'static str },
    #[error("`{value}` is not a path prefix: {reason}")]
    NotAPath { value: String, reason: &'static str },
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        text_form!($name, NameError);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

/// As much of a text from outside as an error repeats.
fn shown(value: &str) -> String {
    value.chars().take(80).collect()
}

/// The name of a project, stack, service or server: one DNS label of at most 40 characters, which
/// leaves room for what is built from it (`<service>.<project>.internal`, cgroup and unit names).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct Name(String);
text_newtype!(Name);

impl Name {
    pub const LENGTH_LIMIT: usize = 40;

    /// The closest valid name to any text, if anything of it is usable.
    pub fn suggest(value: &str) -> Option<Name> {
        let mut out = String::new();
        for c in value.chars() {
            match c {
                'a'..='z' | '0'..='9' => out.push(c),
                'A'..='Z' => out.push(c.to_ascii_lowercase()),
                _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
                _ => {}
            }
        }
        let start = out.find(|c: char| c.is_ascii_lowercase())?;
        let cut: String = out[start..].chars().take(Self::LENGTH_LIMIT).collect();
        cut.trim_end_matches('-').parse().ok()
    }

    /// As used in an environment variable: `my-api` becomes `MY_API`.
    pub fn to_env(&self) -> String {
        self.0.to_ascii_uppercase().replace('-', "_")
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        if value.is_empty() {
            return Err(NameError::Empty);
        }
        let length = value.chars().count();
        let bytes = value.as_bytes();
        let ok = bytes[0].is_ascii_lowercase()
            && !bytes.ends_with(b"-")
            && !value.contains("--")
            && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !ok {
            let suggestion = Name::suggest(value).map(String::from);
            return Err(NameError::NotDnsSafe { value: shown(value), suggestion });
        }
        if length > Self::LENGTH_LIMIT {
            return Err(NameError::TooLong { value: shown(value), length, limit: Self::LENGTH_LIMIT });
        }
        Ok(Self(value.to_owned()))
    }
}

/// A host name of a route: lowercase labels, without port and without trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct HostName(String);
text_newtype!(HostName);

impl FromStr for HostName {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        let fail = |reason| Err(NameError::NotAHost { value: shown(value), reason });
        if value.is_empty() || value.len() > 253 {
            return fail("it must have 1 to 253 characters");
        }
        // One look for all that is wrong in a way of its own: configs hold ten thousand hosts.
        let odd = value.bytes().any(|byte| matches!(byte, b':' | b'/' | b'*'));
        if odd && value.contains("://") {
            return fail("write the host alone, without a scheme");
        }
        if odd && value.contains(':') {
            return fail("write the host alone, without a port");
        }
        if odd && value.contains('/') {
            return fail("write the host alone; the path goes into `path`");
        }
        if odd {
            return fail("wildcards are not supported; list each host");
        }
        let lower = value.to_ascii_lowercase();
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !lower.split('.').all(label_ok) {
            return fail("each label needs 1 to 63 letters, digits or hyphens (punycode for others)");
        }
        if lower == "internal" || lower.ends_with(".internal") {
            return fail("`.internal` names are made by Mainstay; choose another host");
        }
        Ok(Self(lower))
    }
}

/// The path prefix of a route: begins with `/`, matches whole segments, longest wins.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct PathPrefix(String);
text_newtype!(PathPrefix);

impl Default for PathPrefix {
    fn default() -> Self {
        Self("/".into())
    }
}

impl PathPrefix {
    /// Whether a request path lies under this prefix, by whole segments: `/api` holds `/api` and
    /// `/api/x` but not `/apix`.
    pub fn matches(&self, path: &str) -> bool {
        match path.strip_prefix(self.0.as_str()) {
            Some(rest) => self.0.ends_with('/') || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

impl FromStr for PathPrefix {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        let fail = |reason| Err(NameError::NotAPath { value: shown(value), reason });
        if value == "/" {
            return Ok(Self::default());
        }
        if !value.starts_with('/') {
            return fail("it must begin with `/`");
        }
        if value.len() > 1024 {
            return fail("it may have at most 1024 characters");
        }
        let safe = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'"' | b'\\' | b'<' | b'>');
        if !value.bytes().all(safe) {
            return fail("use printable characters without `?`, `#`, quotes or spaces");
        }
        if value.contains("//") || value.split('/').any(|s| s == "." || s == "..") {
            return fail("it must not hold empty, `.` or `..` segments");
        }
        let trimmed = value.trim_end_matches('/');
        Ok(Self(if trimmed.is_empty() { "/".into() } else { trimmed.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_dns_safe_is_refused_with_a_usable_suggestion() {
        let error = "My_App".parse::<Name>().unwrap_err().to_string();
        assert!(error.contains("`my-app` would do"), "{error}");
        for bad in ["", "-a", "a-", "a--b", "1a", "a.b", "ä", "a b", "a\n", &"a".repeat(41)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_path_prefix_matches_whole_segments_only() {
        let api: PathPrefix = "/api/".parse().unwrap();
        assert_eq!(api.as_str(), "/api");
        assert!(api.matches("/api") && api.matches("/api/") && api.matches("/api/x"));
        assert!(!api.matches("/apix") && !api.matches("/"));
        assert!(PathPrefix::default().matches("/anything"));
    }

    #[test]
    fn a_host_with_scheme_port_path_or_internal_suffix_is_refused() {
        for bad in ["http://a.b", "a:80", "a/b", "*.a", "a..b", "x.internal", "", "a b"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("Shop.Example.COM".parse::<HostName>().unwrap().as_str(), "shop.example.com");
    }
}
