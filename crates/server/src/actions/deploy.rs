//! Making a manifest real. Everything slow (asking repositories) happens before anything is decided;
//! the decision is then made on rows as they are, and written in one transaction.
//!
//! A double click is harmless: the second request finds the first one's revision on its way and has
//! nothing to do.

use super::planning::{self, Compared, Prepared, revision_hash};
use super::{fingerprint, planning::prepare};
use crate::auth::Caller;
use crate::clock;
use crate::desired::may_take;
use crate::error::{HttpError, Result};
use crate::state::{AppState, event, fresh};
use api::deployments::{Deployment, DeploymentKind};
use api::error::ErrorCode;
use api::events::{Event, EventKind, EventLevel};
use api::ids::{DeploymentId, ProjectId, RevisionId, ServiceId, StackId};
use api::name::Name;
use api::plans::{DeployAnswer, DeployRequest, ServicePlan, ServicePlanAction};
use api::services::REPLICAS_LIMIT;
use store::{Begun, Error, Project, RevisionCreate, Scope, ServiceDeploy, ServiceRemoval, StackDeploy, StackDeployed};

/// How often a deploy that was overtaken compares again.
const TRIES: u32 = 4;

pub async fn deploy(state: &AppState, caller: &Caller, request: &DeployRequest) -> Result<DeployAnswer> {
    let scope = caller.scope();
    state.disk.room_for("nothing was deployed")?;
    let prepared = prepare(state, scope, &request.plan).await?;
    refuse_unknown_services(&prepared, &request.services)?;
    for _ in 0..TRIES {
        match attempt(state, caller, request, &prepared).await? {
            Some((compared, done)) => return finish(state, caller, compared, done).await,
            None => continue,
        }
    }
    Err(HttpError::conflict("the stack changed again and again while it was being deployed; nothing was changed")
        .help("look who else deploys it, and try again"))
}

/// `None`: somebody else was faster.
async fn attempt(
    state: &AppState,
    caller: &Caller,
    request: &DeployRequest,
    prepared: &Prepared,
) -> Result<Option<(Compared, Option<StackDeployed>)>> {
    let scope = caller.scope();
    let _deciding = state.deciding.write().await;
    let compared = planning::compare(state, scope, prepared).await?;
    refuse_stale(request.fingerprint.as_deref(), &compared.plan.fingerprint)?;
    let project = project_of(state, scope, prepared).await?;
    let mut change = change(prepared, &compared, request, &project, caller);
    if change.services.iter().all(|service| service.change.is_none()) && change.removals.is_empty() {
        return Ok(Some((compared, None)));
    }
    if change.services.iter().any(|service| service.change.is_some()) {
        refuse_without_server(state, scope, &compared, &project, prepared.stack_name()).await?;
    }
    change.events.push(stack_changed(&change, &compared));
    match state.store().stack_deploy(scope, &change, state.steady.now_ms()).await {
        Ok(done) => Ok(Some((compared, Some(done)))),
        Err(Error::Stale { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn finish(
    state: &AppState,
    caller: &Caller,
    compared: Compared,
    done: Option<StackDeployed>,
) -> Result<DeployAnswer> {
    let Compared { stack, plan, .. } = compared;
    let Some(done) = done else {
        let Some(stack) = stack else {
            return Err(HttpError::invalid(
                "services",
                "there is nothing to deploy: the stack does not exist yet and no service of it was asked for",
            ));
        };
        return Ok(DeployAnswer {
            stack_id: stack.id,
            stack: stack.name,
            version: stack.version,
            plan,
            deployments: vec![],
        });
    };
    state.wakeups().events_stored();
    let services = state.store().service_list(caller.scope(), Some(&done.stack.id)).await?;
    crate::desired::refresh_stack(state, caller.scope(), &services).await?;
    for service in services {
        state.wakeups().service_changed(&service.id);
    }
    let StackDeployed { stack, deployments } = done;
    Ok(DeployAnswer { stack_id: stack.id, stack: stack.name, version: stack.version, plan, deployments })
}

/// The stack's version follows from the one that the plan is for: any other is refused as stale.
fn stack_changed(change: &StackDeploy, compared: &Compared) -> Event {
    let (name, version) = (&change.name, change.expected_version + 1);
    let message = format!("{name} is at version {version} now: {}", plan::render::sum(&compared.plan));
    let mut changed = event(EventKind::StackChanged, EventLevel::Info, message, change.cause.clone());
    let existing = compared.stack.as_ref().map(|stack| &stack.id);
    changed.stack_id = Some(existing.unwrap_or(&change.stack_id).clone());
    changed
}

/// The events of a deployment that was begun: of the end of the one that it superseded, and of its beginning.
pub fn begun_events(begun: &Begun) -> Vec<Event> {
    let Begun { deployment, superseded } = begun;
    let told = |about_it: &Deployment, kind: EventKind, suffix: &str| {
        let number = about_it.revision_number;
        let message = format!("{} of {} (revision {number}){suffix}", about_it.kind, about_it.service);
        about(about_it, event(kind, EventLevel::Info, message, deployment.cause.clone()))
    };
    let ended = superseded
        .iter()
        .map(|before| told(before, EventKind::DeploymentStageChanged, ": superseded by a newer deployment"));
    ended.chain([told(deployment, EventKind::DeploymentCreated, "")]).collect()
}

/// An event that is about a deployment.
pub fn about(deployment: &Deployment, mut event: Event) -> Event {
    event.stack_id = Some(deployment.stack_id.clone());
    event.service_id = Some(deployment.service_id.clone());
    event.deployment_id = Some(deployment.id.clone());
    event
}

fn refuse_unknown_services(prepared: &Prepared, asked: &[Name]) -> Result<()> {
    match asked.iter().find(|name| !prepared.resolved.contains_key(*name)) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<&str> = prepared.resolved.keys().map(Name::as_str).collect();
            let message = format!("the manifest has no service `{name}`; nothing was changed");
            Err(HttpError::invalid("services", message).help(format!("it has: {}", known.join(", "))))
        }
    }
}

fn refuse_stale(agreed: Option<&str>, now: &str) -> Result<()> {
    match agreed {
        Some(agreed) if agreed != now => {
            let moved = fingerprint::what_moved(agreed, now);
            let message = format!("the plan no longer holds: {moved}; nothing was changed");
            Err(HttpError::new(ErrorCode::StalePlan, message)
                .help("look at the new plan with `mainstay plan` and decide again"))
        }
        _ => Ok(()),
    }
}

async fn project_of(state: &AppState, scope: &Scope, prepared: &Prepared) -> Result<Project> {
    let name = match prepared.project() {
        Some(name) => name.clone(),
        None => crate::bootstrap::PROJECT.parse().expect("the name is valid"),
    };
    Ok(state.store().project_ensure(scope, &fresh(ProjectId::from_uuid), &name, clock::now_ms()).await?)
}

/// A deployment without any machine that could run it would wait for ever; better to say so at once.
/// A machine that is merely away for the moment is waited for.
async fn refuse_without_server(
    state: &AppState,
    scope: &Scope,
    compared: &Compared,
    project: &Project,
    name: &Name,
) -> Result<()> {
    let servers = state.store().server_list(scope).await?;
    let unknown = StackId::from_uuid(uuid::Uuid::nil());
    let stack = store::Stack {
        id: compared.stack.as_ref().map_or(unknown, |stack| stack.id.clone()),
        project_id: project.id.clone(),
        name: name.clone(),
        version: 0,
        manifest: String::new(),
        removing: false,
        created_at_ms: 0,
        updated_at_ms: 0,
    };
    if servers.iter().any(|server| may_take(&server.binding, &stack, std::slice::from_ref(project))) {
        return Ok(());
    }
    let message = match servers.len() {
        0 => format!("there is no server to run {name} on; nothing was changed"),
        _ => format!(
            "no server may take the stack {name}: each is bound to another stack or project; nothing was changed"
        ),
    };
    Err(HttpError::conflict(message).help(
        "add a machine: `mainstay tokens create` here, then `mainstay agent --join URL --token TOKEN` there \
         (or run `mainstay up`, which brings its own)",
    ))
}

fn change(
    prepared: &Prepared,
    compared: &Compared,
    request: &DeployRequest,
    project: &Project,
    caller: &Caller,
) -> StackDeploy {
    let asked = |name: &Name| request.services.is_empty() || request.services.contains(name);
    let mut services = Vec::new();
    let mut removals = Vec::new();
    for step in &compared.plan.services {
        let existing = compared.services.get(&step.service);
        if step.action == ServicePlanAction::Remove {
            if let Some(service) = existing.filter(|service| request.services.is_empty() && !service.removing) {
                removals.push(ServiceRemoval {
                    service_id: service.id.clone(),
                    deployment_id: fresh(DeploymentId::from_uuid),
                });
            }
            continue;
        }
        // A service that is not asked for and does not exist yet stays that way.
        if existing.is_some() || asked(&step.service) {
            let wanted = asked(&step.service) && (request.force || step.action != ServicePlanAction::Keep);
            services.extend(service_deploy(prepared, compared, step, wanted));
        }
    }
    StackDeploy {
        stack_id: fresh(StackId::from_uuid),
        project_id: project.id.clone(),
        name: prepared.stack_name().clone(),
        expected_version: compared.plan.base_version,
        manifest: request.plan.manifest.clone(),
        services,
        removals,
        cause: caller.cause("deploy"),
        tell: begun_events,
        events: Vec::new(),
    }
}

fn service_deploy(prepared: &Prepared, compared: &Compared, step: &ServicePlan, wanted: bool) -> Option<ServiceDeploy> {
    let name = &step.service;
    let (spec, found) = (compared.specs.get(name)?, prepared.resolved.get(name)?);
    let existing = compared.services.get(name);
    let hash = revision_hash(spec, &found.version);
    let newest = compared.newest.get(name);
    let known = newest.is_some_and(|revision| revision.hash == hash);
    // The same revision again, by force, means new instances of it.
    let serves = existing.and_then(|service| service.current_revision_id.as_ref());
    let again = known && serves.is_some() && serves == newest.map(|revision| &revision.id);
    let only_scales = again && step.differences.iter().all(|d| d.field == "replicas") && !step.differences.is_empty();
    let kind = match (again, only_scales) {
        (true, true) => DeploymentKind::Scale,
        (true, false) if step.action == ServicePlanAction::Keep => DeploymentKind::Restart,
        _ => DeploymentKind::Deploy,
    };
    let revision = (!known).then(|| RevisionCreate {
        id: fresh(RevisionId::from_uuid),
        source_version: found.version.clone(),
        source_subject: found.subject.clone(),
        spec: spec.clone(),
        hash,
    });
    let replicas = spec.replicas.or(existing.map(|service| service.replicas)).unwrap_or(1);
    Some(ServiceDeploy {
        service_id: existing.map_or_else(|| fresh(ServiceId::from_uuid), |service| service.id.clone()),
        name: name.clone(),
        replicas: replicas.clamp(1, REPLICAS_LIMIT),
        change: wanted.then(|| (fresh(DeploymentId::from_uuid), kind, revision)),
    })
}
