//! Planning when there is nothing to do, which is what nearly every look ends with: it must cost next to
//! nothing, and twice the services may cost twice as much and no more.

// The well-formed nouns of the tests of `plan`, which know how a document has to look.
#[path = "../../../plan/src/samples/nouns.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "written for tests; here only some of it is needed")]
mod nouns;

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use anyhow::{Context as _, Result};
use api::desired::{InstanceIntent, ServiceDesired, Traffic};
use api::name::Name;
use api::observed::InstanceState;
use api::plans::{DefaultSource, ServicePlanAction, StackSpec};
use api::services::{CommitSha, PortSpec, ServiceSpec, SourceVersion};
use plan::host::HostInput;
use plan::stack::{CurrentService, CurrentStack};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Number of services, and milliseconds that are to be enough.
const SIZES: [(u64, f64); 3] = [(100, 0.1), (1_000, 1.0), (10_000, 10.0)];
/// What one run takes altogether.
const RUN: Duration = Duration::from_millis(200);

const MANIFEST: &str = r#"
name = "shop"

[services.web]
build = "make release"
run = "exec ./serve --port $PORT"
route = "shop.example.com"
health = { http = "/healthy", interval = "5s" }
env = { DATABASE_URL = "postgres://shop@127.0.0.1/shop", MODE = "production", WORKERS = "4" }
rollout = { drain = "20s", warm = "10m" }
"#;

pub fn stack(context: &Context) -> Result<Vec<Figure>> {
    each_size(context, "plan-stack", "plan of a stack", |services| {
        let (current, next, versions) = unchanged_stack(services)?;
        let kept = plan::stack::diff(Some(&current), &next, &versions);
        let keeps = kept.services.iter().all(|service| service.action == ServicePlanAction::Keep);
        anyhow::ensure!(keeps && kept.services.len() as u64 == services, "the plan is not to keep everything");
        Ok(Box::new(move || drop(black_box(plan::stack::diff(Some(&current), black_box(&next), &versions)))))
    })
}

pub fn machine(context: &Context) -> Result<Vec<Figure>> {
    each_size(context, "plan-machine", "plan of a machine", |services| {
        let desired = nouns::desired(7, (1..=services).map(running_service).collect());
        let seen: Vec<_> =
            (1..=services).map(|number| nouns::seen(number, number, number, InstanceState::Healthy)).collect();
        let active: Vec<_> = seen.iter().map(|instance| instance.instance_id.clone()).collect();
        let plan = move || {
            plan::host::plan(HostInput {
                desired: Some(&desired),
                instances: &seen,
                preparations: &[],
                configs: &[],
                gateway_active: &active,
                failures: &[],
                now_ms: 1_000_000,
            })
        };
        anyhow::ensure!(plan().is_empty(), "there is something to do: {:?}", plan().changes.first());
        Ok(Box::new(move || drop(black_box(plan()))))
    })
}

/// Prepares the work for a number of services; the work itself is timed.
type Prepare = fn(u64) -> Result<Box<dyn Fn()>>;

fn each_size(context: &Context, row: &str, what: &str, prepare: Prepare) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut works = Vec::new();
    for (services, goal) in SIZES {
        let what = format!("{what}, {services} unchanged services");
        figures.push(Figure::new(row, what, "ms", Better::Less).goal(goal).size(services));
        works.push(prepare(services)?);
    }
    for _ in 0..context.runs() {
        for (figure, work) in figures.iter_mut().zip(&works) {
            work();
            let (begun, mut times) = (Instant::now(), 0u32);
            while times < 3 || begun.elapsed() < RUN {
                work();
                times += 1;
            }
            figure.add(MAINSTAY, begun.elapsed().as_secs_f64() * 1000.0 / f64::from(times));
        }
    }
    Ok(figures)
}

fn unchanged_stack(services: u64) -> Result<(CurrentStack, StackSpec, BTreeMap<Name, SourceVersion>)> {
    let spec = usual_service()?;
    let version = SourceVersion::from(commit()?);
    let mut next = StackSpec { name: "shop".parse().context("a name")?, project: None, services: BTreeMap::new() };
    let (mut current, mut versions) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..services {
        let name: Name = format!("web-{number}").parse().context("a name")?;
        let spec = ServiceSpec { name: name.clone(), ..spec.clone() };
        let deployed = CurrentService { spec: spec.clone(), source_version: version.clone(), replicas: 2 };
        current.insert(name.clone(), deployed);
        versions.insert(name.clone(), version.clone());
        next.services.insert(name, spec);
    }
    Ok((CurrentStack { stack_id: nouns::id("stk", 1), version: 1, services: current }, next, versions))
}

/// A service as a manifest says it, defaults filled in.
pub fn usual_service() -> Result<ServiceSpec> {
    let git = "https://example.com/shop.git".parse().context("an address")?;
    let source = DefaultSource { git, reference: None, directory: String::new() };
    let one = manifest::parse(MANIFEST, Some(&source)).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    one.services.into_values().next().context("the manifest has a service")
}

pub fn commit() -> Result<CommitSha> {
    "0".repeat(40).parse().context("a commit")
}

fn running_service(number: u64) -> ServiceDesired {
    ServiceDesired {
        revisions: vec![nouns::revision(number, PortSpec::Injected)],
        instances: vec![nouns::wanted(number, number, InstanceIntent::Run, Traffic::Active)],
        ..nouns::service(number, &format!("service-{number}"))
    }
}
