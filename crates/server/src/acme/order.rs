//! One batch of orders, from the first word to the authority to certificates in rows.

use super::account;
use super::explain::{self, Failure};
use super::situation::Situation;
use crate::certificates::{self, read};
use crate::clock;
use crate::desired;
use crate::error::Result;
use crate::state::{AppState, event};
use api::cause::Cause;
use api::domains::{CertificateSource, ChallengeChoice};
use api::events::{Event, EventKind, EventLevel};
use api::name::HostName;
use api::observed::ObservedState;
use api::tls::{CertificateName, ChallengeAnswer, ChallengeKind};
use futures_util::future::join_all;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use plan::certificates::pause_ms;
use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;
use store::{Certificate, Scope};
use tokio::time::Instant;

/// For opening the account, and for each single conversation about an order.
const TALK_TIME: Duration = Duration::from_secs(60);
/// How long all gateways may take to learn the answers.
const SPREAD_TIME: Duration = Duration::from_secs(60);
const SPREAD_LOOK: Duration = Duration::from_millis(50);
/// How long the authority may take to decide, and to sign.
const DECIDE_TIME: Duration = Duration::from_secs(120);

/// An order that waits for the authority to look.
struct Pending {
    host: HostName,
    kind: ChallengeKind,
    order: Order,
    /// `None`: the authority remembers that this host is ours.
    answer: Option<ChallengeAnswer>,
}

type Outcome<T> = std::result::Result<T, Failure>;

/// Orders for these hosts. How each ended is in its row and in an event.
pub async fn order(state: &AppState, scope: &Scope, situation: &Situation) -> Result<()> {
    let hosts = &situation.plan.now;
    let told: Vec<Event> = hosts.iter().map(|host| ordered(situation, host, kind(state, situation, host))).collect();
    state.store().certificate_orders_begin(scope, hosts, clock::now_ms(), &told).await?;
    state.wakeups().events_stored();
    let account = match limited(TALK_TIME, account::open(state, scope, &situation.settings)).await {
        Some(Ok(account)) => account,
        other => {
            let why = match other {
                Some(Err(error)) => explain::chain(error.as_ref()),
                _ => format!("it did not answer within {} s", TALK_TIME.as_secs()),
            };
            let url = &situation.settings.directory_url;
            let failure = Failure::of_authority(format!("the authority at {url} cannot be spoken to: {why}"));
            for host in hosts {
                fail(state, scope, situation, host, &failure).await?;
            }
            return Ok(());
        }
    };
    let begun = join_all(hosts.iter().map(|host| begin(&account, host, kind(state, situation, host)))).await;
    let mut pending = Vec::new();
    for (host, begun) in hosts.iter().zip(begun) {
        match begun {
            Ok(order) => pending.push(order),
            Err(failure) => fail(state, scope, situation, host, &failure).await?,
        }
    }
    let answers: Vec<ChallengeAnswer> = pending.iter().filter_map(|one| one.answer.clone()).collect();
    let spread = spread(state, scope, &answers).await;
    let ended = match spread {
        Ok(()) => join_all(pending.into_iter().map(|order| complete(state, scope, order))).await,
        Err(failure) => pending.into_iter().map(|order| (order.host, Err(failure.clone()))).collect(),
    };
    for (host, ended) in ended {
        match ended {
            Ok(row) => done(state, scope, &host, &row).await?,
            Err(failure) => fail(state, scope, situation, &host, &failure).await?,
        }
    }
    state.store().challenges_set(scope, &[]).await?;
    certificates::reload(state, scope).await?;
    desired::refresh_all(state, scope).await
}

fn ordered(situation: &Situation, host: &HostName, kind: ChallengeKind) -> Event {
    let authority = &situation.settings.directory_url;
    let message = format!("a certificate for {host} is being ordered from {authority}, shown by {}", kind.label());
    event(EventKind::CertificateOrdered, EventLevel::Info, message, cause("order a certificate"))
}

async fn limited<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(time, future).await.ok()
}

/// How to show that the host is ours.
fn kind(state: &AppState, situation: &Situation, host: &HostName) -> ChallengeKind {
    match situation.settings.challenge {
        ChallengeChoice::Http01 => return ChallengeKind::Http01,
        ChallengeChoice::TlsAlpn01 => return ChallengeKind::TlsAlpn01,
        ChallengeChoice::Auto => {}
    }
    let listens = |port: u16| {
        let heard = state.heard_from();
        heard.iter().any(|(_, observed)| observed.gateway.listening.iter().any(|address| address.port() == port))
    };
    // Port 443 is opened with the first challenge that needs it, so what was asked for counts there.
    let secure = [true, false].into_iter().any(|root| state.options().gateway_settings(root).https_port == Some(443));
    let failures = situation.orders.get(host).map_or(0, |order| order.failures);
    match (listens(80), secure) {
        (true, true) if failures % 2 == 1 => ChallengeKind::TlsAlpn01,
        (false, true) => ChallengeKind::TlsAlpn01,
        _ => ChallengeKind::Http01,
    }
}

fn challenge_type(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// Places an order and hears what the authority will ask.
async fn begin(account: &Account, host: &HostName, kind: ChallengeKind) -> Outcome<Pending> {
    let talk = async {
        let identifiers = [Identifier::Dns(host.to_string())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let mut answer = None;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let challenge = authorization
                .challenge(challenge_type(kind))
                .ok_or(Error::Str("the authority does not offer this kind of challenge"))?;
            answer = Some(ChallengeAnswer {
                host: host.clone(),
                kind,
                token: challenge.token.clone(),
                key_authorization: challenge.key_authorization().as_str().to_owned(),
            });
        }
        Ok::<_, Error>((order, answer))
    };
    match limited(TALK_TIME, talk).await {
        Some(Ok((order, answer))) => Ok(Pending { host: host.clone(), kind, order, answer }),
        Some(Err(error)) => Err(explain::error(host, kind, &error)),
        None => Err(Failure::of_authority(format!("the authority did not answer within {} s", TALK_TIME.as_secs()))),
    }
}

/// Gives the answers to every gateway, and waits until those that are online say that they have them.
async fn spread(state: &AppState, scope: &Scope, answers: &[ChallengeAnswer]) -> Outcome<()> {
    if answers.is_empty() {
        return Ok(());
    }
    let ours = |what: &str, error: &dyn std::fmt::Debug| {
        tracing::error!(?error, "challenges cannot be {what}");
        Failure::of_authority(format!("the control plane could not hand out the answer for the authority ({what})"))
    };
    state.store().challenges_set(scope, answers).await.map_err(|error| ours("kept", &error))?;
    desired::refresh_all(state, scope).await.map_err(|error| ours("put into documents", &error))?;
    let tokens: BTreeSet<&str> = answers.iter().map(|answer| answer.token.as_str()).collect();
    let deadline = Instant::now() + SPREAD_TIME;
    loop {
        let servers = state.store().server_list(scope).await.map_err(|error| ours("waited for", &error))?;
        let online: BTreeSet<_> = servers.iter().filter(|server| server.online).map(|server| &server.id).collect();
        let mut heard = state.heard_from();
        heard.retain(|(id, _)| online.contains(id));
        let knowing = heard.iter().filter(|(_, observed)| knows(observed, &tokens)).count();
        if !online.is_empty() && knowing == online.len() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            // A server whose gateway is broken serves nobody; it should not keep the others from their certificates.
            if knowing > 0 {
                tracing::warn!(knowing, online = online.len(), "not every gateway knows the answers for the authority");
                return Ok(());
            }
            let problem = heard.iter().find_map(|(_, observed)| observed.gateway.problem.clone());
            let problem = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
            let seconds = SPREAD_TIME.as_secs();
            return Err(Failure::of_host(match online.is_empty() {
                true => "no server is online to answer the authority".to_owned(),
                false => format!("no gateway had taken the answer for the authority within {seconds} s{problem}"),
            }));
        }
        tokio::select! {
            biased;
            () = state.stopping().cancelled() => {
                return Err(Failure::of_authority("the control plane was stopped while a certificate was being ordered"));
            }
            () = tokio::time::sleep(SPREAD_LOOK) => {}
        }
    }
}

/// Whether the gateway of a server gives the answers to all of these.
fn knows(observed: &ObservedState, tokens: &BTreeSet<&str>) -> bool {
    let known: BTreeSet<&str> = observed.gateway.challenges.iter().map(String::as_str).collect();
    observed.gateway.running && tokens.is_subset(&known)
}

/// Has the authority look, and takes the certificate.
async fn complete(state: &AppState, scope: &Scope, pending: Pending) -> (HostName, Outcome<Certificate>) {
    let Pending { host, kind, mut order, answer } = pending;
    let outcome = match limited(DECIDE_TIME * 2 + TALK_TIME, talk(&host, kind, &mut order, answer.is_some())).await {
        Some(Ok((chain, key))) => certificate(state, scope, &host, &chain, &key),
        Some(Err(failure)) => Err(failure),
        None => Err(explain::error(&host, kind, &Error::Timeout(None))),
    };
    (host, outcome)
}

async fn talk(
    host: &HostName,
    kind: ChallengeKind,
    order: &mut Order,
    asked: bool,
) -> Outcome<(String, api::secret::Secret)> {
    let explained = |error: Error| explain::error(host, kind, &error);
    if asked {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(explained)?;
            if let Some(mut challenge) = authorization.challenge(challenge_type(kind)) {
                challenge.set_ready().await.map_err(explained)?;
            }
        }
    }
    let patience = RetryPolicy::new().initial_delay(Duration::from_millis(200)).backoff(1.5).timeout(DECIDE_TIME);
    match order.poll_ready(&patience).await.map_err(explained)? {
        OrderStatus::Ready => {}
        _ => return Err(refused(host, kind, order).await),
    }
    let key = api::secret::Secret::new(order.finalize().await.map_err(explained)?);
    let chain = order.poll_certificate(&patience).await.map_err(explained)?;
    Ok((chain, key))
}

/// The authority looked and was not convinced; the challenge says why.
async fn refused(host: &HostName, kind: ChallengeKind, order: &mut Order) -> Failure {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        if let Some(problem) = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return explain::of_problem(host, kind, problem);
        }
    }
    Failure::of_host(format!("the authority was not convinced that {host} is yours, and did not say why"))
}

fn certificate(
    state: &AppState,
    scope: &Scope,
    host: &HostName,
    chain: &str,
    key: &api::secret::Secret,
) -> Outcome<Certificate> {
    let understood = read::read(chain, key)
        .map_err(|error| Failure::of_authority(format!("the authority gave something that cannot be used: {error}")))?;
    let name = CertificateName::from(host.clone());
    let identity = certificates::key_identity(&scope.organization, &name, CertificateSource::Acme);
    Ok(Certificate {
        sealed_key: state.sealing_key.seal(&identity, understood.material.private_key.expose()),
        host: name,
        source: CertificateSource::Acme,
        names: understood.names,
        issuer: understood.issuer,
        digest: understood.digest,
        chain: understood.material.chain,
        not_before_ms: understood.not_before_ms,
        not_after_ms: understood.not_after_ms,
        created_at_ms: clock::now_ms(),
    })
}

async fn done(state: &AppState, scope: &Scope, host: &HostName, row: &Certificate) -> Result<()> {
    let renewed = state.certificates().find(host).is_some_and(|held| held.view.source == CertificateSource::Acme);
    let word = if renewed { "renewed" } else { "issued" };
    let message = format!("a certificate for {host} was {word} by {}", row.issuer);
    let told = event(EventKind::CertificateIssued, EventLevel::Info, message, cause("order a certificate"));
    state.store().certificate_order_done(scope, host, row, &[told]).await?;
    state.wakeups().events_stored();
    Ok(())
}

async fn fail(
    state: &AppState,
    scope: &Scope,
    situation: &Situation,
    host: &HostName,
    failure: &Failure,
) -> Result<()> {
    let failures = situation.orders.get(host).map_or(0, |order| order.failures) + 1;
    let next_at_ms = clock::now_ms() + pause_ms(failure.blame, failures, ambient::random_fraction());
    let reason = &failure.reason;
    let message = format!("no certificate for {host}: {reason}");
    let told = event(EventKind::CertificateFailed, EventLevel::Warning, message, cause("order a certificate"));
    state.store().certificate_order_failed(scope, host, reason, next_at_ms, &[told]).await?;
    state.wakeups().events_stored();
    tracing::warn!(%host, reason, "a certificate could not be ordered");
    Ok(())
}

fn cause(action: &str) -> Cause {
    Cause::system("certificates", action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_server_knows_the_answers_when_its_running_gateway_gives_all_of_them() {
        let tokens = BTreeSet::from(["a", "b"]);
        let says = |running, challenges: &[&str]| {
            let mut observed = samples::observed_nothing();
            observed.gateway.running = running;
            observed.gateway.challenges = challenges.iter().map(|token| (*token).to_owned()).collect();
            knows(&observed, &tokens)
        };
        assert!(says(true, &["a", "b"]) && says(true, &["c", "b", "a"]));
        assert!(!says(true, &["a"]) && !says(true, &[]) && !says(false, &["a", "b"]));
    }
}
