//! What would happen: the answer of `mainstay plan`, shown before anything does.
//!
//! A plan names the version of the stack and the commits and image digests it was made against. Applying it later is
//! refused if either has moved: what a person agreed to is what happens, or nothing.

use crate::ids::StackId;
use crate::name::Name;
use crate::services::{GitRef, GitUrl, ServiceSpec};
use crate::sources::SourceVersion;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `POST /api/v1/plan` and the first part of `POST /api/v1/deploy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlanRequest {
    /// Text of a `mainstay.toml`.
    pub manifest: String,
    /// Name of the manifest in error messages.
    #[serde(default)]
    pub manifest_path: Option<String>,
    /// Source for services whose manifest names none: the repository that holds the manifest.
    #[serde(default)]
    pub default_source: Option<DefaultSource>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DefaultSource {
    pub git: GitUrl,
    #[serde(default)]
    pub reference: Option<GitRef>,
    /// Folder of the manifest inside the repository.
    #[serde(default)]
    pub directory: String,
}

/// What would happen to one stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StackPlan {
    /// `None`: the stack does not exist yet.
    pub stack_id: Option<StackId>,
    pub stack: Name,
    /// Version of the stack that this plan was made against; 0 for a new one.
    pub base_version: u64,
    /// SHA-256 over everything the plan depends on; applying compares it.
    pub fingerprint: String,
    pub services: Vec<ServicePlan>,
}

impl StackPlan {
    pub fn is_empty(&self) -> bool {
        self.services.iter().all(|s| s.action == ServicePlanAction::Keep)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ServicePlanAction {
    Create,
    /// A new revision, or another number of replicas.
    Update,
    Remove,
    Keep,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServicePlan {
    pub service: Name,
    pub action: ServicePlanAction,
    /// Commit or image digest that the reference leads to now.
    #[serde(alias = "commit")]
    pub source_version: Option<SourceVersion>,
    pub differences: Vec<Difference>,
    /// What a person should know before agreeing: downtime, no health check, a build that runs.
    pub notes: Vec<String>,
}

/// One field that changes. Values of environment variables are never shown, only that they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Difference {
    /// `run.command`, `env.DATABASE_URL`, `commit`
    pub field: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// `POST /api/v1/deploy`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeployRequest {
    #[serde(flatten)]
    pub plan: PlanRequest,
    /// Fingerprint of a plan that was agreed to; refused with `stale_plan` if it no longer holds.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Only these services; empty: all.
    #[serde(default)]
    pub services: Vec<Name>,
    /// Deploy services that did not change, too.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeployAnswer {
    pub stack_id: StackId,
    pub stack: Name,
    pub version: u64,
    pub plan: StackPlan,
    /// One per service that changes; empty when nothing does.
    pub deployments: Vec<crate::deployments::Deployment>,
}

/// A stack after its manifest was read: what `plan` compares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StackSpec {
    pub name: Name,
    pub project: Option<Name>,
    pub services: BTreeMap<Name, ServiceSpec>,
}
