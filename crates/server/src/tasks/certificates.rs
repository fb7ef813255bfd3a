//! Orders certificates that are missing or wear out, and notices those that end.
//!
//! It looks when there is news (an event was stored, a person asked), and when something is due. Without automatic
//! HTTPS set up it only watches the ends of what people gave.

use crate::acme::{self, Situation};
use crate::certificates;
use crate::clock;
use crate::desired;
use crate::error::Result;
use crate::state::{AppState, event};
use api::cause::Cause;
use api::domains::CertificateSource;
use api::events::{EventKind, EventLevel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use store::Scope;

/// However much happens, routes are read no more often than this.
const PAUSE: Duration = Duration::from_secs(3);
/// However little happens, they are read this often.
const REST: Duration = Duration::from_secs(60);
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// A certificate of somebody's own is told about so many days before its end, and at it.
const WARNINGS_DAYS: [i64; 4] = [14, 7, 2, 0];
const TOLD: &str = "certificate-told/";

/// Which warnings were given for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    digest: String,
    days: i64,
}

pub async fn run(state: AppState) {
    let scope = state.system_scope("certificates");
    let mut events = state.wakeups().events();
    loop {
        events.mark_unchanged();
        let looked = tokio::select! {
            biased;
            // Dropping an order in the middle is what a crash would do, and rows are written for that.
            () = state.stopping().cancelled() => return,
            looked = look(&state, &scope) => looked,
        };
        let rest = looked.unwrap_or_else(|error| {
            let _ = error.to_answer();
            REST
        });
        tokio::select! {
            biased;
            () = state.stopping().cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        tokio::select! {
            biased;
            () = state.stopping().cancelled() => return,
            _ = events.changed() => {}
            () = tokio::time::sleep(rest.saturating_sub(PAUSE)) => {}
        }
    }
}

/// What was asked during an order that was broken off is nothing that anybody asks again.
async fn forget_challenges(state: &AppState, scope: &Scope) -> Result<()> {
    if state.store().challenge_list(scope).await?.is_empty() {
        return Ok(());
    }
    state.store().challenges_set(scope, &[]).await?;
    desired::refresh_all(state, scope).await
}

/// One look; answers how long there is nothing to do.
pub async fn look(state: &AppState, scope: &Scope) -> Result<Duration> {
    forget_challenges(state, scope).await?;
    if state.certificates().is_outdated(clock::now_ms()) {
        certificates::reload(state, scope).await?;
        desired::refresh_all(state, scope).await?;
    }
    warn_of_ends(state, scope).await?;
    if !acme::settings(state, scope).await?.terms_agreed {
        return Ok(REST);
    }
    let situation = Situation::read(state, scope).await?;
    for host in situation.unwanted() {
        state.store().certificate_order_forget(scope, &host).await?;
    }
    forget_ended(state, scope, &situation).await?;
    if !situation.plan.now.is_empty() {
        acme::order(state, scope, &situation).await?;
        return Ok(Duration::ZERO);
    }
    let next_ms = situation.plan.due.values().min().map_or(i64::MAX, |due_ms| due_ms - clock::now_ms());
    Ok(Duration::from_millis(u64::try_from(next_ms).unwrap_or(0)).min(REST))
}

/// Ordered certificates of hosts that no route names any longer go when their time is over.
async fn forget_ended(state: &AppState, scope: &Scope, situation: &Situation) -> Result<()> {
    let mut forgotten = false;
    for held in situation.book.all() {
        let host = held.host.as_str().parse().ok();
        let wanted = host.is_some_and(|host| situation.wanted.contains_key(&host));
        if held.view.source == CertificateSource::Acme && !wanted && held.view.not_after_ms <= situation.now_ms {
            state.store().certificate_delete(scope, &held.host, CertificateSource::Acme, &[]).await?;
            forgotten = true;
        }
    }
    if forgotten { certificates::reload(state, scope).await } else { Ok(()) }
}

/// Somebody has to renew what they gave, and is told in time: once for each step.
async fn warn_of_ends(state: &AppState, scope: &Scope) -> Result<()> {
    let now_ms = clock::now_ms();
    let book = state.certificates();
    let given = book.all().iter().filter(|held| held.view.source == CertificateSource::User);
    let near: Vec<_> =
        given.filter(|held| held.view.not_after_ms - now_ms <= WARNINGS_DAYS[0] * DAY_MS).cloned().collect();
    if near.is_empty() {
        return Ok(());
    }
    let told: BTreeMap<String, Told> = state.store().setting_list(scope, TOLD).await?.into_iter().collect();
    for held in near {
        let left_ms = held.view.not_after_ms - now_ms;
        let step = WARNINGS_DAYS.into_iter().filter(|days| left_ms <= days * DAY_MS).min().unwrap_or(WARNINGS_DAYS[0]);
        let telling = Told { digest: held.view.digest.clone(), days: step };
        let before = told.get(held.host.as_str());
        if before.is_some_and(|before| before.digest == telling.digest && before.days <= step) {
            continue;
        }
        let (level, message) = match left_ms {
            ..=0 => (EventLevel::Error, format!("the certificate that was given for {} has expired", held.host)),
            left => {
                let days = left / DAY_MS;
                (
                    EventLevel::Warning,
                    format!("the certificate that was given for {} expires in {days} days", held.host),
                )
            }
        };
        let message = format!("{message}; give a newer one: mainstay domains add {} …", held.host);
        let cause = Cause::system("certificates", "look at the ends of certificates");
        let expiring = event(EventKind::CertificateExpiring, level, message, cause);
        crate::events::record(state, scope, vec![expiring]).await?;
        state.store().setting_put(scope, &format!("{TOLD}{}", held.host), &telling).await?;
    }
    Ok(())
}
