//! What can be asked of a service that is deployed: each is a deployment through the one rollout
//! engine, so all of them keep the old instances serving until the new ones are proven.

use super::deploy::{about, begun_events};
use super::planning::taken_routes;
use super::routes::refuse_conflicts;
use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::state::{AppState, event, fresh};
use crate::views::{self, find_service, parse};
use api::deployments::{Deployment, DeploymentKind, RollbackRequest, Stage, StageEntry};
use api::events::{EventKind, EventLevel};
use api::ids::{DeploymentId, RevisionId};
use api::services::{REPLICAS_LIMIT, Revision, ServiceIntent};
use std::collections::BTreeMap;
use store::{DeploymentCreate, Error, RevisionCreate, Service};

/// A deployment still to be begun.
pub struct Asked {
    pub kind: DeploymentKind,
    pub revision_id: RevisionId,
    pub revision: Option<RevisionCreate>,
    pub replicas: Option<u32>,
    pub intent: Option<ServiceIntent>,
    /// What happened, beside that a deployment was begun.
    pub event: Option<(EventKind, String)>,
}

impl Asked {
    fn new(kind: DeploymentKind, revision_id: RevisionId) -> Self {
        Self { kind, revision_id, revision: None, replicas: None, intent: None, event: None }
    }
}

/// Writes the deployment down, tells whom it concerns. The caller holds the deciding lock.
pub async fn begin(state: &AppState, caller: &Caller, service: &Service, asked: Asked) -> Result<Deployment> {
    let cause = caller.cause(asked.kind.as_str());
    let id = fresh(DeploymentId::from_uuid);
    let happened = asked.event.map(|(kind, message)| {
        let mut happened = event(kind, EventLevel::Info, message, cause.clone());
        happened.stack_id = Some(service.stack_id.clone());
        happened.service_id = Some(service.id.clone());
        happened.deployment_id = Some(id.clone());
        happened
    });
    let create = DeploymentCreate {
        id,
        service_id: service.id.clone(),
        kind: asked.kind,
        revision_id: asked.revision_id,
        cause,
        replicas: asked.replicas,
        intent: asked.intent,
        revision: asked.revision,
        tell: begun_events,
        events: happened.into_iter().collect(),
    };
    let deployment = state.store().deployment_create(caller.scope(), &create, state.steady.now_ms()).await?;
    state.wakeups().events_stored();
    let instances = state.store().instance_list_of_service(caller.scope(), &service.id).await?;
    crate::desired::refresh_service(state, caller.scope(), service, &instances).await?;
    state.wakeups().service_changed(&service.id);
    Ok(deployment)
}

/// A service that is not on its way out.
async fn wanted(state: &AppState, caller: &Caller, stack: &str, name: &str) -> Result<Service> {
    let (_, service) = find_service(state, caller.scope(), stack, name).await?;
    if service.removing {
        return Err(HttpError::conflict(format!("{} is being removed", service.name))
            .help("deploy a manifest that names it to have it again"));
    }
    Ok(service)
}

fn current(service: &Service) -> Result<RevisionId> {
    service.current_revision_id.clone().ok_or_else(|| {
        HttpError::conflict(format!("{} has no release that was ever healthy", service.name))
            .help("deploy it; the reason for the last failure is in its deployment")
    })
}

pub async fn rollback(
    state: &AppState,
    caller: &Caller,
    stack: &str,
    name: &str,
    request: &RollbackRequest,
) -> Result<Deployment> {
    let _deciding = state.deciding.write().await;
    let service = wanted(state, caller, stack, name).await?;
    let target = match request.revision {
        Some(number) => by_number(state, caller, &service, number).await?,
        None => before_current(state, caller, &service).await?,
    };
    if service.current_revision_id.as_ref() == Some(&target.id) && service.intent == ServiceIntent::Run {
        let newest = state.store().deployment_newest(caller.scope(), &service.id).await?;
        if !newest.is_some_and(|deployment| deployment.stage.in_flight()) {
            return Err(HttpError::conflict(format!("{} runs revision {} already", service.name, target.number))
                .help("`mainstay restart` makes new instances of it"));
        }
    }
    // Its routes may belong to somebody else by now.
    let stack = state.store().stack_get(caller.scope(), &service.stack_id).await?;
    let taken = taken_routes(state, caller.scope(), Some(&stack)).await?;
    refuse_conflicts(&BTreeMap::from([(service.name.clone(), target.spec.routes.clone())]), &taken)?;
    let asked = Asked { intent: Some(ServiceIntent::Run), ..Asked::new(DeploymentKind::Rollback, target.id) };
    begin(state, caller, &service, asked).await
}

async fn by_number(state: &AppState, caller: &Caller, service: &Service, number: u64) -> Result<Revision> {
    let found = state.store().revision_by_number(caller.scope(), &service.id, number).await?;
    found.ok_or_else(|| {
        HttpError::not_found("revision", &number.to_string())
            .help("the dashboard and `mainstay status` list those that are kept")
    })
}

/// The release that served before the one that serves now: the one the rows name, or else the
/// newest older one that once ran.
async fn before_current(state: &AppState, caller: &Caller, service: &Service) -> Result<Revision> {
    let (store, scope) = (state.store(), caller.scope());
    if let Some(id) = &service.previous_revision_id {
        match store.revision_get(scope, id).await {
            Ok(revision) => return Ok(revision),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let current_number = match &service.current_revision_id {
        Some(id) => store.revision_get(scope, id).await?.number,
        None => u64::MAX,
    };
    let ran = views::revisions_that_ran(state, scope, &service.id).await?;
    match ran.range(..current_number).next_back() {
        Some(number) => by_number(state, caller, service, *number).await,
        None => Err(HttpError::conflict(format!(
            "{} has no earlier release that ran, so there is nothing to go back to",
            service.name
        ))
        .help("mend it and deploy again; `mainstay stop` stops it meanwhile")),
    }
}

pub async fn restart(state: &AppState, caller: &Caller, stack: &str, name: &str) -> Result<Deployment> {
    let _deciding = state.deciding.write().await;
    let service = wanted(state, caller, stack, name).await?;
    if service.intent == ServiceIntent::Stop {
        return Err(HttpError::conflict(format!("{} is stopped", service.name)).help("start it with `mainstay start`"));
    }
    let revision_id = current(&service)?;
    begin(state, caller, &service, Asked::new(DeploymentKind::Restart, revision_id)).await
}

pub async fn stop(state: &AppState, caller: &Caller, stack: &str, name: &str) -> Result<Deployment> {
    let _deciding = state.deciding.write().await;
    let service = wanted(state, caller, stack, name).await?;
    if service.intent == ServiceIntent::Stop {
        return Err(HttpError::conflict(format!("{} is stopped already", service.name)));
    }
    let newest = state.store().deployment_newest(caller.scope(), &service.id).await?;
    let known = service.current_revision_id.clone().or(newest.map(|deployment| deployment.revision_id));
    let revision_id = known.map_or_else(|| current(&service), Ok)?;
    let message = format!("{} is stopped until it is started or deployed again", service.name);
    let asked = Asked {
        intent: Some(ServiceIntent::Stop),
        event: Some((EventKind::ServiceStopped, message)),
        ..Asked::new(DeploymentKind::Stop, revision_id)
    };
    begin(state, caller, &service, asked).await
}

pub async fn start(state: &AppState, caller: &Caller, stack: &str, name: &str) -> Result<Deployment> {
    let _deciding = state.deciding.write().await;
    let service = wanted(state, caller, stack, name).await?;
    if service.intent == ServiceIntent::Run {
        return Err(HttpError::conflict(format!("{} is not stopped", service.name))
            .help("`mainstay restart` makes new instances of it"));
    }
    let revision_id = current(&service)?;
    let asked = Asked {
        intent: Some(ServiceIntent::Run),
        event: Some((EventKind::ServiceStarted, format!("{} was started", service.name))),
        ..Asked::new(DeploymentKind::Start, revision_id)
    };
    begin(state, caller, &service, asked).await
}

pub async fn scale(state: &AppState, caller: &Caller, stack: &str, name: &str, replicas: u32) -> Result<Deployment> {
    if replicas == 0 {
        return Err(HttpError::invalid("replicas", "0 instances cannot serve anything")
            .help("use `mainstay stop` to stop a service"));
    }
    if replicas > REPLICAS_LIMIT {
        return Err(HttpError::invalid(
            "replicas",
            format!("{replicas} is more than the {REPLICAS_LIMIT} instances a service may have"),
        ));
    }
    let _deciding = state.deciding.write().await;
    let service = wanted(state, caller, stack, name).await?;
    if service.intent == ServiceIntent::Stop {
        return Err(
            HttpError::conflict(format!("{} is stopped", service.name)).help("start it first with `mainstay start`")
        );
    }
    refuse_while_deploying(state, caller, &service).await?;
    let revision_id = current(&service)?;
    let spec = state.store().revision_get(caller.scope(), &revision_id).await?.spec;
    if let (Some(port), true) = (spec.machine_port(), replicas > 1) {
        let message = format!("{} always listens on port {port}, which two instances cannot share", service.name);
        return Err(HttpError::invalid("replicas", message)
            .help("remove `port` from its manifest and let it listen on the port in the variable PORT"));
    }
    if let (Some(volume), true) = (spec.written_volume(), replicas > 1) {
        let message = format!("{} writes to its volume `{volume}`, which two instances would spoil", service.name);
        return Err(HttpError::invalid("replicas", message).help("mount it `read_only`, or keep one instance"));
    }
    let message = format!(
        "{} has {} now; before it had {}",
        service.name,
        api::words::count(replicas, "instance"),
        service.replicas
    );
    let asked = Asked {
        replicas: Some(replicas),
        event: Some((EventKind::ServiceScaled, message)),
        ..Asked::new(DeploymentKind::Scale, revision_id)
    };
    begin(state, caller, &service, asked).await
}

/// Scaling means the release that serves; while another is on its way it would throw that one out.
async fn refuse_while_deploying(state: &AppState, caller: &Caller, service: &Service) -> Result<()> {
    let newest = state.store().deployment_newest(caller.scope(), &service.id).await?;
    let other = newest.filter(|d| d.stage.in_flight() && Some(&d.revision_id) != service.current_revision_id.as_ref());
    match other {
        None => Ok(()),
        Some(deployment) => {
            let message = format!("revision {} of {} is being deployed", deployment.revision_number, service.name);
            Err(HttpError::conflict(message).help("wait until it runs, or cancel it"))
        }
    }
}

/// Ends a deployment that has not moved traffic yet; what served before goes on.
pub async fn cancel(state: &AppState, caller: &Caller, id: &str) -> Result<Deployment> {
    let id: DeploymentId = parse("deployment", id)?;
    let _deciding = state.deciding.write().await;
    let mut deployment = state.store().deployment_get(caller.scope(), &id).await?;
    let before = deployment.stage;
    if !plan::rollout::can_cancel(before) {
        let message = if before.in_flight() { "has moved traffic already" } else { "has ended" };
        return Err(HttpError::conflict(format!("the deployment {message}: it is {before}"))
            .help("use `mainstay rollback` to go back to the release before"));
    }
    if deployment.kind == DeploymentKind::Stop {
        return Err(HttpError::conflict("a stop cannot be cancelled").help("use `mainstay start`"));
    }
    let now_ms = state.steady.now_ms();
    deployment.stage = Stage::Cancelled;
    deployment.stages.push(StageEntry { stage: Stage::Cancelled, at_ms: now_ms });
    deployment.ended_at_ms = Some(now_ms);
    let message = format!(
        "the {} of {} (revision {}) was cancelled",
        deployment.kind, deployment.service, deployment.revision_number
    );
    let mut cause = caller.cause("cancel");
    cause.deployment_id = Some(deployment.id.clone());
    let cancelled = about(&deployment, event(EventKind::DeploymentStageChanged, EventLevel::Warning, message, cause));
    state.store().deployment_update(caller.scope(), &deployment, before, &[cancelled]).await?;
    state.wakeups().events_stored();
    state.wakeups().service_changed(&deployment.service_id);
    Ok(deployment)
}
