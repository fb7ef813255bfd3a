//! What a machine's report changes, all of it or nothing: when it is answered, what it told is kept.
//!
//! The report is the write that there is most of, beside nonces. One that tells no event takes no part in the
//! order of its organization's writers: nobody else writes these rows.

use crate::{Result, Scope, Store, events, observed, servers};
use api::UnixMillis;
use api::events::Event;
use api::ids::ServerId;
use api::observed::ObservedState;
use api::servers::ServerFacts;
use std::net::IpAddr;

/// What is new in a report.
#[derive(Debug, Clone, Default)]
pub struct ReportWrite<'a> {
    /// That the server is there, with the version of its agent, and its facts if those are new.
    pub seen: Option<(&'a str, Option<&'a ServerFacts>)>,
    /// Where it came from; written together with `seen`.
    pub seen_from: Option<IpAddr>,
    pub observed: Option<&'a ObservedState>,
    pub events: &'a [Event],
    /// It counted as offline: what is told when it really did.
    pub back: Option<Event>,
}

impl Store {
    /// Answers whether the server came back.
    pub async fn report_take(
        &self,
        scope: &Scope,
        server_id: &ServerId,
        report: &ReportWrite<'_>,
        now_ms: UnixMillis,
    ) -> Result<bool> {
        let tells = !report.events.is_empty() || report.back.is_some();
        if !tells && report.seen.is_none() && report.observed.is_none() {
            return Ok(false);
        }
        let mut transaction = match tells {
            true => self.write(&scope.organization).await?,
            false => self.write_beside_others().await?,
        };
        let taken = async {
            if let Some((agent_version, facts)) = report.seen {
                servers::seen(&mut transaction, scope, server_id, agent_version, facts, report.seen_from, now_ms)
                    .await?;
            }
            if let Some(observed) = report.observed {
                observed::put(&mut transaction, scope, server_id, observed, now_ms).await?;
            }
            events::append_in(&mut transaction, scope, report.events).await?;
            match &report.back {
                Some(back) => {
                    servers::set_online(&mut transaction, scope, server_id, true, std::slice::from_ref(back)).await
                }
                None => Ok(false),
            }
        };
        let taken = taken.await;
        transaction.end(taken).await
    }
}
