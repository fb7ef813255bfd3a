//! Machines with an agent. Joining consumes the token and makes the server in one transaction.

use crate::codec::{from_json, from_word, parse, text, to_json, word};
use crate::events as stored_events;
use crate::pen::Write;
use crate::statement::Statement;
use crate::{Error, Result, Scope, Store, metrics};
use api::UnixMillis;
use api::desired::SecurityMode;
use api::events::Event;
use api::ids::{OrganizationId, ServerId, ServiceId, StackId};
use api::name::Name;
use api::secret::Secret;
use api::servers::{SERVERS_LIMIT, ServerFacts};
use api::tokens::TokenPurpose;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Row as _};
use std::collections::BTreeSet;
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub id: ServerId,
    pub name: Name,
    pub index: u16,
    pub public_key: String,
    pub secret: Secret,
    pub facts: ServerFacts,
    pub agent_version: String,
    pub security_mode: SecurityMode,
    pub binding: ServerBinding,
    pub registered_at_ms: UnixMillis,
    pub last_seen_at_ms: Option<UnixMillis>,
    /// The address that its last report came from, if that is known.
    pub seen_from: Option<IpAddr>,
    /// As the presence task last decided.
    pub online: bool,
}

/// What the token that let it in was bound to: the server takes only services of that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerBinding {
    #[serde(default)]
    pub project: Option<Name>,
    #[serde(default)]
    pub stack: Option<StackId>,
}

/// A machine that asks to join.
#[derive(Debug, Clone)]
pub struct ServerJoin {
    pub id: ServerId,
    /// Wished name; a number is appended if it is taken.
    pub name: Name,
    pub public_key: String,
    pub secret: Secret,
    pub facts: ServerFacts,
    pub agent_version: String,
    pub security_mode: SecurityMode,
}

const COLUMNS: &str = "id, name, number, public_key, secret, facts, agent_version, security_mode, binding, \
                       registered_at_ms, last_seen_at_ms, online, seen_from";

type Row = (String, String, i64, String, String, String, String, String, String, i64, Option<i64>, i64, Option<String>);

fn server(row: Row) -> Result<Server> {
    let (
        id,
        name,
        number,
        public_key,
        secret,
        facts,
        agent_version,
        mode,
        binding,
        registered_at_ms,
        last_seen_at_ms,
        online,
        seen_from,
    ) = row;
    Ok(Server {
        id: parse("server", &id)?,
        name: parse("server", &name)?,
        index: u16::try_from(number).map_err(|e| Error::corrupt("server", e))?,
        public_key,
        secret: Secret::new(secret),
        facts: from_json("server", &facts)?,
        agent_version,
        security_mode: from_word("server", mode)?,
        binding: from_json("server", &binding)?,
        registered_at_ms,
        last_seen_at_ms,
        // One that cannot be read is one less to try.
        seen_from: seen_from.and_then(|address| address.parse().ok()),
        online: online != 0,
    })
}

/// A server that may take instances of a service, and how many it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeastLoaded {
    pub id: ServerId,
    pub index: u16,
    pub of_service: u32,
    pub of_all: u32,
}

impl Store {
    /// Servers that are online and whose binding is `fit`, with the fewest instances of the service first,
    /// then with the fewest of all, then by number.
    pub async fn server_list_least_loaded(
        &self,
        scope: &Scope,
        service_id: &ServiceId,
        fit: impl Fn(&ServerBinding) -> bool,
        limit: u32,
    ) -> Result<Vec<LeastLoaded>> {
        // There are as many bindings as projects and stacks at most, and mostly one.
        let rows = sqlx::query_as::<_, (String,)>("SELECT DISTINCT binding FROM servers WHERE organization_id = $1")
            .bind(scope.organization.as_str())
            .fetch_all(&self.pool)
            .await?;
        let mut bindings = Vec::new();
        for (text,) in rows {
            if fit(&from_json("server", &text)?) {
                bindings.push(text);
            }
        }
        if bindings.is_empty() {
            return Ok(Vec::new());
        }
        let organization = scope.organization.as_str();
        let mut query = Statement::new(
            "SELECT id, number, of_service, of_all FROM (
               SELECT s.id, s.number,
                 (SELECT COUNT(*) FROM instances i WHERE i.server_id = s.id AND i.service_id = ",
        );
        query.bind(service_id.as_str()).push(
            ") AS of_service,
                 (SELECT COUNT(*) FROM instances i WHERE i.server_id = s.id AND i.organization_id = ",
        );
        query.bind(organization).push(") AS of_all FROM servers s WHERE s.online = 1 AND s.organization_id = ");
        query.bind(organization).push(" AND s.binding IN (").bind_all(bindings);
        query.push(")) AS load ORDER BY of_service, of_all, number, id LIMIT ").bind(i64::from(limit));
        let rows = query.fetch_all::<(String, i64, i64, i64), _>(&self.pool).await?;
        let count = |number: i64| u32::try_from(number).map_err(|e| Error::corrupt("server", e));
        rows.into_iter()
            .map(|(id, number, of_service, of_all)| {
                Ok(LeastLoaded {
                    id: parse("server", &id)?,
                    index: u16::try_from(number).map_err(|e| Error::corrupt("server", e))?,
                    of_service: count(of_service)?,
                    of_all: count(of_all)?,
                })
            })
            .collect()
    }

    pub async fn server_list(&self, scope: &Scope) -> Result<Vec<Server>> {
        let sql = format!("SELECT {COLUMNS} FROM servers WHERE organization_id = $1 ORDER BY number");
        let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(server).collect()
    }

    /// Those behind a number, in the order of numbers; `limit` at most.
    pub async fn server_page(&self, scope: &Scope, after: u16, limit: u32) -> Result<Vec<Server>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM servers WHERE organization_id = $1 AND number > $2 ORDER BY number LIMIT $3"
        );
        let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .bind(i64::from(after))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(server).collect()
    }

    /// Those of these that are there.
    pub async fn server_list_of<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a ServerId>,
    ) -> Result<Vec<Server>> {
        let select = format!("SELECT {COLUMNS} FROM servers");
        let ids: Vec<&str> = ids.into_iter().map(ServerId::as_str).collect();
        let rows = Statement::fetch_among::<Row>(self, (&select, ""), scope, "id", &ids).await?;
        rows.into_iter().map(server).collect()
    }

    /// What a rollout asks about servers: whether each is online, and the newest generation for it (0: none yet).
    pub async fn server_heads<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a ServerId>,
    ) -> Result<Vec<(ServerId, bool, u64)>> {
        const SELECT: &str = "SELECT id, online,
            COALESCE((SELECT d.generation FROM desired_states d WHERE d.server_id = servers.id), 0) FROM servers";
        let ids: Vec<&str> = ids.into_iter().map(ServerId::as_str).collect();
        let rows = Statement::fetch_among::<(String, i64, i64)>(self, (SELECT, ""), scope, "id", &ids).await?;
        rows.into_iter()
            .map(|(id, online, generation)| Ok((parse("server", &id)?, online != 0, generation as u64)))
            .collect()
    }

    pub async fn server_get(&self, scope: &Scope, id: &ServerId) -> Result<Server> {
        let sql = format!("SELECT {COLUMNS} FROM servers WHERE organization_id = $1 AND id = $2");
        let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?;
        server(row.ok_or_else(|| Error::not_found("server", id.as_str()))?)
    }

    /// Answers whether that changed anything; only then the events are kept, which tell it.
    pub async fn server_online_set(
        &self,
        scope: &Scope,
        id: &ServerId,
        online: bool,
        events: &[Event],
    ) -> Result<bool> {
        // Mostly it is so already, and to see that is no write.
        let other = sqlx::query_as::<_, (i64,)>(
            "SELECT COUNT(*) FROM servers WHERE id = $1 AND organization_id = $2 AND online <> $3",
        )
        .bind(id.as_str())
        .bind(scope.organization.as_str())
        .bind(i64::from(online));
        if other.fetch_one(&self.pool).await?.0 == 0 {
            return Ok(false);
        }
        let mut transaction = self.write(&scope.organization).await?;
        let changed = set_online(&mut transaction, scope, id, online, events).await;
        transaction.end(changed).await
    }

    pub async fn server_security_mode_set(&self, scope: &Scope, id: &ServerId, mode: SecurityMode) -> Result<()> {
        let found = self
            .execute(
                sqlx::query("UPDATE servers SET security_mode = $1 WHERE id = $2 AND organization_id = $3")
                    .bind(word(&mode))
                    .bind(id.as_str())
                    .bind(scope.organization.as_str()),
            )
            .await?;
        if found.rows_affected() == 0 {
            return Err(Error::not_found("server", id.as_str()));
        }
        Ok(())
    }

    /// Forgets a server, its secret and its states, and keeps what is told about that. Its instances are
    /// forgotten by the rollout.
    pub async fn server_delete(&self, scope: &Scope, id: &ServerId, events: &[Event]) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let deleted = delete(&mut transaction, scope, id).await;
        let told = stored_events::append_after(&mut transaction, scope, deleted, events).await;
        transaction.end(told).await
    }

    /// Exchanges a one-time token for a server, and keeps what is told about it. A token that is not good changes
    /// nothing.
    pub async fn server_join(
        &self,
        token_hash: &str,
        join: &ServerJoin,
        tell: impl Fn(&Server) -> Vec<Event> + Send,
        now_ms: UnixMillis,
    ) -> Result<(OrganizationId, Server)> {
        let organization = self.token_join_organization(token_hash).await?;
        let mut transaction = self.write(&organization).await?;
        let scope = Scope::system(organization, "join");
        let joined = join_in(&mut transaction, &scope.organization, token_hash, join, now_ms).await;
        let events = joined.as_ref().map_or_else(|_| Vec::new(), tell);
        let told = stored_events::append_after(&mut transaction, &scope, joined, &events).await;
        let server = transaction.end(told).await?;
        Ok((scope.organization, server))
    }
}

/// A report came: the server is there. Facts are written only when given.
pub(crate) async fn seen(
    transaction: &mut Write,
    scope: &Scope,
    id: &ServerId,
    agent_version: &str,
    facts: Option<&ServerFacts>,
    from: Option<IpAddr>,
    now_ms: UnixMillis,
) -> Result<()> {
    let facts = facts.map(|f| to_json("server", f)).transpose()?;
    sqlx::query(
        "UPDATE servers SET last_seen_at_ms = $1, agent_version = $2, facts = COALESCE($3, facts),
            seen_from = COALESCE($4, seen_from)
         WHERE id = $5 AND organization_id = $6",
    )
    .bind(now_ms)
    .bind(text(agent_version).as_ref())
    .bind(facts)
    .bind(from.map(|address| address.to_string()))
    .bind(id.as_str())
    .bind(scope.organization.as_str())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

pub(crate) async fn set_online(
    transaction: &mut Write,
    scope: &Scope,
    id: &ServerId,
    online: bool,
    events: &[Event],
) -> Result<bool> {
    let changed = sqlx::query("UPDATE servers SET online = $1 WHERE id = $2 AND organization_id = $3 AND online <> $1")
        .bind(i64::from(online))
        .bind(id.as_str())
        .bind(scope.organization.as_str())
        .execute(&mut **transaction)
        .await?
        .rows_affected()
        > 0;
    if changed {
        stored_events::append_in(transaction, scope, events).await?;
    }
    Ok(changed)
}

async fn delete(transaction: &mut Write, scope: &Scope, id: &ServerId) -> Result<()> {
    let gone = sqlx::query("DELETE FROM servers WHERE id = $1 AND organization_id = $2")
        .bind(id.as_str())
        .bind(scope.organization.as_str())
        .execute(&mut **transaction)
        .await?;
    metrics::delete(transaction, scope, id).await?;
    if gone.rows_affected() == 0 { Err(Error::not_found("server", id.as_str())) } else { Ok(()) }
}

async fn join_in(
    transaction: &mut Write,
    organization: &OrganizationId,
    token_hash: &str,
    join: &ServerJoin,
    now_ms: UnixMillis,
) -> Result<Server> {
    let purpose = consume_token(transaction, token_hash, now_ms).await?;
    let TokenPurpose::Join { project, stack } = purpose else { return Err(Error::TokenUnknown) };
    let (name, index) = free_name_and_number(transaction, organization, &join.name).await?;
    let server = Server {
        id: join.id.clone(),
        name,
        index,
        public_key: join.public_key.clone(),
        secret: join.secret.clone(),
        facts: join.facts.clone(),
        agent_version: join.agent_version.clone(),
        security_mode: join.security_mode,
        binding: ServerBinding { project, stack },
        registered_at_ms: now_ms,
        last_seen_at_ms: Some(now_ms),
        seen_from: None,
        online: true,
    };
    insert(transaction, organization, &server).await?;
    Ok(server)
}

/// In one statement: every request of a machine asks this.
pub(crate) async fn find_unscoped(store: &Store, id: &ServerId) -> Result<Option<(OrganizationId, Server)>> {
    let sql = format!("SELECT {COLUMNS}, organization_id FROM servers WHERE id = $1");
    let found = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.as_str()).fetch_optional(&store.pool).await?;
    let Some(row) = found else { return Ok(None) };
    let organization: String = row.try_get("organization_id")?;
    Ok(Some((parse("organization", &organization)?, server(Row::from_row(&row)?)?)))
}

/// Marks the token as used, if it is good at this moment and in this transaction.
async fn consume_token(transaction: &mut Write, hash: &str, now_ms: UnixMillis) -> Result<TokenPurpose> {
    let taken = sqlx::query_as::<_, (String,)>(
        "UPDATE tokens SET used_at_ms = $1
         WHERE hash = $2 AND kind = 'join' AND used_at_ms IS NULL AND revoked_at_ms IS NULL
           AND (expires_at_ms IS NULL OR expires_at_ms > $1)
         RETURNING purpose",
    )
    .bind(now_ms)
    .bind(hash)
    .fetch_optional(&mut **transaction)
    .await?;
    match taken {
        Some((purpose,)) => from_json("token", &purpose),
        None => Err(why_not_good(transaction, hash).await?),
    }
}

async fn why_not_good(transaction: &mut Write, hash: &str) -> Result<Error> {
    let row = sqlx::query_as::<_, (Option<i64>, Option<i64>)>(
        "SELECT used_at_ms, revoked_at_ms FROM tokens WHERE hash = $1 AND kind = 'join'",
    )
    .bind(hash)
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(match row {
        None | Some((_, Some(_))) => Error::TokenUnknown,
        Some((Some(_), None)) => Error::TokenUsed,
        Some((None, None)) => Error::TokenExpired,
    })
}

/// The wished name or the first free `name-2`, `name-3`, …, and the lowest free number.
async fn free_name_and_number(
    transaction: &mut Write,
    organization: &OrganizationId,
    wished: &Name,
) -> Result<(Name, u16)> {
    let taken = sqlx::query_as::<_, (String, i64)>("SELECT name, number FROM servers WHERE organization_id = $1")
        .bind(organization.as_str())
        .fetch_all(&mut **transaction)
        .await?;
    let (names, numbers): (BTreeSet<&str>, BTreeSet<i64>) = taken.iter().map(|(t, n)| (t.as_str(), *n)).unzip();
    let number = (1..=SERVERS_LIMIT).find(|n| !numbers.contains(&i64::from(*n))).ok_or(Error::ServersFull)?;
    let numbered = |n: u32| {
        let suffix = format!("-{n}");
        let stem: String = wished.as_str().chars().take(Name::LENGTH_LIMIT - suffix.len()).collect();
        format!("{}{suffix}", stem.trim_end_matches('-')).parse::<Name>()
    };
    let free = |name: &Name| !names.contains(name.as_str());
    if free(wished) {
        return Ok((wished.clone(), number));
    }
    let name =
        (2..=u32::from(SERVERS_LIMIT) + 1).filter_map(|n| numbered(n).ok()).find(free).ok_or(Error::ServersFull)?;
    Ok((name, number))
}

async fn insert(transaction: &mut Write, organization: &OrganizationId, server: &Server) -> Result<()> {
    sqlx::query(
        "INSERT INTO servers (id, organization_id, name, number, public_key, secret, facts, agent_version,
                              security_mode, binding, registered_at_ms, last_seen_at_ms, online)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(server.id.as_str())
    .bind(organization.as_str())
    .bind(server.name.as_str())
    .bind(i64::from(server.index))
    .bind(text(&server.public_key).as_ref())
    .bind(server.secret.expose())
    .bind(to_json("server", &server.facts)?)
    .bind(text(&server.agent_version).as_ref())
    .bind(word(&server.security_mode))
    .bind(to_json("server", &server.binding)?)
    .bind(server.registered_at_ms)
    .bind(server.last_seen_at_ms)
    .bind(i64::from(server.online))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
