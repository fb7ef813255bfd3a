//! Container images and how they are run: references, digests, and what a container is given.
//!
//! A reference is what a person writes (`nginx:1.27`, `registry.example.com/team/shop@sha256:…`). A tag moves, so the
//! control plane asks the registry once per deployment which digest it leads to, and every server pulls exactly that.
//! The grammar is that of the OCI distribution specification and of `distribution/reference`, with one limit more:
//! no reference is longer than 512 bytes.
//!
//! Absent on purpose: privileged containers, namespaces of the host, mounts of host folders. What needs them is the
//! machine's, not a service's.

use crate::name::Name;
use crate::secret::Secret;
use crate::text::text_form;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where images without a registry in their name come from.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// Why a text is not an image reference or a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageTextError {
    #[error("`{value}` is not an image: {reason}; write it as `nginx:1.27` or `registry.example.com/team/shop:2`")]
    Reference { value: String, reason: &'static str },
    #[error("`{value}` is not an image digest: it is `sha256:` with 64 lowercase hexadecimal digits")]
    Digest { value: String },
}

/// An image as a person writes it. What exists as a value follows the grammar, and never begins with a hyphen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct ImageReference(String);

impl ImageReference {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `docker.io`, `registry.example.com:5000`
    pub fn registry(&self) -> &str {
        split_registry(self.name()).0.unwrap_or(DEFAULT_REGISTRY)
    }

    /// The path within the registry: `library/nginx`, `team/shop`.
    pub fn repository(&self) -> String {
        let (registry, path) = split_registry(self.name());
        let official = registry.is_none_or(|registry| registry == DEFAULT_REGISTRY) && !path.contains('/');
        if official { format!("library/{path}") } else { path.to_owned() }
    }

    /// `1.27`; `latest` where neither tag nor digest is written.
    pub fn tag(&self) -> Option<&str> {
        let (rest, digest) = self.split_digest();
        match split_tag(rest).1 {
            Some(tag) => Some(tag),
            None => digest.is_none().then_some("latest"),
        }
    }

    /// Written with the reference: then no tag decides.
    pub fn digest(&self) -> Option<ImageDigest> {
        self.split_digest().1.and_then(|digest| digest.parse().ok())
    }

    /// `docker.io/library/nginx:1.27`: the whole name, as engines keep it.
    pub fn full(&self) -> String {
        let tag = self.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}/{}{tag}{digest}", self.registry(), self.repository())
    }

    /// `docker.io/library/nginx@sha256:…`: what is pulled once the digest is known.
    pub fn at(&self, digest: &ImageDigest) -> String {
        format!("{}/{}@{digest}", self.registry(), self.repository())
    }

    fn split_digest(&self) -> (&str, Option<&str>) {
        match self.0.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (&self.0, None),
        }
    }

    fn name(&self) -> &str {
        split_tag(self.split_digest().0).0
    }
}

/// The first part is a registry if it could be a host: it has a dot or a port, or is `localhost`.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
        _ => (None, name),
    }
}

/// A colon after the last slash begins the tag; one before it belongs to the registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Lowercase letters and digits, joined by one dot, one or two underscores, or any number of hyphens.
fn is_path_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(word) || !text.ends_with(word) {
        return false;
    }
    text.split(word).all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.chars().all(|c| c == '-'))
}

fn is_tag(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=128).contains(&text.len()) && text.chars().all(inner) && !text.starts_with(['.', '-'])
}

impl std::str::FromStr for ImageReference {
    type Err = ImageTextError;
    fn from_str(value: &str) -> Result<Self, ImageTextError> {
        let fail = |reason| {
            let value = value.chars().take(200).collect::<String>().escape_debug().to_string();
            Err(ImageTextError::Reference { value, reason })
        };
        if value.is_empty() || value.len() > 512 {
            return fail("it must have 1 to 512 characters");
        }
        if value.contains("://") {
            return fail("it is an address, and an image has no scheme");
        }
        let reference = Self(value.to_owned());
        let (rest, digest) = reference.split_digest();
        if digest.is_some_and(|digest| digest.parse::<ImageDigest>().is_err()) {
            return fail("what follows the @ is not `sha256:` with 64 lowercase hexadecimal digits");
        }
        let (name, tag) = split_tag(rest);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return fail("the tag has other characters than letters, digits, `_`, `.` and `-`, or more than 128");
        }
        let (registry, path) = split_registry(name);
        if registry.is_some_and(|registry| !is_registry(registry)) {
            return fail("the registry is not a host name with an optional port");
        }
        if !path.split('/').all(is_path_component) {
            return fail("a name is made of lowercase letters, digits and single separators (`.`, `_`, `-`, `/`)");
        }
        Ok(reference)
    }
}
text_form!(ImageReference, ImageTextError);

/// The exact image: the SHA-256 of its manifest (or of the list of manifests for several architectures).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct ImageDigest(String);

impl ImageDigest {
    /// `sha256:…`
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as engines show them.
    pub fn short(&self) -> &str {
        &self.0[7..19]
    }
}

impl std::str::FromStr for ImageDigest {
    type Err = ImageTextError;
    fn from_str(value: &str) -> Result<Self, ImageTextError> {
        let digits = value.strip_prefix("sha256:").unwrap_or("");
        if digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(value.into()))
        } else {
            Err(ImageTextError::Digest { value: value.chars().take(80).collect::<String>().escape_debug().to_string() })
        }
    }
}
text_form!(ImageDigest, ImageTextError);

/// When a server asks the registry for the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PullPolicy {
    /// If it does not have exactly this image yet.
    #[default]
    Missing,
    /// With every deployment.
    Always,
    /// Never: the image is already on the servers, under this name, and nobody else vouches for what it is.
    Never,
}

impl PullPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// A service that runs an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageSource {
    pub image: ImageReference,
    #[serde(default)]
    pub pull: PullPolicy,
    /// Name of a stored credential for a private registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Name>,
}

/// How a private registry is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegistryCredential {
    pub user: String,
    pub password: Secret,
}

/// What keeps a container from the machine's kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Isolation {
    /// Namespaces, a seccomp filter, no capabilities but the named ones.
    #[default]
    Container,
    /// A kernel of its own in user space (`runsc`), for code that is not trusted.
    Gvisor,
}

/// How an image is run. What is not said here is as the image says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContainerSpec {
    /// Instead of the image's entrypoint; an argument vector, no shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Instead of the image's command: the arguments of the entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// User, or user and group: `1000`, `app:app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The image's files cannot be changed; what must be writable is a volume or in `tmpfs`.
    #[serde(default)]
    pub read_only: bool,
    /// Absolute paths kept in memory, with their size limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, Option<u64>>,
    /// Named volumes by the absolute path at which the container sees them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, VolumeMount>,
    /// Files with secret content by their absolute path, readable by the container's user only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Secret>,
    /// All capabilities are dropped but these: `NET_BIND_SERVICE`, `CHOWN`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Most open files; `None`: as the engine says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    #[serde(default)]
    pub isolation: Isolation,
}

/// A named volume inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeMount {
    pub volume: Name,
    #[serde(default)]
    pub read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> ImageReference {
        text.parse().unwrap()
    }

    #[test]
    fn an_image_without_registry_or_tag_gets_the_usual_ones() {
        assert_eq!(reference("nginx").full(), "docker.io/library/nginx:latest");
        assert_eq!(reference("team/shop:2").full(), "docker.io/team/shop:2");
        assert_eq!(reference("localhost/shop").full(), "localhost/shop:latest");
        assert_eq!(reference("10.99.0.254:5000/a/b:v1").registry(), "10.99.0.254:5000");
        assert_eq!(reference("docker.io/nginx").repository(), "library/nginx");
    }

    #[test]
    fn a_digest_decides_and_a_tag_beside_it_is_only_for_people() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = reference(&format!("ghcr.io/a/b:1@{digest}"));
        assert_eq!((image.tag(), image.digest().unwrap().as_str()), (Some("1"), digest.as_str()));
        assert_eq!(reference(&format!("nginx@{digest}")).tag(), None);
        assert_eq!(image.at(&digest.parse().unwrap()), format!("ghcr.io/a/b@{digest}"));
    }

    #[test]
    fn what_an_engine_or_a_shell_could_misread_is_refused() {
        let digest = "a".repeat(63);
        let short = format!("nginx@sha256:{digest}");
        for bad in [
            "",
            "-nginx",
            "--privileged",
            "Nginx",
            "nginx:",
            "nginx:.x",
            "nginx:a b",
            "a//b",
            "/nginx",
            "nginx/",
            "http://x/y",
            "a..b/c:1",
            "x:99999/y",
            "nginx\n",
            "$(id)",
            "a___b",
            "a._b",
            "x-.y/z.",
            &short,
            "host:/a",
            "a@b",
            "..",
            "a/../b",
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad:?} was accepted");
        }
        for good in ["nginx", "a__b", "a--b", "e/a.b_c-d", "localhost:5000/x", "x.y:80/a:B_c.D-1"] {
            assert!(good.parse::<ImageReference>().is_ok(), "{good:?} was refused");
        }
    }
}
