//! Small desired and observed states for the tests inside of this crate: everything of number `n` belongs
//! to service number `n`.

mod nouns;

use api::desired::*;
use api::observed::*;
use api::services::*;
pub use nouns::id;

pub fn desired(services: Vec<ServiceDesired>) -> DesiredState {
    nouns::desired(7, services)
}

/// Service number `n` is called `service-n` and has the revision of the same number.
pub fn service(number: u64, instances: Vec<InstanceDesired>) -> ServiceDesired {
    ServiceDesired {
        routes: vec![RouteSpec {
            host: None,
            path: format!("/{number}").parse().unwrap(),
            strip_prefix: false,
            tls: Default::default(),
        }],
        revisions: vec![nouns::revision(number, PortSpec::Injected)],
        instances,
        ..nouns::service(number, &format!("service-{number}"))
    }
}

pub use nouns::wanted as instance;

pub fn seen(number: u64, revision: u64, state: InstanceState) -> InstanceObserved {
    nouns::seen(number, revision, revision, state)
}

pub fn prepared(revision: u64, state: PreparationState) -> PreparationObserved {
    nouns::prepared(revision, revision, state)
}
