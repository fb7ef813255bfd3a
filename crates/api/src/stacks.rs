//! A stack as `GET /stacks` shows it.

use crate::UnixMillis;
use crate::ids::{ProjectId, StackId};
use crate::name::Name;
use crate::observed::StackCondition;
use crate::services::ServiceView;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StackView {
    pub id: StackId,
    pub name: Name,
    pub project_id: ProjectId,
    pub project: Name,
    pub version: u64,
    pub condition: StackCondition,
    /// Why it is degraded, one sentence each.
    pub problems: Vec<String>,
    /// The manifest it was made from.
    pub manifest: String,
    pub created_at_ms: UnixMillis,
    pub updated_at_ms: UnixMillis,
    pub services: Vec<ServiceView>,
}
