//! What a server should be: one document per server, with a generation that only rises, a hash and
//! a signature.
//!
//! The document is complete: an agent that holds it needs nothing else to keep everything running,
//! to restart after a reboot and to fail over, with the control plane gone. The signature is over
//! the exact bytes of [`SignedDesiredState::document`], which therefore travels as text and is
//! parsed only after it was verified.

use crate::UnixMillis;
use crate::gateway::{DnsSettings, GatewaySettings};
use crate::ids::{DeploymentId, InstanceId, ProjectId, RevisionId, ServerId, ServiceId, StackId};
use crate::images::{ImageDigest, ImageReference, PullPolicy, RegistryCredential};
use crate::name::Name;
use crate::secret::Secret;
use crate::services::{
    BuildSpec, CommitSha, GitUrl, HealthSpec, Limits, PortSpec, RestartSpec, RouteSpec, RunSpec, StopSpec,
};
use crate::tls::{CertificateDesired, ChallengeAnswer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How much of a server may be reached from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SecurityMode {
    /// A: no firewall of ours; the gateway is public.
    Open,
    /// B: only the gateway port is public.
    GatewayOnly,
    /// C: nothing is; the gateway listens on loopback.
    #[default]
    Closed,
}

/// The signed envelope, of a server's desired state and of the fleet state alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignedDesiredState {
    pub generation: u64,
    /// JSON text of a [`DesiredState`] or a [`FleetState`](crate::fleet::FleetState).
    pub document: String,
    /// SHA-256 of `document`, hexadecimal.
    pub sha256: String,
    /// Ed25519 over `document` under the control plane's key, base64.
    pub signature: String,
    /// Which key signed: the first 16 hexadecimal digits of the SHA-256 of the public key.
    pub key_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DesiredState {
    pub server_id: ServerId,
    pub server_name: Name,
    /// Rises with every change of this server's document; an agent refuses a lower one.
    pub generation: u64,
    pub issued_at_ms: UnixMillis,
    pub poll_interval_ms: u64,
    /// Whether there are other servers to reach: then the fleet state is asked for, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_fleet: bool,
    pub security_mode: SecurityMode,
    pub gateway: GatewaySettings,
    pub dns: DnsSettings,
    pub stacks: Vec<StackDesired>,
    /// Those that are for a host of a route here. Of two for the same name, the first is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateDesired>,
    /// What a certificate authority may ask for just now, on any server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub challenges: Vec<ChallengeAnswer>,
}

impl DesiredState {
    /// All services with the stack that each belongs to.
    pub fn services(&self) -> impl Iterator<Item = (&StackDesired, &ServiceDesired)> {
        self.stacks.iter().flat_map(|stack| stack.services.iter().map(move |service| (stack, service)))
    }
}

/// The part of a stack that lands on this server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StackDesired {
    pub stack_id: StackId,
    pub project_id: ProjectId,
    pub name: Name,
    /// Rises with every accepted change of the stack.
    pub version: u64,
    /// SHA-256 over this stack's services in this document, hexadecimal.
    pub hash: String,
    pub services: Vec<ServiceDesired>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceDesired {
    pub service_id: ServiceId,
    pub name: Name,
    pub routes: Vec<RouteSpec>,
    /// Every revision that an instance below needs, and those that are to be prepared (built)
    /// before instances of them are wanted.
    pub revisions: Vec<RevisionDesired>,
    pub instances: Vec<InstanceDesired>,
}

impl ServiceDesired {
    pub fn revision(&self, id: &RevisionId) -> Option<&RevisionDesired> {
        self.revisions.iter().find(|r| &r.revision_id == id)
    }
}

/// A revision with all that the machine needs to prepare and run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevisionDesired {
    pub revision_id: RevisionId,
    pub number: u64,
    pub deployment_id: DeploymentId,
    pub source: ResolvedSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
    /// SHA-256 over what the build depends on (source, commit, directory, build, env): revisions
    /// that share it share one build.
    pub build_key: String,
    pub run: RunSpec,
    pub env: BTreeMap<String, Secret>,
    pub port: PortSpec,
    pub health: HealthSpec,
    #[serde(default)]
    pub limits: Limits,
    pub restart: RestartSpec,
    pub stop: StopSpec,
}

/// What a machine fetches: `git` or `image` tells which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ResolvedSource {
    Git(ResolvedGit),
    Image(ResolvedImage),
}

impl ResolvedSource {
    pub fn git(&self) -> Option<&ResolvedGit> {
        match self {
            Self::Git(source) => Some(source),
            Self::Image(_) => None,
        }
    }

    pub fn image(&self) -> Option<&ResolvedImage> {
        match self {
            Self::Git(_) => None,
            Self::Image(source) => Some(source),
        }
    }

    /// `commit 1a2b3c4d5e`, `image 3f8a00f137a0`: for people.
    pub fn label(&self) -> String {
        match self {
            Self::Git(source) => format!("commit {}", source.commit.short()),
            Self::Image(ResolvedImage { digest: Some(digest), .. }) => format!("image {}", digest.short()),
            Self::Image(source) => format!("image {}", source.image),
        }
    }
}

/// An image that an engine pulls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResolvedImage {
    pub image: ImageReference,
    /// `None`: an image that is never pulled; the machine has it under its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ImageDigest>,
    #[serde(default)]
    pub pull: PullPolicy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<RegistryCredential>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResolvedGit {
    pub git: GitUrl,
    pub commit: CommitSha,
    /// Branch or tag that led to the commit: a server that refuses fetches by SHA is asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<crate::services::GitRef>,
    pub directory: String,
    #[serde(default)]
    pub submodules: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<GitCredential>,
}

/// How a private repository or registry is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum GitCredential {
    /// A private key in OpenSSH's text form, for ssh URLs.
    DeployKey { private_key: Secret },
    /// User and token, for https URLs and for registries of images.
    Token { user: String, token: Secret },
}

/// `POST /credentials`: store one under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CredentialRequest {
    pub name: Name,
    pub credential: GitCredential,
}

/// A stored credential, without what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CredentialView {
    pub name: Name,
    /// `deploy_key` or `token`.
    pub kind: String,
    pub created_at_ms: UnixMillis,
}

/// Whether an instance should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum InstanceIntent {
    Run,
    Stop,
}

/// An instance's part in serving requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Traffic {
    /// Not yet: it is being started and checked.
    Candidate,
    /// Gets new requests.
    Active,
    /// Gets no new requests; open ones finish.
    Draining,
    /// Gets none and has none.
    Out,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceDesired {
    pub instance_id: InstanceId,
    pub revision_id: RevisionId,
    /// The deployment that created it.
    pub deployment_id: DeploymentId,
    pub ordinal: u32,
    pub intent: InstanceIntent,
    pub traffic: Traffic,
    /// Of a container, in its server's network; no other instance has it at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<Ipv4Addr>,
}
