//! Variables of a service: those of the manifest, those set beside it, those that Mainstay injects.
//!
//! Setting a variable does not touch what runs. It is merged into the next revision: at once when
//! asked for, otherwise with the next deploy. A value that was set stays over later manifests until
//! it is removed.

use super::planning::revision_hash;
use super::services::{Asked, begin};
use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::state::{AppState, event, fresh};
use crate::views::find_service;
use api::deployments::{Deployment, DeploymentKind};
use api::events::{EventKind, EventLevel};
use api::ids::RevisionId;
use api::secret::Secret;
use api::services::{EnvOrigin, EnvPatch, EnvVariable, PortSpec, Revision, ServiceIntent, ServiceSpec};
use std::collections::{BTreeMap, BTreeSet};
use store::{RevisionCreate, Scope, Service, Stack};

const VARIABLES_LIMIT: usize = 500;
/// The kernel takes at most 128 KiB for one.
const VALUE_LIMIT_BYTES: usize = 100 * 1024;

/// By name; values only with `reveal`.
pub async fn list(
    state: &AppState,
    caller: &Caller,
    stack: &str,
    name: &str,
    reveal: bool,
) -> Result<Vec<EnvVariable>> {
    let scope = caller.scope();
    let (stack, service) = find_service(state, scope, stack, name).await?;
    let set = state.store().service_env_list(scope, &service.id).await?;
    let manifest = manifest_env(&stack, &service);
    let mut variables: BTreeMap<String, EnvVariable> = BTreeMap::new();
    let mut put = |name: &String, origin: EnvOrigin, value: Option<&Secret>| {
        let value = value.filter(|_| reveal).cloned();
        variables.insert(name.clone(), EnvVariable { name: name.clone(), origin, value });
    };
    for name in injected(state, scope, &stack, &service).await? {
        put(&name, EnvOrigin::Injected, None);
    }
    for (name, value) in &manifest {
        put(name, EnvOrigin::Manifest, Some(value));
    }
    for (name, value) in &set {
        put(name, EnvOrigin::Set, Some(value));
    }
    Ok(variables.into_values().collect())
}

/// What the manifest itself says, without what was set over it.
fn manifest_env(stack: &Stack, service: &Service) -> BTreeMap<String, Secret> {
    // The default source does not matter for variables, but a service without one would be refused.
    let anywhere = api::plans::DefaultSource {
        git: "https://localhost/unused".parse().expect("the URL is valid"),
        reference: None,
        directory: String::new(),
    };
    let parsed = manifest::parse(&stack.manifest, Some(&anywhere)).ok();
    parsed.and_then(|spec| spec.services.get(&service.name).map(|spec| spec.env.clone())).unwrap_or_default()
}

/// Names that the machine fills in: the port, and where the other services of the project are.
async fn injected(state: &AppState, scope: &Scope, stack: &Stack, service: &Service) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if let Some(id) = &service.current_revision_id
        && state.store().revision_get(scope, id).await?.spec.port != PortSpec::None
    {
        names.push("PORT".to_owned());
    }
    let stacks = state.store().stack_list(scope).await?;
    let own = stacks.iter().filter(|other| other.project_id == stack.project_id);
    let own: BTreeSet<&api::ids::StackId> = own.map(|other| &other.id).collect();
    let neighbours = state.store().service_list(scope, None).await?;
    let neighbours = neighbours.iter().filter(|other| own.contains(&other.stack_id));
    names.extend(neighbours.map(|other| format!("SERVICE_{}_URL", other.name.to_env())));
    Ok(names)
}

/// Sets and removes variables; with `deploy`, makes a revision of it and deploys that.
pub async fn patch(
    state: &AppState,
    caller: &Caller,
    stack: &str,
    name: &str,
    patch: &EnvPatch,
) -> Result<Option<Deployment>> {
    check(patch)?;
    state.disk.room_for("no variable was changed")?;
    let scope = caller.scope();
    let _deciding = state.deciding.write().await;
    let (stack, service) = find_service(state, scope, stack, name).await?;
    let before = state.store().service_env_list(scope, &service.id).await?;
    let mut set = before.clone();
    for (name, value) in patch.variables.clone() {
        match value {
            Some(value) => drop(set.insert(name, value)),
            None => drop(set.remove(&name)),
        }
    }
    if before != set {
        let names: Vec<&str> = patch.variables.keys().map(String::as_str).collect();
        let when = if patch.deploy { "" } else { "; the next deployment takes it up" };
        let message = format!("variables of {} changed: {}{when}", service.name, names.join(", "));
        let mut changed = event(EventKind::EnvChanged, EventLevel::Info, message, caller.cause("set variables"));
        changed.stack_id = Some(stack.id.clone());
        changed.service_id = Some(service.id.clone());
        state.store().service_env_patch(scope, &service.id, &patch.variables, &[changed]).await?;
        state.wakeups().events_stored();
    }
    if !patch.deploy || service.removing || service.intent == ServiceIntent::Stop {
        return Ok(None);
    }
    deploy(state, caller, &stack, &service, set).await
}

/// The release that serves (or is on its way) with the variables as they are now.
async fn deploy(
    state: &AppState,
    caller: &Caller,
    stack: &Stack,
    service: &Service,
    set: BTreeMap<String, Secret>,
) -> Result<Option<Deployment>> {
    let (store, scope) = (state.store(), caller.scope());
    let newest = store.deployment_newest(scope, &service.id).await?;
    let in_flight = newest.filter(|d| d.stage.in_flight()).map(|d| d.revision_id);
    let Some(base_id) = in_flight.or(service.current_revision_id.clone()) else { return Ok(None) };
    let base: Revision = store.revision_get(scope, &base_id).await?;
    let mut env = manifest_env(stack, service);
    env.extend(set);
    let spec = ServiceSpec { env, ..base.spec.clone() };
    let hash = revision_hash(&spec, &base.source_version);
    if hash == revision_hash(&base.spec, &base.source_version) {
        return Ok(None);
    }
    let revision = RevisionCreate {
        id: fresh(RevisionId::from_uuid),
        source_version: base.source_version,
        source_subject: base.source_subject,
        spec,
        hash,
    };
    let asked = Asked {
        kind: DeploymentKind::Deploy,
        revision_id: revision.id.clone(),
        revision: Some(revision),
        replicas: None,
        intent: None,
        event: None,
    };
    begin(state, caller, service, asked).await.map(Some)
}

fn check(patch: &EnvPatch) -> Result<()> {
    if patch.variables.len() > VARIABLES_LIMIT {
        return Err(HttpError::invalid("variables", format!("at most {VARIABLES_LIMIT} variables at once")));
    }
    for (name, value) in &patch.variables {
        let shown: String = name.chars().take(80).collect::<String>().escape_debug().to_string();
        let field = format!("variables.{shown}");
        let good = !name.is_empty()
            && name.len() <= 255
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !good {
            return Err(HttpError::invalid(&field, format!("`{shown}` is not a name of a variable"))
                .help("use letters, digits and underscores, not beginning with a digit"));
        }
        if name == "PORT" || (name.starts_with("SERVICE_") && name.ends_with("_URL")) {
            return Err(HttpError::invalid(&field, format!("{name} is set by Mainstay itself"))
                .help("a fixed port goes into the manifest: `port = 8080`"));
        }
        if value.as_ref().is_some_and(|value| value.expose().contains('\0') || value.expose().len() > VALUE_LIMIT_BYTES)
        {
            return Err(HttpError::invalid(
                &field,
                format!("the value of {name} holds a NUL character or is larger than {VALUE_LIMIT_BYTES} bytes"),
            ));
        }
    }
    Ok(())
}
