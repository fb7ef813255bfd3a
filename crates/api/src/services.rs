//! A service as it should be: everything that a revision freezes, plus what may change without one.
//!
//! [`ServiceSpec`] is the manifest's service after defaults are filled in and every text is parsed.
//! A revision is a spec plus the exact commit. What is *not* part of a revision is the number of
//! replicas and whether the service should run at all: scaling and stopping do not make a new one.

use crate::ids::{DeploymentId, ProjectId, RevisionId, ServiceId, StackId};
use crate::name::{HostName, Name, PathPrefix};
use crate::secret::Secret;
use crate::{UnixMillis, deployments::Deployment, observed::InstanceObserved};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything about a service that a revision freezes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceSpec {
    pub name: Name,
    pub source: SourceSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
    pub run: RunSpec,
    /// Set for the build and for the run command alike. Values may be secret, so they do not print.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
    pub port: PortSpec,
    /// `None`: one, or what `mainstay scale` last asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
    pub health: HealthSpec,
    #[serde(default)]
    pub limits: Limits,
    pub restart: RestartSpec,
    pub stop: StopSpec,
    pub rollout: RolloutSpec,
}

/// Where the code comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SourceSpec {
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl TryFrom<String> for GitUrl {
    type Error = GitTextError;
    fn try_from(value: String) -> Result<Self, GitTextError> {
        value.parse()
    }
}
impl From<GitUrl> for String {
    fn from(value: GitUrl) -> String {
        value.0
    }
}
impl std::fmt::Display for GitUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch, tag or commit, by git's own rules (`git check-ref-format`), never an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl TryFrom<String> for GitRef {
    type Error = GitTextError;
    fn try_from(value: String) -> Result<Self, GitTextError> {
        value.parse()
    }
}
impl From<GitRef> for String {
    fn from(value: GitRef) -> String {
        value.0
    }
}
impl std::fmt::Display for GitRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The exact commit: 40 or 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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
impl TryFrom<String> for CommitSha {
    type Error = GitTextError;
    fn try_from(value: String) -> Result<Self, GitTextError> {
        value.parse()
    }
}
impl From<CommitSha> for String {
    fn from(value: CommitSha) -> String {
        value.0
    }
}
impl std::fmt::Display for CommitSha {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a release is made from the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BuildSpec {
    /// The user's own command, run by `/bin/sh -c` inside the build's sandbox.
    pub command: String,
    pub timeout_ms: u64,
    #[serde(default)]
    pub limits: Limits,
    /// Folders relative to the source directory that are kept between builds (`node_modules`, `target`).
    #[serde(default)]
    pub cache: Vec<String>,
}

/// What an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RunSpec {
    /// The user's own command, run by `/bin/sh -c` in the release's source directory.
    Command { command: String },
    /// A folder of files served by Mainstay's own static file server.
    Static { directory: String },
}

/// Which port an instance listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PortSpec {
    /// The agent picks a free one and injects it as `PORT`.
    Injected,
    /// The command always listens on this one. Two instances cannot share it, so a rollout stops
    /// the old one first.
    Fixed { port: u16 },
    /// A worker: nothing listens.
    None,
}

/// A host and path that lead to this service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RouteSpec {
    /// `None`: any host that no other route names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    #[serde(default)]
    pub path: PathPrefix,
    /// Remove the prefix before the request reaches the service.
    #[serde(default)]
    pub strip_prefix: bool,
}

impl RouteSpec {
    /// As a person writes it: `shop.example.com/api`, or `*/` without a host.
    pub fn label(&self) -> String {
        format!("{}{}", self.host.as_ref().map_or("*", |h| h.as_str()), self.path)
    }
}

/// How it is found out whether an instance is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HealthSpec {
    pub check: HealthCheck,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    /// Good answers in a row until an instance counts as healthy.
    pub healthy_after: u32,
    /// Bad answers in a row until a healthy instance counts as unhealthy.
    pub unhealthy_after: u32,
    /// Bad answers within this time after the start are not counted.
    pub start_grace_ms: u64,
}

impl HealthSpec {
    pub fn with(check: HealthCheck) -> Self {
        Self {
            check,
            interval_ms: 5_000,
            timeout_ms: 2_000,
            healthy_after: 1,
            unhealthy_after: 3,
            start_grace_ms: 60_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HealthCheck {
    /// `GET path` answers with a status from 200 to 399.
    Http { path: String },
    /// The port accepts a connection.
    Tcp,
    /// The user's own command exits with 0.
    Command { command: String },
    /// The process is alive two seconds after its start (workers).
    Process,
}

/// What an instance or a build may use at most; `None`: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a process that exits is started again: exponential backoff from `backoff_ms` to
/// `backoff_limit_ms`. After `crash_loop_after` exits within `crash_loop_window_ms` it is said to
/// be crash-looping; it is still retried, at the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RestartSpec {
    pub backoff_ms: u64,
    pub backoff_limit_ms: u64,
    pub crash_loop_after: u32,
    pub crash_loop_window_ms: u64,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self { backoff_ms: 500, backoff_limit_ms: 60_000, crash_loop_after: 5, crash_loop_window_ms: 300_000 }
    }
}

/// SIGTERM to the process group, SIGKILL after the grace time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StopSpec {
    pub grace_ms: u64,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { grace_ms: 10_000 }
    }
}

/// How a new release takes over from the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutSpec {
    /// The new release must be healthy within this time after its build, or the deployment fails.
    pub healthy_within_ms: u64,
    /// How long open requests of the old release may take to finish.
    pub drain_ms: u64,
    /// If the new release breaks within this time after the switch, it is rolled back by itself.
    pub bake_ms: u64,
    /// How long the old release stays started (without traffic) so that a rollback is only a
    /// switch of routes.
    pub warm_ms: u64,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self { healthy_within_ms: 120_000, drain_ms: 30_000, bake_ms: 30_000, warm_ms: 300_000 }
    }
}

/// What the user last asked of a service as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ServiceIntent {
    Run,
    Stop,
}

/// An immutable snapshot: configuration plus exact commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Revision {
    pub id: RevisionId,
    pub service_id: ServiceId,
    /// 1, 2, 3, … per service: what people say aloud.
    pub number: u64,
    pub commit: CommitSha,
    /// First line of the commit message, if it could be read.
    #[serde(default)]
    pub commit_subject: String,
    pub spec: ServiceSpec,
    /// SHA-256 over spec and commit, hexadecimal: equal hashes need no new revision.
    pub hash: String,
    pub created_at_ms: UnixMillis,
}

/// One word for the whole service, worked out from its deployment and instances, for lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ServiceCondition {
    /// All wanted instances of the current revision are healthy.
    Running,
    /// A deployment is in flight.
    Deploying,
    /// Some, but not all, wanted instances are healthy.
    Degraded,
    /// No instance is healthy.
    Down,
    Stopped,
    /// Its server does not report.
    Unknown,
}

/// A service as `GET /services` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceView {
    pub id: ServiceId,
    pub name: Name,
    pub stack_id: StackId,
    pub stack: Name,
    pub project_id: ProjectId,
    pub intent: ServiceIntent,
    pub condition: ServiceCondition,
    pub replicas: u32,
    /// Revision that traffic goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<RevisionSummary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<RevisionSummary>,
    /// The newest deployment, in flight or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    pub instances: Vec<InstanceView>,
    pub routes: Vec<RouteSpec>,
    /// Addresses that answer for this service, as this machine's gateway serves them.
    pub urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevisionSummary {
    pub id: RevisionId,
    pub number: u64,
    pub commit: CommitSha,
    #[serde(default)]
    pub commit_subject: String,
    pub created_at_ms: UnixMillis,
}

/// The three facts about an instance, side by side, never blurred into one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceView {
    pub id: crate::ids::InstanceId,
    pub server_id: crate::ids::ServerId,
    pub server: Name,
    pub revision_id: RevisionId,
    pub revision_number: u64,
    pub deployment_id: DeploymentId,
    pub ordinal: u32,
    pub intent: crate::desired::InstanceIntent,
    pub traffic: crate::desired::Traffic,
    /// `None`: the server has not reported it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<InstanceObserved>,
}

/// `PUT …/scale`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScaleRequest {
    pub replicas: u32,
}

/// The most replicas one service may have on the servers of one stack.
pub const REPLICAS_LIMIT: u32 = 100;

/// `PATCH …/env`: `None` removes a variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnvPatch {
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub variables: BTreeMap<String, Option<Secret>>,
    /// Deploy the new values at once; otherwise they wait for the next deployment.
    #[serde(default)]
    pub deploy: bool,
}

/// One variable of `GET …/env`. Values are shown only when asked for with `reveal=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnvVariable {
    pub name: String,
    pub origin: EnvOrigin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EnvOrigin {
    Manifest,
    /// Set with `mainstay env set`; wins over the manifest.
    Set,
    /// Injected by Mainstay (`PORT`, `SERVICE_<NAME>_URL`).
    Injected,
}

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
    fn git_references_that_git_or_a_shell_could_misread_are_refused() {
        for bad in ["--upload-pack=x", "a b", "a..b", "a\nb", "a~1", "$(id)", "x.lock", "/x", "x/", "@", "a@{1}", ""] {
            assert!(bad.parse::<GitRef>().is_err(), "{bad:?} was accepted");
        }
        for good in ["main", "release/1.2", "v1.0.0", "0123456789012345678901234567890123456789"] {
            assert!(good.parse::<GitRef>().is_ok(), "{good:?} was refused");
        }
    }
}
