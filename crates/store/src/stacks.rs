//! Stacks, and the one transaction in which a manifest becomes services, revisions and deployments.

use crate::codec::{parse, text};
use crate::deployments::{self, DeploymentCreate, RevisionCreate, Tell};
use crate::pen::Write;
use crate::statement::Statement;
use crate::{Error, Result, Scope, Store, events as stored_events};
use api::UnixMillis;
use api::cause::Cause;
use api::deployments::{Deployment, DeploymentKind};
use api::events::Event;
use api::ids::{DeploymentId, ProjectId, RevisionId, ServiceId, StackId};
use api::name::Name;
use api::services::ServiceIntent;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    pub id: StackId,
    pub project_id: ProjectId,
    pub name: Name,
    pub version: u64,
    pub manifest: String,
    /// It is forgotten once its services are.
    pub removing: bool,
    pub created_at_ms: UnixMillis,
    pub updated_at_ms: UnixMillis,
}

/// A manifest to be made real.
#[derive(Debug, Clone)]
pub struct StackDeploy {
    /// Used if the stack is new.
    pub stack_id: StackId,
    pub project_id: ProjectId,
    pub name: Name,
    /// The version that all this was worked out against; 0: it did not exist.
    pub expected_version: u64,
    pub manifest: String,
    pub services: Vec<ServiceDeploy>,
    pub removals: Vec<ServiceRemoval>,
    pub cause: Cause,
    pub tell: Tell,
    /// What is told about the stack, before what is told about its deployments.
    pub events: Vec<Event>,
}

/// A stack to be removed with all its services.
#[derive(Debug, Clone)]
pub struct StackRemove {
    pub stack_id: StackId,
    pub removals: Vec<ServiceRemoval>,
    pub cause: Cause,
    pub tell: Tell,
    /// What is told about the stack, before what is told about its deployments.
    pub events: Vec<Event>,
}

/// A service that the manifest names.
#[derive(Debug, Clone)]
pub struct ServiceDeploy {
    /// Used if the service is new.
    pub service_id: ServiceId,
    pub name: Name,
    pub replicas: u32,
    /// `None`: it stays as it is.
    pub change: Option<(DeploymentId, DeploymentKind, RevisionChange)>,
}

/// What a deployment of the manifest makes live. `None`, for a deploy: the newest revision, whatever
/// became of it, because the manifest was compared with that one and a failed one may be tried again;
/// for a restart or scaling: the revision that is in use.
pub type RevisionChange = Option<RevisionCreate>;

/// A service that the manifest no longer names.
#[derive(Debug, Clone)]
pub struct ServiceRemoval {
    pub service_id: ServiceId,
    pub deployment_id: DeploymentId,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StackDeployed {
    pub stack: Stack,
    pub deployments: Vec<Deployment>,
}

const COLUMNS: &str = "id, project_id, name, version, manifest, removing, created_at_ms, updated_at_ms";

type Row = (String, String, String, i64, String, i64, i64, i64);

fn stack(row: Row) -> Result<Stack> {
    let (id, project_id, name, version, manifest, removing, created_at_ms, updated_at_ms) = row;
    Ok(Stack {
        id: parse("stack", &id)?,
        project_id: parse("stack", &project_id)?,
        name: parse("stack", &name)?,
        version: version as u64,
        manifest,
        removing: removing != 0,
        created_at_ms,
        updated_at_ms,
    })
}

impl Store {
    pub async fn stack_list(&self, scope: &Scope) -> Result<Vec<Stack>> {
        let sql = format!("SELECT {COLUMNS} FROM stacks WHERE organization_id = $1 ORDER BY name");
        let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(stack).collect()
    }

    /// Those of these that are there.
    pub async fn stack_list_of<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a StackId>,
    ) -> Result<Vec<Stack>> {
        let select = format!("SELECT {COLUMNS} FROM stacks");
        let ids: Vec<&str> = ids.into_iter().map(StackId::as_str).collect();
        let rows = Statement::fetch_among::<Row>(self, (&select, " ORDER BY name"), scope, "id", &ids).await?;
        rows.into_iter().map(stack).collect()
    }

    /// Those behind a name, in the order of names; `limit` at most.
    pub async fn stack_page(&self, scope: &Scope, after: &str, limit: u32) -> Result<Vec<Stack>> {
        let sql =
            format!("SELECT {COLUMNS} FROM stacks WHERE organization_id = $1 AND name > $2 ORDER BY name LIMIT $3");
        let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(stack).collect()
    }

    /// How many there are.
    pub async fn stack_count(&self, scope: &Scope) -> Result<u64> {
        let row = sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM stacks WHERE organization_id = $1")
            .bind(scope.organization.as_str())
            .fetch_one(&self.pool)
            .await?;
        Ok(row.0 as u64)
    }

    pub async fn stack_get(&self, scope: &Scope, id: &StackId) -> Result<Stack> {
        let sql = format!("SELECT {COLUMNS} FROM stacks WHERE organization_id = $1 AND id = $2");
        let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?;
        stack(row.ok_or_else(|| Error::not_found("stack", id.as_str()))?)
    }

    pub async fn stack_find(&self, scope: &Scope, name: &Name) -> Result<Option<Stack>> {
        let sql = format!("SELECT {COLUMNS} FROM stacks WHERE organization_id = $1 AND name = $2");
        let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .bind(name.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.map(stack).transpose()
    }

    /// All of it or nothing. Refused as stale if the stack is no longer at the expected version.
    pub async fn stack_deploy(&self, scope: &Scope, deploy: &StackDeploy, now_ms: UnixMillis) -> Result<StackDeployed> {
        let mut transaction = self.write(&scope.organization).await?;
        let deployed = deploy_in(&mut transaction, scope, deploy, now_ms).await;
        transaction.end(deployed).await
    }

    /// Begins the removal of a whole stack: every service stops, and is forgotten when it has; the stack with
    /// the last of them, and one that has none at once.
    pub async fn stack_remove(
        &self,
        scope: &Scope,
        remove: &StackRemove,
        now_ms: UnixMillis,
    ) -> Result<Vec<Deployment>> {
        let mut transaction = self.write(&scope.organization).await?;
        let removed = remove_in(&mut transaction, scope, remove, now_ms).await;
        transaction.end(removed).await
    }
}

/// Forgets a stack that is being removed and has no service left. Answers whether it did.
pub(crate) async fn delete_if_empty(transaction: &mut Write, scope: &Scope, id: &StackId) -> Result<bool> {
    let gone = sqlx::query(
        "DELETE FROM stacks WHERE id = $1 AND organization_id = $2 AND removing = 1
         AND NOT EXISTS (SELECT 1 FROM services WHERE services.stack_id = stacks.id)",
    )
    .bind(id.as_str())
    .bind(scope.organization.as_str())
    .execute(&mut **transaction)
    .await?;
    Ok(gone.rows_affected() > 0)
}

async fn deploy_in(
    transaction: &mut Write,
    scope: &Scope,
    deploy: &StackDeploy,
    now_ms: UnixMillis,
) -> Result<StackDeployed> {
    let found = find_in(transaction, scope, &deploy.name).await?;
    let found_version = found.as_ref().map_or(0, |stack| stack.version);
    if found_version != deploy.expected_version {
        return Err(Error::Stale {
            noun: "stack",
            expected: format!("version {}", deploy.expected_version),
            found: format!("version {found_version}"),
        });
    }
    expect_project(transaction, scope, &deploy.project_id).await?;
    let stack_id = upsert(transaction, scope, deploy, found.map(|stack| stack.id), now_ms).await?;
    stored_events::append_in(transaction, scope, &deploy.events).await?;
    let mut made = Vec::new();
    for service in &deploy.services {
        made.extend(deploy_service(transaction, scope, deploy, &stack_id, service, now_ms).await?);
    }
    for removal in &deploy.removals {
        made.extend(
            remove_service(transaction, scope, &stack_id, removal, (&deploy.cause, deploy.tell), now_ms).await?,
        );
    }
    let stack = find_in(transaction, scope, &deploy.name).await?;
    let stack = stack.ok_or_else(|| Error::not_found("stack", deploy.name.as_str()))?;
    Ok(StackDeployed { stack, deployments: made })
}

async fn remove_in(
    transaction: &mut Write,
    scope: &Scope,
    remove: &StackRemove,
    now_ms: UnixMillis,
) -> Result<Vec<Deployment>> {
    let id = &remove.stack_id;
    let found = sqlx::query(
        "UPDATE stacks SET removing = 1, version = version + 1, updated_at_ms = $1
         WHERE id = $2 AND organization_id = $3",
    )
    .bind(now_ms)
    .bind(id.as_str())
    .bind(scope.organization.as_str())
    .execute(&mut **transaction)
    .await?;
    if found.rows_affected() == 0 {
        return Err(Error::not_found("stack", id.as_str()));
    }
    stored_events::append_in(transaction, scope, &remove.events).await?;
    let mut made = Vec::new();
    for removal in &remove.removals {
        made.extend(remove_service(transaction, scope, id, removal, (&remove.cause, remove.tell), now_ms).await?);
    }
    delete_if_empty(transaction, scope, id).await?;
    Ok(made)
}

/// A stack must not reach into another tenant's project.
async fn expect_project(transaction: &mut Write, scope: &Scope, id: &ProjectId) -> Result<()> {
    let row = sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM projects WHERE id = $1 AND organization_id = $2")
        .bind(id.as_str())
        .bind(scope.organization.as_str())
        .fetch_one(&mut **transaction)
        .await?;
    if row.0 == 0 { Err(Error::not_found("project", id.as_str())) } else { Ok(()) }
}

async fn find_in(transaction: &mut Write, scope: &Scope, name: &Name) -> Result<Option<Stack>> {
    let sql = format!("SELECT {COLUMNS} FROM stacks WHERE organization_id = $1 AND name = $2");
    let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
        .bind(scope.organization.as_str())
        .bind(name.as_str())
        .fetch_optional(&mut **transaction)
        .await?;
    row.map(stack).transpose()
}

async fn upsert(
    transaction: &mut Write,
    scope: &Scope,
    deploy: &StackDeploy,
    existing: Option<StackId>,
    now_ms: UnixMillis,
) -> Result<StackId> {
    let Some(id) = existing else {
        sqlx::query(
            "INSERT INTO stacks (id, organization_id, project_id, name, version, manifest, removing, created_at_ms,
                                 updated_at_ms)
             VALUES ($1, $2, $3, $4, 1, $5, 0, $6, $6)",
        )
        .bind(deploy.stack_id.as_str())
        .bind(scope.organization.as_str())
        .bind(deploy.project_id.as_str())
        .bind(deploy.name.as_str())
        .bind(text(&deploy.manifest).as_ref())
        .bind(now_ms)
        .execute(&mut **transaction)
        .await?;
        return Ok(deploy.stack_id.clone());
    };
    sqlx::query(
        "UPDATE stacks SET project_id = $1, version = version + 1, manifest = $2, removing = 0, updated_at_ms = $3
         WHERE id = $4 AND organization_id = $5",
    )
    .bind(deploy.project_id.as_str())
    .bind(text(&deploy.manifest).as_ref())
    .bind(now_ms)
    .bind(id.as_str())
    .bind(scope.organization.as_str())
    .execute(&mut **transaction)
    .await?;
    Ok(id)
}

async fn deploy_service(
    transaction: &mut Write,
    scope: &Scope,
    deploy: &StackDeploy,
    stack_id: &StackId,
    service: &ServiceDeploy,
    now_ms: UnixMillis,
) -> Result<Option<Deployment>> {
    sqlx::query(
        "INSERT INTO services (id, organization_id, stack_id, name, intent, replicas, removing, created_at_ms)
         VALUES ($1, $2, $3, $4, 'run', $5, 0, $6)
         ON CONFLICT (stack_id, name) DO UPDATE SET removing = 0",
    )
    .bind(service.service_id.as_str())
    .bind(scope.organization.as_str())
    .bind(stack_id.as_str())
    .bind(service.name.as_str())
    .bind(i64::from(service.replicas))
    .bind(now_ms)
    .execute(&mut **transaction)
    .await?;
    let (id,) = sqlx::query_as::<_, (String,)>(
        "SELECT id FROM services WHERE stack_id = $1 AND name = $2 AND organization_id = $3",
    )
    .bind(stack_id.as_str())
    .bind(service.name.as_str())
    .bind(scope.organization.as_str())
    .fetch_one(&mut **transaction)
    .await?;
    let service_id: ServiceId = parse("service", &id)?;
    let Some((deployment_id, kind, revision)) = &service.change else { return Ok(None) };
    let revision_id = match revision {
        Some(revision) => revision.id.clone(),
        None => {
            let found = match kind {
                DeploymentKind::Deploy => newest_revision(transaction, scope, &service_id).await?,
                _ => revision_in_use(transaction, scope, &service_id).await?,
            };
            found.ok_or_else(|| Error::not_found("revision of service", service.name.as_str()))?
        }
    };
    let create = DeploymentCreate {
        id: deployment_id.clone(),
        service_id,
        kind: *kind,
        revision_id,
        cause: deploy.cause.clone(),
        replicas: Some(service.replicas),
        intent: Some(ServiceIntent::Run),
        revision: revision.clone(),
        tell: deploy.tell,
        events: Vec::new(),
    };
    deployments::begin(transaction, scope, &create, now_ms).await.map(Some)
}

async fn newest_revision(transaction: &mut Write, scope: &Scope, service_id: &ServiceId) -> Result<Option<RevisionId>> {
    let row = sqlx::query_as::<_, (String,)>(
        "SELECT id FROM revisions WHERE service_id = $1 AND organization_id = $2 ORDER BY number DESC LIMIT 1",
    )
    .bind(service_id.as_str())
    .bind(scope.organization.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    row.map(|(id,)| parse("revision", &id)).transpose()
}

/// The revision that a service is on its way to, else the one that serves, else the newest: what
/// "the same, but …" means. After a rollback that is not the newest.
async fn revision_in_use(transaction: &mut Write, scope: &Scope, service_id: &ServiceId) -> Result<Option<RevisionId>> {
    type Row = (Option<String>, Option<String>, Option<String>);
    let row = sqlx::query_as::<_, Row>(
        "SELECT (SELECT d.revision_id FROM deployments d WHERE d.service_id = s.id AND d.in_flight = 1),
                s.current_revision_id,
                (SELECT r.id FROM revisions r WHERE r.service_id = s.id ORDER BY r.number DESC LIMIT 1)
         FROM services s WHERE s.id = $1 AND s.organization_id = $2",
    )
    .bind(service_id.as_str())
    .bind(scope.organization.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    let (coming, current, newest) = row.ok_or_else(|| Error::not_found("service", service_id.as_str()))?;
    coming.or(current).or(newest).map(|id| parse("revision", &id)).transpose()
}

async fn remove_service(
    transaction: &mut Write,
    scope: &Scope,
    stack_id: &StackId,
    removal: &ServiceRemoval,
    (cause, tell): (&Cause, Tell),
    now_ms: UnixMillis,
) -> Result<Option<Deployment>> {
    let found = sqlx::query(
        "UPDATE services SET removing = 1, intent = 'stop' WHERE id = $1 AND stack_id = $2 AND organization_id = $3",
    )
    .bind(removal.service_id.as_str())
    .bind(stack_id.as_str())
    .bind(scope.organization.as_str())
    .execute(&mut **transaction)
    .await?;
    if found.rows_affected() == 0 {
        return Err(Error::not_found("service", removal.service_id.as_str()));
    }
    // A service that never got a revision has nothing to stop.
    let Some(revision_id) = revision_in_use(transaction, scope, &removal.service_id).await? else { return Ok(None) };
    let create = DeploymentCreate {
        id: removal.deployment_id.clone(),
        service_id: removal.service_id.clone(),
        kind: DeploymentKind::Stop,
        revision_id,
        cause: cause.clone(),
        replicas: None,
        intent: Some(ServiceIntent::Stop),
        revision: None,
        tell,
        events: Vec::new(),
    };
    deployments::begin(transaction, scope, &create, now_ms).await.map(Some)
}
