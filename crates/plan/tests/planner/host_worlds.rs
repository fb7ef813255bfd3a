//! Generators of machines in any state at all: every combination of wanted and seen, of failures,
//! of what the gateway says and of what is prepared, whether or not it could come to be.

use crate::samples::{self, id};
use api::desired::{DesiredState, InstanceIntent, ServiceDesired, Traffic};
use api::ids::InstanceId;
use api::observed::{InstanceObserved, InstanceState, PreparationObserved, PreparationState};
use api::services::PortSpec;
use plan::host::{ConfigKind, ConfigView, Failure, HostInput, HostPlan, Subject};
use proptest::prelude::*;

/// Services 1 to 3; revisions 10·s+1 and 10·s+2 of each; instances 1 to 6.
pub const SERVICES: u64 = 3;
pub const INSTANCES: u64 = 6;
pub const NOW_MS: i64 = 1_000_000;

#[derive(Debug, Clone)]
pub struct HostWorld {
    pub desired: DesiredState,
    pub instances: Vec<InstanceObserved>,
    pub preparations: Vec<PreparationObserved>,
    pub configs: Vec<ConfigView>,
    pub gateway_active: Vec<InstanceId>,
    pub failures: Vec<Failure>,
}

impl HostWorld {
    pub fn plan(&self) -> HostPlan {
        self.plan_for(Some(&self.desired))
    }

    pub fn plan_for(&self, desired: Option<&DesiredState>) -> HostPlan {
        plan::host::plan(HostInput {
            desired,
            instances: &self.instances,
            preparations: &self.preparations,
            configs: &self.configs,
            gateway_active: &self.gateway_active,
            failures: &self.failures,
            now_ms: NOW_MS,
        })
    }

    pub fn seen(&self, instance: &InstanceId) -> Option<&InstanceObserved> {
        self.instances.iter().find(|seen| &seen.instance_id == instance)
    }

    pub fn prepared(&self, revision: &api::ids::RevisionId) -> Option<&PreparationObserved> {
        self.preparations.iter().find(|prepared| &prepared.revision_id == revision)
    }

    pub fn backs_off(&self, subject: &Subject) -> bool {
        self.failures.iter().any(|failure| &failure.subject == subject && failure.retry_at_ms > NOW_MS)
    }

    /// Whether the routes failed so often that nothing waits for them any more.
    pub fn routes_given_up(&self) -> bool {
        let routes = Subject::Config(ConfigKind::Routes);
        self.failures.iter().any(|failure| failure.subject == routes && failure.attempts >= 3)
    }

    pub fn routes_live(&self) -> bool {
        let routes = self.configs.iter().find(|config| config.kind == ConfigKind::Routes);
        routes.is_none_or(|config| config.live_digest.as_ref() == Some(&config.desired_digest))
    }
}

pub fn intent() -> impl Strategy<Value = InstanceIntent> {
    prop_oneof![3 => Just(InstanceIntent::Run), 1 => Just(InstanceIntent::Stop)]
}

pub fn traffic() -> impl Strategy<Value = Traffic> {
    prop_oneof![Just(Traffic::Candidate), Just(Traffic::Active), Just(Traffic::Draining), Just(Traffic::Out)]
}

pub fn state() -> impl Strategy<Value = InstanceState> {
    use InstanceState::*;
    prop_oneof![Just(Absent), Just(Transient), Just(Running), Just(Healthy), Just(Unhealthy), Just(Exited)]
}

fn preparation_state() -> impl Strategy<Value = PreparationState> {
    use PreparationState::*;
    prop_oneof![1 => Just(Absent), 1 => Just(Working), 3 => Just(Ready), 1 => Just(Failed)]
}

pub fn port() -> impl Strategy<Value = PortSpec> {
    prop_oneof![3 => Just(PortSpec::Injected), 1 => Just(PortSpec::Fixed { port: 3000 }), 1 => Just(PortSpec::None)]
}

/// What is wanted of an instance: its service, which of the two revisions, and its part.
type Wanted = Option<(u64, u64, InstanceIntent, Traffic)>;
/// What is seen of it: service, revision, state, stopping, crash-looping.
type Seen = Option<(u64, u64, InstanceState, bool, bool)>;

fn wanted() -> impl Strategy<Value = Wanted> {
    prop::option::weighted(0.7, (1..=SERVICES, 1..=2_u64, intent(), traffic()))
}

fn seen() -> impl Strategy<Value = Seen> {
    prop::option::weighted(
        0.7,
        (1..=SERVICES, 1..=2_u64, state(), prop::bool::weighted(0.2), prop::bool::weighted(0.1)),
    )
}

fn failure() -> impl Strategy<Value = Option<(u32, i64)>> {
    prop::option::weighted(0.25, (1..6_u32, -5_000..5_000_i64))
}

fn live() -> impl Strategy<Value = Option<bool>> {
    // Not ours to apply; live; outdated or missing.
    prop_oneof![1 => Just(None), 2 => Just(Some(true)), 2 => Just(Some(false))]
}

/// Whether a revision is in the document, how its preparation is, whether a failure is retryable,
/// and whether it backs off.
type Release = (bool, PreparationState, bool, Option<(u32, i64)>);

fn release() -> impl Strategy<Value = Release> {
    (prop::bool::weighted(0.9), preparation_state(), any::<bool>(), failure())
}

pub fn host_world() -> impl Strategy<Value = HostWorld> {
    let count = INSTANCES as usize;
    let instances = (
        prop::collection::vec(wanted(), count),
        prop::collection::vec(seen(), count),
        prop::collection::vec(any::<bool>(), count),
        prop::collection::vec(failure(), count),
    );
    let releases = prop::collection::vec(release(), 2 * SERVICES as usize);
    let ports = prop::collection::vec(port(), SERVICES as usize);
    let configs = [live(), live()];
    (instances, releases, ports, configs, failure()).prop_map(build)
}

type Instances = (Vec<Wanted>, Vec<Seen>, Vec<bool>, Vec<Option<(u32, i64)>>);

type Fails = Option<(u32, i64)>;
type Parts = (Instances, Vec<Release>, Vec<PortSpec>, [Option<bool>; 2], Fails);

fn build((instances, releases, ports, [routes, names], routes_fail): Parts) -> HostWorld {
    let (wanted, seen, routed, failing) = instances;
    let mut services: Vec<ServiceDesired> =
        (1..=SERVICES).map(|number| samples::service(number, &format!("service-{number}"))).collect();
    let mut world = HostWorld {
        desired: samples::desired(7, Vec::new()),
        instances: Vec::new(),
        preparations: Vec::new(),
        configs: Vec::new(),
        gateway_active: Vec::new(),
        failures: Vec::new(),
    };
    let fails = |subject: Subject, failure: &Option<(u32, i64)>| {
        let (attempts, later_ms) = (*failure)?;
        Some(Failure { subject, attempts, message: "no free port".into(), retry_at_ms: NOW_MS + later_ms })
    };
    for (index, (known, state, retryable, failure)) in releases.iter().enumerate() {
        let service = index as u64 / 2 + 1;
        let number = 10 * service + index as u64 % 2 + 1;
        if *known {
            let port = ports[service as usize - 1].clone();
            services[service as usize - 1].revisions.push(samples::revision(number, port));
        }
        let mut prepared = samples::prepared(service, number, *state);
        prepared.retryable = *retryable;
        world.preparations.push(prepared);
        world.failures.extend(fails(Subject::Preparation(id("rev", number)), failure));
    }
    for number in 1..=INSTANCES {
        let index = number as usize - 1;
        if let Some((service, revision, intent, traffic)) = wanted[index] {
            let wanted = samples::wanted(number, 10 * service + revision, intent, traffic);
            services[service as usize - 1].instances.push(wanted);
        }
        if let Some((service, revision, state, stopping, crash_looping)) = seen[index] {
            // Mostly what is wanted there.
            let (service, revision) = match wanted[index] {
                Some((service, wanted, ..)) => (service, if stopping { revision } else { wanted }),
                None => (service, revision),
            };
            let mut seen = samples::seen(number, service, 10 * service + revision, state);
            seen.stopping = stopping && !matches!(state, InstanceState::Absent | InstanceState::Exited);
            seen.crash_looping = crash_looping;
            world.instances.push(seen);
        }
        if routed[index] {
            world.gateway_active.push(id("ins", number));
        }
        world.failures.extend(fails(Subject::Instance(id("ins", number)), &failing[index]));
    }
    for (kind, live) in [(ConfigKind::Routes, routes), (ConfigKind::Dns, names)] {
        let live_digest = live.map(|live| if live { "new" } else { "old" }.to_owned());
        if let Some(live_digest) = live_digest {
            world.configs.push(ConfigView { kind, desired_digest: "new".into(), live_digest: Some(live_digest) });
        }
    }
    world.failures.extend(fails(Subject::Config(ConfigKind::Routes), &routes_fail));
    world.desired = samples::desired(7, services);
    world
}

/// The same world with everything that has no order in another one.
pub fn shuffled(world: HostWorld) -> impl Strategy<Value = (HostWorld, HostWorld)> {
    let stack = world.desired.stacks[0].clone();
    let services: Vec<_> =
        stack.services.iter().map(|service| Just(service.clone()).prop_flat_map(shuffled_service)).collect();
    (
        services.prop_shuffle(),
        Just(world.instances.clone()).prop_shuffle(),
        Just(world.preparations.clone()).prop_shuffle(),
        Just(world.configs.clone()).prop_shuffle(),
        Just(world.gateway_active.clone()).prop_shuffle(),
        Just(world.failures.clone()).prop_shuffle(),
    )
        .prop_map(move |(services, instances, preparations, configs, gateway_active, failures)| {
            let mut desired = world.desired.clone();
            desired.stacks[0].services = services;
            let other = HostWorld { desired, instances, preparations, configs, gateway_active, failures };
            (world.clone(), other)
        })
}

fn shuffled_service(service: ServiceDesired) -> impl Strategy<Value = ServiceDesired> {
    let parts = (Just(service.instances.clone()).prop_shuffle(), Just(service.revisions.clone()).prop_shuffle());
    parts.prop_map(move |(instances, revisions)| ServiceDesired { instances, revisions, ..service.clone() })
}
