//! From a manifest to what would change, with everything looked at that a deploy looks at: so a plan
//! that is shown without complaint can be applied.

use super::fingerprint;
use super::routes::{Taken, refuse_conflicts};
use super::sources::{self, Resolved};
use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use api::error::ApiError;
use api::ids::{RevisionId, ServiceId, StackId};
use api::name::Name;
use api::plans::{PlanRequest, StackPlan, StackSpec};
use api::services::{Revision, ServiceIntent, ServiceSpec, SourceVersion};
use plan::stack::{CurrentService, CurrentStack};
use std::collections::{BTreeMap, BTreeSet};
use store::{Scope, Service, Stack};

/// A manifest with its sources resolved: all that needs the outside world.
pub struct Prepared {
    spec: StackSpec,
    pub resolved: BTreeMap<Name, Resolved>,
}

/// A prepared manifest against the rows as they are now.
pub struct Compared {
    pub stack: Option<Stack>,
    pub services: BTreeMap<Name, Service>,
    /// With the variables that were set with `mainstay env`.
    pub specs: BTreeMap<Name, ServiceSpec>,
    /// Newest revision of each service, whatever became of it.
    pub newest: BTreeMap<Name, Revision>,
    pub plan: StackPlan,
}

pub async fn plan(state: &AppState, caller: &Caller, request: &PlanRequest) -> Result<StackPlan> {
    let prepared = prepare(state, caller.scope(), request).await?;
    Ok(compare(state, caller.scope(), &prepared).await?.plan)
}

pub async fn prepare(state: &AppState, scope: &Scope, request: &PlanRequest) -> Result<Prepared> {
    let mut spec = manifest::parse(&request.manifest, request.default_source.as_ref())
        .map_err(|errors| HttpError::Answer(Box::new(ApiError::from(errors))))?;
    let credentials = state.store().credential_list(scope).await?;
    let credentials = credentials.into_iter().map(|c| (c.name, c.credential)).collect();
    let resolved = sources::resolve(state, &spec, &credentials).await?;
    for (name, service) in &mut spec.services {
        if let Some(found) = resolved.get(name) {
            // A manifest that names no branch gets the default one: where a machine may find the commit.
            if let Some(source) = service.source.git_mut() {
                source.reference = source.reference.take().or_else(|| found.reference.clone());
            }
        }
    }
    Ok(Prepared { spec, resolved })
}

pub async fn compare(state: &AppState, scope: &Scope, prepared: &Prepared) -> Result<Compared> {
    let store = state.store();
    let stack = store.stack_find(scope, &prepared.spec.name).await?;
    let rows = match &stack {
        Some(stack) => store.service_list(scope, Some(&stack.id)).await?,
        None => Vec::new(),
    };
    let services: BTreeMap<Name, Service> = rows.into_iter().map(|service| (service.name.clone(), service)).collect();
    let mut specs = prepared.spec.services.clone();
    let (mut current, mut newest) = (BTreeMap::new(), BTreeMap::new());
    for (name, service) in &services {
        if let Some(spec) = specs.get_mut(name) {
            spec.env.extend(store.service_env_list(scope, &service.id).await?);
        }
        if let Some(revision) = store.revision_list(scope, &service.id, 1).await?.pop() {
            newest.insert(name.clone(), revision);
        }
        if let Some(revision) = wanted_revision(state, scope, service).await?
            && !service.removing
        {
            let own = CurrentService {
                spec: revision.spec,
                source_version: revision.source_version,
                replicas: service.replicas,
            };
            current.insert(name.clone(), own);
        }
    }
    refuse_conflicts(&wanted_routes(&specs), &taken_routes(state, scope, stack.as_ref()).await?)?;
    let versions = prepared.resolved.iter().map(|(name, found)| (name.clone(), found.version.clone())).collect();
    let next = StackSpec { services: specs.clone(), ..prepared.spec.clone() };
    let deployed = stack.as_ref().map(|stack| CurrentStack {
        stack_id: stack.id.clone(),
        version: stack.version,
        services: current,
    });
    let mut plan = plan::stack::diff(deployed.as_ref(), &next, &versions);
    plan.fingerprint = fingerprint::of(&plan, &specs, &versions);
    Ok(Compared { stack, services, specs, newest, plan })
}

impl Prepared {
    pub fn stack_name(&self) -> &Name {
        &self.spec.name
    }

    pub fn project(&self) -> Option<&Name> {
        self.spec.project.as_ref()
    }
}

/// What a service should be running: what is on its way, or what serves. A deployment that failed is
/// neither, so that the same manifest can be tried again. A stopped service runs nothing.
async fn wanted_revision(state: &AppState, scope: &Scope, service: &Service) -> Result<Option<Revision>> {
    let newest = state.store().deployment_newest(scope, &service.id).await?;
    let in_flight = newest.filter(|deployment| deployment.stage.in_flight()).map(|deployment| deployment.revision_id);
    let wanted: Option<RevisionId> = match service.intent {
        ServiceIntent::Run => in_flight.or(service.current_revision_id.clone()),
        ServiceIntent::Stop => None,
    };
    match wanted {
        Some(id) => Ok(Some(state.store().revision_get(scope, &id).await?)),
        None => Ok(None),
    }
}

fn wanted_routes(specs: &BTreeMap<Name, ServiceSpec>) -> BTreeMap<Name, Vec<api::services::RouteSpec>> {
    specs.iter().map(|(name, spec)| (name.clone(), spec.routes.clone())).collect()
}

/// Routes of the services of all other stacks, those on their way included.
pub async fn taken_routes(state: &AppState, scope: &Scope, own: Option<&Stack>) -> Result<Vec<Taken>> {
    let store = state.store();
    let stacks = store.stack_list(scope).await?;
    let names: BTreeMap<&StackId, &Name> = stacks.iter().map(|stack| (&stack.id, &stack.name)).collect();
    let mut services = store.service_list(scope, None).await?;
    services.retain(|service| !service.removing && own.is_none_or(|own| own.id != service.stack_id));
    let ids: Vec<&ServiceId> = services.iter().map(|service| &service.id).collect();
    let newest = store.deployment_list_newest(scope, ids).await?;
    let in_flight = newest.into_iter().filter(|deployment| deployment.stage.in_flight());
    let in_flight: BTreeMap<ServiceId, RevisionId> = in_flight.map(|d| (d.service_id, d.revision_id)).collect();
    let wanted = |service: &Service| {
        let ids = in_flight.get(&service.id).into_iter().chain(&service.current_revision_id);
        ids.cloned().collect::<Vec<RevisionId>>()
    };
    let ids: BTreeSet<RevisionId> = services.iter().flat_map(wanted).collect();
    let revisions = store.revision_list_of(scope, &ids).await?;
    let revisions: BTreeMap<&RevisionId, &Revision> =
        revisions.iter().map(|revision| (&revision.id, revision)).collect();
    let mut taken = Vec::new();
    for service in &services {
        let Some(stack) = names.get(&service.stack_id) else { continue };
        for revision in wanted(service).iter().filter_map(|id| revisions.get(id)) {
            let (stack, service) = ((*stack).clone(), service.name.clone());
            taken.push(Taken { stack, service, routes: revision.spec.routes.clone() });
        }
    }
    Ok(taken)
}

/// Of a spec at a source version: equal hashes need no new revision. The number of replicas is not part of
/// a revision, and neither is the branch that led to the commit.
pub fn revision_hash(spec: &ServiceSpec, version: &SourceVersion) -> String {
    let mut bare = ServiceSpec { replicas: None, ..spec.clone() };
    if let Some(source) = bare.source.git_mut() {
        source.reference = None;
    }
    wire::digest_of(&(bare, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use api::secret::Secret;

    #[test]
    fn a_revision_is_another_one_by_commit_command_or_variable_but_not_by_replicas_or_branch() {
        let base = samples::revision(1, "/");
        let hash = |change: fn(&mut ServiceSpec)| {
            let mut spec = base.spec.clone();
            change(&mut spec);
            revision_hash(&spec, &base.source_version)
        };
        let same = hash(|_| {});
        assert_eq!(same, hash(|spec| spec.replicas = Some(3)));
        assert_eq!(same, hash(|spec| spec.source.git_mut().unwrap().reference = Some("main".parse().unwrap())));
        assert_ne!(same, hash(|spec| drop(spec.env.insert("A".into(), Secret::new("1")))));
        assert_ne!(same, revision_hash(&base.spec, &samples::revision(2, "/").source_version));
    }
}
