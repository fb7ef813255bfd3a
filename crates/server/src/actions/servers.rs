//! Joining and removing servers.

use crate::auth::{Caller, hash_of};
use crate::clock;
use crate::error::{HttpError, Result};
use crate::state::{AppState, event, fresh};
use crate::views;
use api::agent::{RegisterAnswer, RegisterRequest};
use api::cause::{Actor, Cause};
use api::events::{EventKind, EventLevel};
use api::ids::{RequestId, ServerId};
use api::name::Name;
use store::{Scope, Server, ServerJoin};
use wire::RequestSigner;

/// A machine exchanges its one-time token for an identity.
pub async fn register(state: &AppState, request: &RegisterRequest, request_id: RequestId) -> Result<RegisterAnswer> {
    check_public_key(&request.public_key)?;
    let wished = request.name.clone().or_else(|| Name::suggest(&request.facts.hostname));
    let join = ServerJoin {
        id: fresh(ServerId::from_uuid),
        name: wished.unwrap_or_else(|| "server".parse().expect("`server` is a name")),
        public_key: request.public_key.clone(),
        secret: RequestSigner::generate_secret(),
        facts: request.facts.clone(),
        agent_version: request.agent_version.chars().take(80).collect(),
        security_mode: state.options().security_mode,
    };
    let actor = |server: &Server| Actor::Agent { server: server.name.to_string() };
    let tell = |server: &Server| {
        let request_id = Some(request_id.clone());
        let cause = Cause { actor: actor(server), action: "join".into(), request_id, deployment_id: None };
        let message = format!("the server {} joined with number {}", server.name, server.index);
        let mut joined = event(EventKind::ServerRegistered, EventLevel::Info, message, cause);
        joined.server_id = Some(server.id.clone());
        vec![joined]
    };
    let token_hash = hash_of(&request.token);
    let (organization, server) = state.store().server_join(&token_hash, &join, tell, clock::now_ms()).await?;
    state.wakeups().events_stored();
    state.expect(&server.id, state.steady.now_ms());
    let scope = Scope { organization, actor: actor(&server) };
    crate::desired::refresh(state, &scope, &server.id).await?;
    // A deployment may be waiting for a server to come.
    state.wakeups().all_services_changed();
    Ok(RegisterAnswer {
        server_id: server.id,
        name: server.name,
        index: server.index,
        secret: server.secret,
        control_plane_key: state.signing_key.public_base64(),
        poll_interval_ms: state.options().poll_interval_ms,
    })
}

fn check_public_key(text: &str) -> Result<()> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    if bytes.len() == 32 {
        return Ok(());
    }
    Err(HttpError::invalid("public_key", "the machine's public key is not 32 bytes of base64"))
}

/// Forgets a server. What runs on it goes on running until its agent is uninstalled there.
pub async fn remove(state: &AppState, caller: &Caller, key: &str) -> Result<()> {
    let server = views::find_server(state, caller.scope(), key).await?;
    let affected = state.store().instance_list_on_server(caller.scope(), &server.id).await?;
    let message =
        format!("the server {} was removed; it had {}", server.name, api::words::count_of(&affected, "instance"));
    let mut removed = event(EventKind::ServerRemoved, EventLevel::Warning, message, caller.cause("remove a server"));
    removed.server_id = Some(server.id.clone());
    state.store().server_delete(caller.scope(), &server.id, &[removed]).await?;
    state.wakeups().events_stored();
    state.forget(&server.id);
    state.wrong_clocks.forget(&server.id);
    state.recoveries.forget(state, caller.scope(), &server.id).await?;
    state.wakeups().server_removed(&server.id);
    state.wakeups().change_fleet();
    for instance in affected {
        state.wakeups().service_changed(&instance.service_id);
    }
    Ok(())
}
