//! Deployments. Creating one supersedes the one in flight, in the same transaction; a unique index
//! sees to it that there is never a second. What is told about it is kept in that transaction as well.

use crate::codec::{from_json, to_json, word};
use crate::pen::Write;
use crate::statement::Statement;
use crate::{Error, Result, Scope, Store, events as stored_events, revisions, services};
use api::UnixMillis;
use api::cause::Cause;
use api::deployments::{Deployment, DeploymentKind, Stage, StageEntry};
use api::events::Event;
use api::ids::{DeploymentId, RevisionId, ServiceId};
use api::services::{ServiceIntent, ServiceSpec, SourceVersion};

/// A revision to be written.
#[derive(Debug, Clone)]
pub struct RevisionCreate {
    pub id: RevisionId,
    pub source_version: SourceVersion,
    pub source_subject: String,
    pub spec: ServiceSpec,
    pub hash: String,
}

/// A deployment to be begun, and what it changes of its service.
#[derive(Debug, Clone)]
pub struct DeploymentCreate {
    pub id: DeploymentId,
    pub service_id: ServiceId,
    pub kind: DeploymentKind,
    pub revision_id: RevisionId,
    pub cause: Cause,
    /// `None`: as the service has it.
    pub replicas: Option<u32>,
    pub intent: Option<ServiceIntent>,
    /// A revision that is written first; `revision_id` names it.
    pub revision: Option<RevisionCreate>,
    pub tell: Tell,
    /// What is told besides.
    pub events: Vec<Event>,
}

/// A deployment that was begun, and the one in flight that it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    pub deployment: Deployment,
    pub superseded: Option<Deployment>,
}

/// What is told about a deployment that was begun: its number is known only in the transaction that makes it.
pub type Tell = fn(&Begun) -> Vec<Event>;

impl Store {
    pub async fn deployment_create(
        &self,
        scope: &Scope,
        create: &DeploymentCreate,
        now_ms: UnixMillis,
    ) -> Result<Deployment> {
        let mut transaction = self.write(&scope.organization).await?;
        let made = begin(&mut transaction, scope, create, now_ms).await;
        transaction.end(made).await
    }

    pub async fn deployment_get(&self, scope: &Scope, id: &DeploymentId) -> Result<Deployment> {
        const SQL: &str = "SELECT document FROM deployments WHERE id = $1 AND organization_id = $2";
        from_json("deployment", &self.document(SQL, scope, "deployment", id.as_str()).await?)
    }

    /// Newest first.
    pub async fn deployment_list(&self, scope: &Scope, service_id: &ServiceId, limit: u32) -> Result<Vec<Deployment>> {
        const SQL: &str = "SELECT document FROM deployments WHERE service_id = $1 AND organization_id = $2
             ORDER BY number DESC LIMIT $3";
        let documents = self.documents_of_service(SQL, scope, service_id, limit).await?;
        documents.iter().map(|(text,)| from_json("deployment", text)).collect()
    }

    /// Of all services, newest first; `before`: only those made earlier than that one.
    pub async fn deployment_list_latest(
        &self,
        scope: &Scope,
        before: Option<&DeploymentId>,
        limit: u32,
    ) -> Result<Vec<Deployment>> {
        // The order of ids is the order in which they were made, so the primary key serves this.
        let mut query = Statement::new("SELECT document FROM deployments WHERE organization_id = ");
        query.bind(scope.organization.as_str());
        if let Some(before) = before {
            query.push(" AND id < ").bind(before.as_str());
        }
        query.push(" ORDER BY id DESC LIMIT ").bind(i64::from(limit));
        let rows = query.fetch_all::<(String,), _>(&self.pool).await?;
        rows.iter().map(|(text,)| from_json("deployment", text)).collect()
    }

    /// Those of these that are there.
    pub async fn deployment_list_of<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a DeploymentId>,
    ) -> Result<Vec<Deployment>> {
        let ids: Vec<&str> = ids.into_iter().map(DeploymentId::as_str).collect();
        let select = ("SELECT document FROM deployments", "");
        let rows = Statement::fetch_among::<(String,)>(self, select, scope, "id", &ids).await?;
        rows.iter().map(|(text,)| from_json("deployment", text)).collect()
    }

    /// The newest of a service, which is the one that the rollout looks at.
    pub async fn deployment_newest(&self, scope: &Scope, service_id: &ServiceId) -> Result<Option<Deployment>> {
        Ok(self.deployment_list(scope, service_id, 1).await?.pop())
    }

    /// The newest of each of these services that has one.
    pub async fn deployment_list_newest<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a ServiceId>,
    ) -> Result<Vec<Deployment>> {
        const SELECT: &str = "SELECT document FROM deployments";
        const NEWEST: &str = " AND number = (SELECT MAX(newest.number) FROM deployments newest
                                             WHERE newest.service_id = deployments.service_id)";
        let ids: Vec<&str> = ids.into_iter().map(ServiceId::as_str).collect();
        let rows = Statement::fetch_among::<(String,)>(self, (SELECT, NEWEST), scope, "service_id", &ids).await?;
        rows.iter().map(|(text,)| from_json("deployment", text)).collect()
    }

    /// Writes a deployment whose stage is still `expected`, and what is told about it.
    pub async fn deployment_update(
        &self,
        scope: &Scope,
        deployment: &Deployment,
        expected: Stage,
        events: &[Event],
    ) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let updated = update(&mut transaction, scope, deployment, expected).await;
        let told = stored_events::append_after(&mut transaction, scope, updated, events).await;
        transaction.end(told).await
    }
}

pub(crate) async fn update(
    transaction: &mut Write,
    scope: &Scope,
    deployment: &Deployment,
    expected: Stage,
) -> Result<()> {
    let written = sqlx::query(
        "UPDATE deployments SET stage = $1, in_flight = $2, document = $3
         WHERE id = $4 AND organization_id = $5 AND stage = $6",
    )
    .bind(deployment.stage.as_str())
    .bind(i64::from(deployment.stage.in_flight()))
    .bind(to_json("deployment", deployment)?)
    .bind(deployment.id.as_str())
    .bind(scope.organization.as_str())
    .bind(expected.as_str())
    .execute(&mut **transaction)
    .await?;
    if written.rows_affected() > 0 {
        return Ok(());
    }
    let found = sqlx::query_as::<_, (String,)>("SELECT stage FROM deployments WHERE id = $1 AND organization_id = $2")
        .bind(deployment.id.as_str())
        .bind(scope.organization.as_str())
        .fetch_optional(&mut **transaction)
        .await?;
    match found {
        Some((found,)) => Err(Error::Stale { noun: "deployment", expected: expected.to_string(), found }),
        None => Err(Error::not_found("deployment", deployment.id.as_str())),
    }
}

/// Ends the deployment in flight, if there is one.
async fn supersede(
    transaction: &mut Write,
    scope: &Scope,
    service_id: &ServiceId,
    now_ms: UnixMillis,
) -> Result<Option<Deployment>> {
    let row = sqlx::query_as::<_, (String,)>(
        "SELECT document FROM deployments WHERE service_id = $1 AND organization_id = $2 AND in_flight = 1",
    )
    .bind(service_id.as_str())
    .bind(scope.organization.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    let Some((text,)) = row else { return Ok(None) };
    let mut deployment: Deployment = from_json("deployment", &text)?;
    let before = deployment.stage;
    deployment.stage = Stage::Superseded;
    deployment.stages.push(StageEntry { stage: Stage::Superseded, at_ms: now_ms });
    deployment.ended_at_ms = Some(now_ms);
    update(transaction, scope, &deployment, before).await?;
    Ok(Some(deployment))
}

/// Makes a deployment and keeps what is told about it.
pub(crate) async fn begin(
    transaction: &mut Write,
    scope: &Scope,
    create: &DeploymentCreate,
    now_ms: UnixMillis,
) -> Result<Deployment> {
    let begun = insert(transaction, scope, create, now_ms).await?;
    let mut events = (create.tell)(&begun);
    events.extend(create.events.iter().cloned());
    stored_events::append_in(transaction, scope, &events).await?;
    Ok(begun.deployment)
}

async fn insert(
    transaction: &mut Write,
    scope: &Scope,
    create: &DeploymentCreate,
    now_ms: UnixMillis,
) -> Result<Begun> {
    let service = services::get_in(transaction, scope, &create.service_id).await?;
    if service.removing && create.kind != DeploymentKind::Stop {
        return Err(Error::Conflict(format!(
            "the service `{}` is being removed; deploy its stack again",
            service.name
        )));
    }
    let revision = match &create.revision {
        Some(revision) => revisions::insert(transaction, scope, &create.service_id, revision, now_ms).await?,
        None => revisions::get_in(transaction, scope, &create.service_id, &create.revision_id).await?,
    };
    let superseded = supersede(transaction, scope, &create.service_id, now_ms).await?;
    let replicas = create.replicas.unwrap_or(service.replicas);
    sqlx::query("UPDATE services SET intent = $1, replicas = $2 WHERE id = $3 AND organization_id = $4")
        .bind(word(&create.intent.unwrap_or(service.intent)))
        .bind(i64::from(replicas))
        .bind(create.service_id.as_str())
        .bind(scope.organization.as_str())
        .execute(&mut **transaction)
        .await?;
    let (newest,) =
        sqlx::query_as::<_, (i64,)>("SELECT COALESCE(MAX(number), 0) FROM deployments WHERE service_id = $1")
            .bind(create.service_id.as_str())
            .fetch_one(&mut **transaction)
            .await?;
    let mut cause = create.cause.clone();
    cause.deployment_id = Some(create.id.clone());
    let deployment = Deployment {
        id: create.id.clone(),
        stack_id: service.stack_id.clone(),
        service_id: service.id.clone(),
        service: service.name.clone(),
        kind: create.kind,
        revision_id: revision.id,
        revision_number: revision.number,
        source_version: revision.source_version,
        source_subject: revision.source_subject,
        previous_revision_id: service.current_revision_id.clone(),
        replicas: if create.kind == DeploymentKind::Stop { 0 } else { replicas },
        stage: Stage::Pending,
        stages: vec![StageEntry { stage: Stage::Pending, at_ms: now_ms }],
        cause,
        failure: None,
        created_at_ms: now_ms,
        ended_at_ms: None,
        bake_until_ms: None,
        warm_until_ms: None,
        waits_for: Vec::new(),
    };
    sqlx::query(
        "INSERT INTO deployments (id, organization_id, service_id, revision_id, stage, in_flight, number, document,
                                  created_at_ms)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8)",
    )
    .bind(deployment.id.as_str())
    .bind(scope.organization.as_str())
    .bind(deployment.service_id.as_str())
    .bind(deployment.revision_id.as_str())
    .bind(deployment.stage.as_str())
    .bind(newest + 1)
    .bind(to_json("deployment", &deployment)?)
    .bind(now_ms)
    .execute(&mut **transaction)
    .await?;
    Ok(Begun { deployment, superseded })
}
