//! Where the code comes from: a git repository or an image, and exactly which commit or digest of it.
//!
//! Git URLs, references and commits are parsed once so that they are safe as arguments of `git`.
//!
//! A URL or reference that git could read as an option, that names a remote helper (which runs
//! commands), or that holds a control or shell character does not exist as a value of these types.
//! Whoever runs git still passes `--` before them; two locks are better than one.

use crate::images::{ImageDigest, ImageReference, ImageSource};
use crate::name::Name;
use crate::text::text_form;
use serde::{Deserialize, Serialize};

/// Where the code comes from: `git` or `image` tells which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SourceSpec {
    Git(GitSource),
    Image(ImageSource),
}

impl SourceSpec {
    pub fn git(&self) -> Option<&GitSource> {
        match self {
            Self::Git(source) => Some(source),
            Self::Image(_) => None,
        }
    }

    pub fn git_mut(&mut self) -> Option<&mut GitSource> {
        match self {
            Self::Git(source) => Some(source),
            Self::Image(_) => None,
        }
    }

    pub fn image(&self) -> Option<&ImageSource> {
        match self {
            Self::Git(_) => None,
            Self::Image(source) => Some(source),
        }
    }
}

/// A git repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GitSource {
    pub git: GitUrl,
    /// Branch, tag or full commit SHA. The control plane resolves it to a commit once per
    /// deployment, so that all servers run identical code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<GitRef>,
    /// Folder inside the repository in which build and run commands start; empty for its root.
    #[serde(default)]
    pub directory: String,
    /// Name of a stored git credential (deploy key or token), for private repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Name>,
    #[serde(default)]
    pub submodules: bool,
}

/// Why a git URL or reference is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitTextError {
    #[error(
        "`{value}` is not a git URL that Mainstay fetches: {reason}; use https://, ssh://, git@host:path, git:// or file:///path"
    )]
    Url { value: String, reason: &'static str },
    #[error("`{value}` is not a branch, tag or commit: {reason}")]
    Ref { value: String, reason: &'static str },
}

/// A git URL over https, http, ssh, git or file. It never begins with a hyphen, holds no control
/// character and names no remote helper (`ext::`), so it is safe as an argument of `git`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct GitUrl(String);

impl GitUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of a `file://` URL: a repository on the machine that reads it.
    pub fn local_path(&self) -> Option<&str> {
        self.0.strip_prefix("file://")
    }
}

impl std::str::FromStr for GitUrl {
    type Err = GitTextError;
    fn from_str(value: &str) -> Result<Self, GitTextError> {
        let fail = |reason| {
            Err(GitTextError::Url {
                value: value.chars().take(200).collect::<String>().escape_debug().to_string(),
                reason,
            })
        };
        if value.is_empty() || value.len() > 2048 {
            return fail("it must have 1 to 2048 characters");
        }
        if value.starts_with('-') {
            return fail("it begins with a hyphen, which git would read as an option");
        }
        if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return fail("it holds a space, newline or control character");
        }
        if value.contains("::") {
            return fail("remote helpers such as `ext::` run commands and are not allowed");
        }
        if value
            .chars()
            .any(|c| matches!(c, '`' | '$' | ';' | '|' | '&' | '<' | '>' | '\\' | '"' | '\'' | '(' | ')' | '{' | '}'))
        {
            return fail("it holds a shell metacharacter");
        }
        if let Some(path) = value.strip_prefix("file://") {
            return if path.starts_with('/') { Ok(Self(value.into())) } else { fail("file:// needs an absolute path") };
        }
        for scheme in ["https://", "http://", "ssh://", "git://"] {
            if let Some(rest) = value.strip_prefix(scheme) {
                let authority = rest.split('/').next().unwrap_or("");
                let host = authority.rsplit('@').next().unwrap_or("");
                if host.is_empty() || host.starts_with('-') || authority.starts_with('-') {
                    return fail("the host is missing or begins with a hyphen");
                }
                if authority.split('@').next().is_some_and(|user| authority.contains('@') && user.contains(':')) {
                    return fail(
                        "it holds a password; store it with `mainstay credentials add` and name it in `credential`",
                    );
                }
                return Ok(Self(value.into()));
            }
        }
        if value.contains("://") {
            return fail("the scheme is not one of the allowed");
        }
        // The scp-like form, user@host:path.
        match value.split_once(':') {
            Some((host, path)) if host.contains('@') && !path.is_empty() && !path.starts_with('-') => {
                let name = host.rsplit('@').next().unwrap_or("");
                if name.is_empty() || name.starts_with('-') {
                    fail("the host is missing or begins with a hyphen")
                } else {
                    Ok(Self(value.into()))
                }
            }
            _ => fail("it has no scheme"),
        }
    }
}

text_form!(GitUrl, GitTextError);

/// A branch, tag or commit, by git's own rules (`git check-ref-format`), never an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct GitRef(String);

impl GitRef {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, when the reference is a full SHA.
    pub fn as_commit(&self) -> Option<CommitSha> {
        self.0.parse().ok()
    }
}

impl std::str::FromStr for GitRef {
    type Err = GitTextError;
    fn from_str(value: &str) -> Result<Self, GitTextError> {
        let fail = |reason| {
            Err(GitTextError::Ref {
                value: value.chars().take(200).collect::<String>().escape_debug().to_string(),
                reason,
            })
        };
        if value.is_empty() || value.len() > 255 {
            return fail("it must have 1 to 255 characters");
        }
        if value.starts_with('-') {
            return fail("it begins with a hyphen, which git would read as an option");
        }
        if value.chars().any(|c| {
            c.is_control()
                || c.is_whitespace()
                || matches!(
                    c,
                    '~' | '^'
                        | ':'
                        | '?'
                        | '*'
                        | '['
                        | '\\'
                        | '`'
                        | '$'
                        | ';'
                        | '|'
                        | '&'
                        | '<'
                        | '>'
                        | '"'
                        | '\''
                        | '('
                        | ')'
                )
        }) {
            return fail("it holds a space, a control character or one of ~^:?*[\\`$;|&<>()\"'");
        }
        let component_bad = |c: &str| c.is_empty() || c.starts_with('.') || c.ends_with(".lock");
        if value.contains("..")
            || value.contains("@{")
            || value == "@"
            || value.ends_with('.')
            || value.split('/').any(component_bad)
        {
            return fail("git does not allow it as a name (`git check-ref-format`)");
        }
        Ok(Self(value.into()))
    }
}

text_form!(GitRef, GitTextError);

/// The exact commit: 40 or 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct CommitSha(String);

impl CommitSha {
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}
impl std::str::FromStr for CommitSha {
    type Err = GitTextError;
    fn from_str(value: &str) -> Result<Self, GitTextError> {
        if matches!(value.len(), 40 | 64) && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(value.into()))
        } else {
            Err(GitTextError::Ref {
                value: value.chars().take(80).collect(),
                reason: "a commit has 40 or 64 lowercase hexadecimal digits",
            })
        }
    }
}
text_form!(CommitSha, GitTextError);

/// The exact code of a revision. As text: the commit, the digest of the image, or, for an image that no registry
/// vouches for, `local:` and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct SourceVersion(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceVersionKind {
    Commit,
    Image,
    /// Whatever the servers have under this name: two of them may have two things.
    LocalImage,
}

/// Before the name of an image that is never pulled.
const LOCAL: &str = "local:";

impl SourceVersion {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn kind(&self) -> SourceVersionKind {
        match self.0.as_bytes() {
            [b's', ..] => SourceVersionKind::Image,
            [b'l', ..] => SourceVersionKind::LocalImage,
            _ => SourceVersionKind::Commit,
        }
    }

    /// An image under a name that only the servers know.
    pub fn local(image: &ImageReference) -> Self {
        Self(format!("{LOCAL}{image}"))
    }

    pub fn commit(&self) -> Option<CommitSha> {
        (self.kind() == SourceVersionKind::Commit).then(|| CommitSha(self.0.clone()))
    }

    pub fn digest(&self) -> Option<ImageDigest> {
        if self.kind() == SourceVersionKind::Image { self.0.parse().ok() } else { None }
    }

    /// As much as tells it from others: ten digits of a commit, twelve of a digest, the name of a local image.
    pub fn short(&self) -> &str {
        match self.kind() {
            SourceVersionKind::Commit => &self.0[..10],
            SourceVersionKind::Image => &self.0["sha256:".len()..][..12],
            SourceVersionKind::LocalImage => &self.0[LOCAL.len()..],
        }
    }

    /// `commit` or `image`: what people call it.
    pub fn noun(&self) -> &'static str {
        match self.kind() {
            SourceVersionKind::Commit => "commit",
            SourceVersionKind::Image | SourceVersionKind::LocalImage => "image",
        }
    }
}

impl From<CommitSha> for SourceVersion {
    fn from(commit: CommitSha) -> Self {
        Self(commit.0)
    }
}

impl From<ImageDigest> for SourceVersion {
    fn from(digest: ImageDigest) -> Self {
        Self(digest.into())
    }
}

impl std::str::FromStr for SourceVersion {
    type Err = GitTextError;
    fn from_str(value: &str) -> Result<Self, GitTextError> {
        if let Ok(digest) = value.parse::<ImageDigest>() {
            return Ok(digest.into());
        }
        if let Some(name) = value.strip_prefix(LOCAL)
            && let Ok(image) = name.parse::<ImageReference>()
        {
            return Ok(Self::local(&image));
        }
        value.parse::<CommitSha>().map(Self::from)
    }
}
text_form!(SourceVersion, GitTextError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_urls_with_options_helpers_or_metacharacters_are_refused() {
        for bad in [
            "--upload-pack=touch /tmp/x",
            "ext::sh -c touch% /tmp/x",
            "https://a/b\nc",
            "file://relative",
            "ftp://a/b",
            "/srv/repo",
            "https://-oProxyCommand=x/y",
            "ssh://-oProxyCommand=x/y",
            "git@-host:x",
            "https://a/$(id)",
            "https://user:pass@host/x",
            "",
            "host:path",
        ] {
            assert!(bad.parse::<GitUrl>().is_err(), "{bad:?} was accepted");
        }
        for good in [
            "https://example.com/a.git",
            "ssh://git@h:22/a",
            "git@h:team/a.git",
            "git://h/a",
            "file:///srv/a",
            "https://token@h/a",
        ] {
            assert!(good.parse::<GitUrl>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_source_version_is_told_from_its_text_and_comes_back_as_it_was() {
        let commit = "c".repeat(40);
        let digest = format!("sha256:{}", "d".repeat(64));
        for (text, kind, short) in [
            (commit.as_str(), SourceVersionKind::Commit, "cccccccccc"),
            (digest.as_str(), SourceVersionKind::Image, "dddddddddddd"),
            ("local:localhost/web:v1", SourceVersionKind::LocalImage, "localhost/web:v1"),
        ] {
            let version: SourceVersion = text.parse().unwrap();
            assert_eq!((version.as_str(), version.kind(), version.short()), (text, kind, short));
        }
        for bad in ["", "local:", "local:Nginx", "sha256:12", "main"] {
            assert!(bad.parse::<SourceVersion>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn git_references_that_git_or_a_shell_could_misread_are_refused() {
        for bad in ["--upload-pack=x", "a b", "a..b", "a\nb", "a~1", "$(id)", "x.lock", "/x", "x/", "@", "a@{1}", ""] {
            assert!(bad.parse::<GitRef>().is_err(), "{bad:?} was accepted");
        }
        for good in ["main", "release/1.2", "v1.0.0", "0123456789012345678901234567890123456789"] {
            assert!(good.parse::<GitRef>().is_ok(), "{good:?} was refused");
        }
    }
}
