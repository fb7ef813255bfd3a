//! The desired state of one server, put together from plain parts. Pure: equal parts give an equal
//! document, whatever order they come in, so that its digest says whether anything changed.

use crate::certificates::Book;
use crate::options::ServerOptions;
use api::desired::{
    DesiredState, GitCredential, InstanceDesired, ResolvedGit, ResolvedImage, ResolvedSource, RevisionDesired,
    SecurityMode, ServiceDesired, StackDesired,
};
use api::ids::{DeploymentId, ProjectId, RevisionId, ServerId, ServiceId, StackId};
use api::images::RegistryCredential;
use api::name::{HostName, Name};
use api::services::{Revision, ServiceSpec, SourceSpec, SourceVersion};
use api::tls::ChallengeAnswer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The server itself.
pub struct ServerPart {
    pub id: ServerId,
    pub name: Name,
    pub security_mode: SecurityMode,
    /// Whether its agent runs as root, on which its ports depend.
    pub agent_is_root: bool,
    /// Whether there is a fleet state for it.
    pub in_fleet: bool,
}

/// What gateways need for HTTPS.
#[derive(Default)]
pub struct HttpsPart {
    pub book: Arc<Book>,
    pub challenges: Vec<ChallengeAnswer>,
    /// Hosts of services on other servers, which every server of the fleet answers for; `None` is any.
    pub fleet_hosts: Arc<BTreeSet<Option<HostName>>>,
}

/// A stack with the services of which something lands on the server.
pub struct StackPart {
    pub id: StackId,
    pub project_id: ProjectId,
    pub name: Name,
    pub version: u64,
    pub services: Vec<ServicePart>,
}

/// A service with its instances on the server.
pub struct ServicePart {
    pub id: ServiceId,
    pub name: Name,
    /// The revision that traffic goes to: its routes are the service's routes.
    pub current_revision_id: Option<RevisionId>,
    /// Revisions that an instance needs, and the current one.
    pub revisions: Vec<Revision>,
    pub instances: Vec<InstanceDesired>,
}

/// The document, with generation and time left at zero for the caller.
pub fn assemble(
    server: &ServerPart,
    mut stacks: Vec<StackPart>,
    credentials: &BTreeMap<Name, GitCredential>,
    https: &HttpsPart,
    options: &ServerOptions,
) -> DesiredState {
    stacks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    let stacks: Vec<StackDesired> = stacks.into_iter().map(|stack| stack_desired(stack, credentials)).collect();
    let routes = stacks.iter().flat_map(|stack| &stack.services).flat_map(|service| &service.routes);
    let elsewhere = https.fleet_hosts.iter().filter(|_| server.in_fleet).map(Option::as_ref);
    let certificates = https.book.for_routes(routes.map(|route| route.host.as_ref()).chain(elsewhere));
    DesiredState {
        server_id: server.id.clone(),
        server_name: server.name.clone(),
        generation: 0,
        issued_at_ms: 0,
        poll_interval_ms: options.poll_interval_ms,
        in_fleet: server.in_fleet,
        security_mode: server.security_mode,
        gateway: options.gateway_settings(server.agent_is_root),
        dns: options.dns.clone(),
        stacks,
        certificates,
        challenges: https.challenges.clone(),
    }
}

/// The digest of all that an agent acts on.
pub fn digest(state: &DesiredState) -> String {
    wire::digest_of(&DesiredState { generation: 0, issued_at_ms: 0, ..state.clone() })
}

fn stack_desired(mut stack: StackPart, credentials: &BTreeMap<Name, GitCredential>) -> StackDesired {
    stack.services.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    let services: Vec<ServiceDesired> =
        stack.services.into_iter().map(|service| service_desired(service, credentials)).collect();
    StackDesired {
        stack_id: stack.id,
        project_id: stack.project_id,
        name: stack.name,
        version: stack.version,
        hash: wire::digest_of(&services),
        services,
    }
}

fn service_desired(mut service: ServicePart, credentials: &BTreeMap<Name, GitCredential>) -> ServiceDesired {
    service.instances.sort_by(|a, b| (a.ordinal, &a.instance_id).cmp(&(b.ordinal, &b.instance_id)));
    service.revisions.sort_by_key(|revision| revision.number);
    // Until traffic goes anywhere, the newest revision's routes lead to a page that says what is
    // being waited for.
    let current = service.revisions.iter().find(|r| Some(&r.id) == service.current_revision_id.as_ref());
    let routes = current.or(service.revisions.last()).map(|r| r.spec.routes.clone()).unwrap_or_default();
    let revisions = service
        .revisions
        .into_iter()
        .filter_map(|revision| {
            let instances = service.instances.iter().filter(|i| i.revision_id == revision.id);
            // The newest deployment that wants it: ids are made in the order of time.
            let deployment = instances.map(|i| i.deployment_id.clone()).max();
            revision_desired(revision, deployment, credentials)
        })
        .collect();
    ServiceDesired { service_id: service.id, name: service.name, routes, revisions, instances: service.instances }
}

fn revision_desired(
    revision: Revision,
    deployment_id: Option<DeploymentId>,
    credentials: &BTreeMap<Name, GitCredential>,
) -> Option<RevisionDesired> {
    let spec = revision.spec;
    let build_key = build_key(&spec, &revision.source_version);
    Some(RevisionDesired {
        revision_id: revision.id,
        number: revision.number,
        deployment_id: deployment_id.unwrap_or_else(|| DeploymentId::from_uuid(uuid::Uuid::nil())),
        source: source_desired(spec.source, &revision.source_version, credentials)?,
        build: spec.build,
        build_key,
        run: spec.run,
        env: spec.env,
        port: spec.port,
        health: spec.health,
        limits: spec.limits,
        restart: spec.restart,
        stop: spec.stop,
    })
}

/// Revisions that share it share one build, or one image.
fn build_key(spec: &ServiceSpec, version: &SourceVersion) -> String {
    match &spec.source {
        SourceSpec::Git(git) => {
            wire::digest_of(&(&git.git, version, &git.directory, git.submodules, &spec.build, &spec.env))
        }
        SourceSpec::Image(image) => wire::digest_of(&(&image.image, version, image.pull)),
    }
}

/// `None` for a revision whose version is not one of its source: no row is like that.
fn source_desired(
    source: SourceSpec,
    version: &SourceVersion,
    credentials: &BTreeMap<Name, GitCredential>,
) -> Option<ResolvedSource> {
    let credential = |name: &Option<Name>| name.as_ref().and_then(|name| credentials.get(name).cloned());
    Some(match source {
        SourceSpec::Git(git) => ResolvedSource::Git(ResolvedGit {
            credential: credential(&git.credential),
            git: git.git,
            commit: version.commit()?,
            reference: git.reference,
            directory: git.directory,
            submodules: git.submodules,
        }),
        SourceSpec::Image(image) => ResolvedSource::Image(ResolvedImage {
            credential: credential(&image.credential).and_then(|credential| match credential {
                GitCredential::Token { user, token } => Some(RegistryCredential { user, password: token }),
                GitCredential::DeployKey { .. } => None,
            }),
            image: image.image,
            digest: version.digest(),
            pull: image.pull,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use api::desired::{InstanceIntent, Traffic};

    fn instance(number: u128, revision: &Revision, deployment: u128) -> InstanceDesired {
        InstanceDesired {
            instance_id: api::ids::InstanceId::from_uuid(uuid::Uuid::from_u128(number)),
            revision_id: revision.id.clone(),
            deployment_id: DeploymentId::from_uuid(uuid::Uuid::from_u128(deployment)),
            ordinal: number as u32,
            intent: InstanceIntent::Run,
            traffic: Traffic::Active,
            address: None,
        }
    }

    fn document(current: Option<&Revision>, revisions: &[&Revision], instances: Vec<InstanceDesired>) -> DesiredState {
        let server = ServerPart {
            id: ServerId::from_uuid(uuid::Uuid::from_u128(1)),
            name: "local".parse().unwrap(),
            security_mode: SecurityMode::Closed,
            agent_is_root: false,
            in_fleet: false,
        };
        let service = ServicePart {
            id: ServiceId::from_uuid(uuid::Uuid::from_u128(2)),
            name: "web".parse().unwrap(),
            current_revision_id: current.map(|r| r.id.clone()),
            revisions: revisions.iter().map(|r| (*r).clone()).collect(),
            instances,
        };
        let stack = StackPart {
            id: StackId::from_uuid(uuid::Uuid::from_u128(3)),
            project_id: ProjectId::from_uuid(uuid::Uuid::from_u128(4)),
            name: "shop".parse().unwrap(),
            version: 1,
            services: vec![service],
        };
        assemble(&server, vec![stack], &BTreeMap::new(), &HttpsPart::default(), &ServerOptions::new("/x"))
    }

    #[test]
    fn routes_are_those_of_the_revision_that_has_the_traffic_not_of_one_on_its_way() {
        let (old, new) = (samples::revision(1, "/old"), samples::revision(2, "/new"));
        let routes = |state: DesiredState| state.stacks[0].services[0].routes[0].path.to_string();
        let instances = vec![instance(1, &old, 1), instance(2, &new, 2)];
        assert_eq!(routes(document(Some(&old), &[&new, &old], instances.clone())), "/old");
        assert_eq!(routes(document(Some(&new), &[&new, &old], instances)), "/new");
        assert_eq!(routes(document(None, &[&new], vec![instance(2, &new, 2)])), "/new");
    }

    #[test]
    fn a_server_of_the_fleet_has_the_certificates_of_hosts_that_are_served_elsewhere_and_one_alone_has_not() {
        let key = sealing::SealingKey::from_base64(&sealing::SealingKey::generate()).unwrap();
        let organization = api::ids::OrganizationId::from_uuid(uuid::Uuid::nil());
        let host: HostName = "elsewhere.example.com".parse().unwrap();
        let row = samples::certificate(&key, &organization, &host);
        let https = HttpsPart {
            book: Arc::new(Book::of(vec![row], &key, &organization, 1)),
            fleet_hosts: Arc::new(BTreeSet::from([Some(host)])),
            ..HttpsPart::default()
        };
        let certificates = |in_fleet| {
            let server = ServerPart {
                id: ServerId::from_uuid(uuid::Uuid::from_u128(1)),
                name: "local".parse().unwrap(),
                security_mode: SecurityMode::Closed,
                agent_is_root: false,
                in_fleet,
            };
            assemble(&server, vec![], &BTreeMap::new(), &https, &ServerOptions::new("/x")).certificates.len()
        };
        assert_eq!((certificates(true), certificates(false)), (1, 0));
    }

    #[test]
    fn the_digest_is_the_same_for_shuffled_parts_and_another_for_changed_ones() {
        let (old, new) = (samples::revision(1, "/"), samples::revision(2, "/"));
        let (a, b) = (instance(1, &old, 1), instance(2, &new, 2));
        let one = document(Some(&old), &[&old, &new], vec![a.clone(), b.clone()]);
        let shuffled = document(Some(&old), &[&new, &old], vec![b.clone(), a.clone()]);
        assert_eq!(digest(&one), digest(&shuffled));
        let drained = InstanceDesired { traffic: Traffic::Draining, ..a };
        assert_ne!(digest(&one), digest(&document(Some(&old), &[&old, &new], vec![drained, b])));
        assert_eq!(digest(&one), digest(&DesiredState { generation: 9, issued_at_ms: 9, ..one.clone() }));
    }

    #[test]
    fn equal_sources_share_a_build_and_another_commit_or_variable_does_not() {
        let base = samples::revision(1, "/");
        let key = |revision: &Revision| {
            document(None, &[revision], vec![]).stacks[0].services[0].revisions[0].build_key.clone()
        };
        let mut routed = samples::revision(2, "/other");
        routed.source_version = base.source_version.clone();
        assert_eq!(key(&base), key(&routed));
        let mut changed = base.clone();
        changed.spec.env.insert("A".into(), api::secret::Secret::new("1"));
        assert_ne!(key(&base), key(&changed));
        assert_ne!(key(&base), key(&samples::revision(2, "/")));
    }
}
