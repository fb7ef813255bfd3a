//! Instances, and the one transaction in which a rollout tick is written down.

use crate::codec::{from_word, parse, word};
use crate::pen::Write;
use crate::statement::Statement;
use crate::{Error, Result, Scope, Store, addresses, deployments, events as stored_events, services};
use api::UnixMillis;
use api::deployments::{Deployment, Stage};
use api::desired::{InstanceIntent, Traffic};
use api::events::Event;
use api::ids::{DeploymentId, InstanceId, RevisionId, ServerId, ServiceId};
use std::net::Ipv4Addr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub id: InstanceId,
    pub service_id: ServiceId,
    pub revision_id: RevisionId,
    pub deployment_id: DeploymentId,
    pub server_id: ServerId,
    pub ordinal: u32,
    pub intent: InstanceIntent,
    pub traffic: Traffic,
    pub traffic_changed_at_ms: UnixMillis,
    /// Of a container, in its server's network.
    pub address: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceChange {
    Create(Instance),
    /// The instance is a container, and is given an address.
    CreateWithAddress(Instance),
    SetTraffic {
        id: InstanceId,
        traffic: Traffic,
    },
    SetIntent {
        id: InstanceId,
        intent: InstanceIntent,
    },
    Delete {
        id: InstanceId,
    },
}

/// Everything that one tick changes of one service.
#[derive(Debug, Clone)]
pub struct RolloutWrite {
    pub service_id: ServiceId,
    /// The deployment as it should be, and the stage that it must still be in. `None`: unchanged.
    pub deployment: Option<(Deployment, Stage)>,
    /// The deployment that the tick looked at; refused as stale if it is not the newest any more.
    pub newest: Option<DeploymentId>,
    pub instances: Vec<InstanceChange>,
    /// Current and previous revision.
    pub current: Option<(Option<RevisionId>, Option<RevisionId>)>,
}

const COLUMNS: &str =
    "id, service_id, revision_id, deployment_id, server_id, ordinal, intent, traffic, traffic_changed_at_ms,
     address";

type Row = (String, String, String, String, String, i64, String, String, i64, Option<i64>);

fn instance(row: Row) -> Result<Instance> {
    let (id, service_id, revision_id, deployment_id, server_id, ordinal, intent, traffic, changed_at_ms, address) = row;
    Ok(Instance {
        id: parse("instance", &id)?,
        service_id: parse("instance", &service_id)?,
        revision_id: parse("instance", &revision_id)?,
        deployment_id: parse("instance", &deployment_id)?,
        server_id: parse("instance", &server_id)?,
        ordinal: u32::try_from(ordinal).map_err(|e| Error::corrupt("instance", e))?,
        intent: from_word("instance", intent)?,
        traffic: from_word("instance", traffic)?,
        traffic_changed_at_ms: changed_at_ms,
        address: addresses::from_column(address)?,
    })
}

impl Store {
    pub async fn instance_list(&self, scope: &Scope) -> Result<Vec<Instance>> {
        self.instances_where(scope, None).await
    }

    pub async fn instance_list_of_service(&self, scope: &Scope, service_id: &ServiceId) -> Result<Vec<Instance>> {
        self.instances_where(scope, Some(("service_id", service_id.as_str()))).await
    }

    pub async fn instance_list_on_server(&self, scope: &Scope, server_id: &ServerId) -> Result<Vec<Instance>> {
        self.instances_where(scope, Some(("server_id", server_id.as_str()))).await
    }

    /// Of all these servers, those of one server in their order.
    pub async fn instance_list_on_servers<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a ServerId>,
    ) -> Result<Vec<Instance>> {
        let ids: Vec<&str> = ids.into_iter().map(ServerId::as_str).collect();
        self.instances_among(scope, "server_id", &ids).await
    }

    /// Of all these services, those of one service in their order.
    pub async fn instance_list_of_services<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a ServiceId>,
    ) -> Result<Vec<Instance>> {
        let ids: Vec<&str> = ids.into_iter().map(ServiceId::as_str).collect();
        self.instances_among(scope, "service_id", &ids).await
    }

    async fn instances_among(&self, scope: &Scope, column: &str, ids: &[&str]) -> Result<Vec<Instance>> {
        let select = format!("SELECT {COLUMNS} FROM instances");
        let read = (select.as_str(), " ORDER BY service_id, ordinal, id");
        let rows = Statement::fetch_among::<Row>(self, read, scope, column, ids).await?;
        rows.into_iter().map(instance).collect()
    }

    async fn instances_where(&self, scope: &Scope, only: Option<(&'static str, &str)>) -> Result<Vec<Instance>> {
        let sql = select_where(only.map(|(column, _)| column));
        let mut query = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql)).bind(scope.organization.as_str());
        if let Some((_, key)) = only {
            query = query.bind(key);
        }
        query.fetch_all(&self.pool).await?.into_iter().map(instance).collect()
    }

    /// Writes a tick, all or nothing.
    pub async fn rollout_apply(&self, scope: &Scope, write: &RolloutWrite, now_ms: UnixMillis) -> Result<()> {
        self.rollout_apply_with_events(scope, write, &[], now_ms).await
    }

    /// Writes a tick and what it means to people, all or nothing.
    pub async fn rollout_apply_with_events(
        &self,
        scope: &Scope,
        write: &RolloutWrite,
        events: &[Event],
        now_ms: UnixMillis,
    ) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let written = write_in(&mut transaction, scope, write, events, now_ms).await;
        transaction.end(written).await
    }
}

fn select_where(only: Option<&'static str>) -> String {
    let condition = only.map(|column| format!("AND {column} = $2")).unwrap_or_default();
    format!("SELECT {COLUMNS} FROM instances WHERE organization_id = $1 {condition} ORDER BY service_id, ordinal, id")
}

async fn write_in(
    transaction: &mut Write,
    scope: &Scope,
    write: &RolloutWrite,
    events: &[Event],
    now_ms: UnixMillis,
) -> Result<()> {
    services::get_in(transaction, scope, &write.service_id).await?;
    expect_newest(transaction, scope, write).await?;
    if let Some((deployment, expected)) = &write.deployment {
        deployments::update(transaction, scope, deployment, *expected).await?;
    }
    for change in &write.instances {
        apply(transaction, scope, &write.service_id, change, now_ms).await?;
    }
    let counts = |change: &InstanceChange| {
        use InstanceChange::{Create, CreateWithAddress, Delete};
        matches!(change, Create(_) | CreateWithAddress(_) | Delete { .. })
    };
    if write.instances.iter().any(counts) {
        count(transaction, scope, &write.service_id).await?;
    }
    if let Some((current, previous)) = &write.current {
        sqlx::query(
            "UPDATE services SET current_revision_id = $1, previous_revision_id = $2
             WHERE id = $3 AND organization_id = $4",
        )
        .bind(current.as_ref().map(RevisionId::as_str))
        .bind(previous.as_ref().map(RevisionId::as_str))
        .bind(write.service_id.as_str())
        .bind(scope.organization.as_str())
        .execute(&mut **transaction)
        .await?;
    }
    stored_events::append_in(transaction, scope, events).await
}

async fn expect_newest(transaction: &mut Write, scope: &Scope, write: &RolloutWrite) -> Result<()> {
    let row = sqlx::query_as::<_, (String,)>(
        "SELECT id FROM deployments WHERE service_id = $1 AND organization_id = $2 ORDER BY number DESC LIMIT 1",
    )
    .bind(write.service_id.as_str())
    .bind(scope.organization.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    let newest = row.map(|(id,)| id);
    if newest.as_deref() == write.newest.as_ref().map(DeploymentId::as_str) {
        return Ok(());
    }
    let text = |id: Option<&str>| id.unwrap_or("none").to_owned();
    Err(Error::Stale {
        noun: "newest deployment",
        expected: text(write.newest.as_ref().map(DeploymentId::as_str)),
        found: text(newest.as_deref()),
    })
}

async fn apply(
    transaction: &mut Write,
    scope: &Scope,
    service_id: &ServiceId,
    change: &InstanceChange,
    now_ms: UnixMillis,
) -> Result<()> {
    let query = match change {
        InstanceChange::Create(instance) => return create(transaction, scope, service_id, instance, now_ms).await,
        InstanceChange::CreateWithAddress(instance) => {
            let address = Some(addresses::take(transaction, scope, &instance.server_id).await?);
            let instance = Instance { address, ..instance.clone() };
            return create(transaction, scope, service_id, &instance, now_ms).await;
        }
        InstanceChange::SetTraffic { id, traffic } => sqlx::query(
            "UPDATE instances SET traffic = $1, traffic_changed_at_ms = $2
             WHERE id = $3 AND service_id = $4 AND organization_id = $5",
        )
        .bind(word(traffic))
        .bind(now_ms)
        .bind(id.as_str())
        .bind(service_id.as_str())
        .bind(scope.organization.as_str()),
        InstanceChange::SetIntent { id, intent } => {
            sqlx::query("UPDATE instances SET intent = $1 WHERE id = $2 AND service_id = $3 AND organization_id = $4")
                .bind(word(intent))
                .bind(id.as_str())
                .bind(service_id.as_str())
                .bind(scope.organization.as_str())
        }
        InstanceChange::Delete { id } => {
            expect_its_logs(transaction, scope, id).await?;
            sqlx::query("DELETE FROM instances WHERE id = $1 AND service_id = $2 AND organization_id = $3")
                .bind(id.as_str())
                .bind(service_id.as_str())
                .bind(scope.organization.as_str())
        }
    };
    query.execute(&mut **transaction).await?;
    Ok(())
}

/// A service knows how many instances it has, so that those without any are found at once.
async fn count(transaction: &mut Write, scope: &Scope, service_id: &ServiceId) -> Result<()> {
    sqlx::query(
        "UPDATE services SET instances = (SELECT COUNT(*) FROM instances WHERE service_id = $1 AND organization_id = $2)
         WHERE id = $1 AND organization_id = $2",
    )
    .bind(service_id.as_str())
    .bind(scope.organization.as_str())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// The last lines of an instance, or the first ones over a bad network, may arrive when it is forgotten:
/// they are taken all the same, because its logs are known here before it goes.
async fn expect_its_logs(transaction: &mut Write, scope: &Scope, id: &InstanceId) -> Result<()> {
    for source in ["'run:' || id", "'build:' || deployment_id"] {
        let sql = format!(
            "INSERT INTO log_streams (organization_id, source, server_id, service_id, deployment_id, next_offset)
             SELECT organization_id, {source}, server_id, service_id, deployment_id, 0
             FROM instances WHERE id = $1 AND organization_id = $2
             ON CONFLICT (organization_id, source, server_id) DO NOTHING"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.as_str()).bind(scope.organization.as_str());
        query.execute(&mut **transaction).await?;
    }
    Ok(())
}

/// What the instance is made of must still be there, and be this service's: selecting it instead of
/// naming it keeps another tenant's rows out of reach.
async fn create(
    transaction: &mut Write,
    scope: &Scope,
    service_id: &ServiceId,
    instance: &Instance,
    now_ms: UnixMillis,
) -> Result<()> {
    let made = sqlx::query(
        "INSERT INTO instances (id, organization_id, service_id, revision_id, deployment_id, server_id, ordinal,
                                intent, traffic, traffic_changed_at_ms, created_at_ms, address)
         SELECT $1, d.organization_id, d.service_id, r.id, d.id, s.id, $7, $8, $9, $10, $10, CAST($11 AS BIGINT)
         FROM deployments d, revisions r, servers s
         WHERE d.id = $5 AND d.service_id = $3 AND d.organization_id = $2
           AND r.id = $4 AND r.service_id = $3 AND r.organization_id = $2
           AND s.id = $6 AND s.organization_id = $2",
    )
    .bind(instance.id.as_str())
    .bind(scope.organization.as_str())
    .bind(service_id.as_str())
    .bind(instance.revision_id.as_str())
    .bind(instance.deployment_id.as_str())
    .bind(instance.server_id.as_str())
    .bind(i64::from(instance.ordinal))
    .bind(word(&instance.intent))
    .bind(word(&instance.traffic))
    .bind(now_ms)
    .bind(addresses::to_column(instance.address))
    .execute(&mut **transaction)
    .await?;
    if made.rows_affected() == 0 {
        return Err(Error::Stale {
            noun: "instance's surroundings",
            expected: "its deployment, its revision and its server".into(),
            found: "one of them gone".into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a thousand services, a rollout's every look would otherwise go through the instances of all.
    #[tokio::test]
    async fn the_instances_of_one_service_or_server_are_found_without_looking_at_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("mainstay.db")).await.unwrap();
        for column in ["service_id", "server_id"] {
            let explained = format!("EXPLAIN QUERY PLAN {}", select_where(Some(column)));
            let steps = sqlx::query_as::<_, (i64, i64, i64, String)>(sqlx::AssertSqlSafe(explained))
                .bind("organization")
                .bind("key")
                .fetch_all(&store.pool)
                .await
                .unwrap();
            let steps: Vec<String> = steps.into_iter().map(|(_, _, _, step)| step).collect();
            assert!(steps[0].contains(&format!("({column}=? AND organization_id=?)")), "{steps:?}");
            assert!(steps.iter().all(|step| !step.contains("TEMP B-TREE")), "they are sorted: {steps:?}");
        }
    }
}
