//! A control plane under load: many simulated machines against the real `mainstay server`.
//!
//! The machines exist only on the wire, but there they are real: each joins with a token of its own,
//! signs every request, waits in a long-poll, verifies each document with the pinned key, and reports
//! at the pace of a real agent what it would look like if it had done as told. So every deployment runs
//! through the whole rollout, and nothing in the control plane knows the difference.
//!
//! While they work, a share of the services is changed every second through the API. What is measured:
//! how long from the API's answer to the moment the new document is in the machine's hands, how long a
//! report takes, every answer that was not as it should be, and memory, processor time and database of
//! the control plane, once a second.
//!
//! Deliberately absent: machines on other hosts and the network between. This finds what the control
//! plane can do on the machine it runs on, which it shares here with all of its load.

mod agent;
mod measure;

pub use measure::{FleetReport, Sample, Times};

use crate::{Machine, Repository, eventually};
use agent::Agent;
use anyhow::{Context, Result, ensure};
use api::deployments::Stage;
use api::plans::{DefaultSource, DeployRequest, PlanRequest};
use api::secret::Secret;
use api::services::EnvPatch;
use api::tokens::{TokenPurpose, TokenRequest};
use client::Client;
use measure::Measure;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Services of one stack; a manifest may name 200.
const SERVICES_PER_STACK: usize = 100;
/// Machines that join at the same time.
const JOINING_AT_ONCE: usize = 16;
/// How long the last deployments may take once no more are made.
const SETTLING: Duration = Duration::from_secs(180);

#[derive(Debug, Clone)]
pub struct FleetOptions {
    pub agents: usize,
    /// How long services are changed.
    pub duration: Duration,
    /// Of the services, in percent, each second; at least one service.
    pub changes_percent: f64,
    /// `postgres://…`; `None`: the SQLite file of the data directory.
    pub database: Option<String>,
    /// Says what is going on, for a run that takes minutes.
    pub talkative: bool,
}

/// Starts a control plane in `machine`, lets the fleet join, changes services, and measures.
pub async fn run(machine: &Machine, options: &FleetOptions) -> Result<FleetReport> {
    let say = |text: String| {
        if options.talkative {
            println!("{text}");
        }
    };
    raise_file_limit();
    let listen = format!("127.0.0.1:{}", machine.control_port);
    let mut arguments = vec!["server", "--listen", &listen, "--allow-local-sources"];
    if let Some(url) = &options.database {
        arguments.extend(["--database", url]);
    }
    let server = machine.start("server.log", &arguments);
    let client = connect(machine).await?;
    let measure = Arc::new(Measure::default());

    let begun = Instant::now();
    let agents = join(&client, machine, options.agents, &measure).await?;
    say(format!("{} machines joined in {:.1} s", agents.len(), begun.elapsed().as_secs_f64()));

    let begun = Instant::now();
    let services = deploy(&client, machine, options.agents).await?;
    let unfinished = settle(&client, options.agents).await?;
    ensure!(unfinished.is_empty(), "before any change, deployments did not end well: {unfinished:?}");
    say(format!("{} services run after {:.1} s", services.len(), begun.elapsed().as_secs_f64()));

    let watching = measure::watch(server.pid(), machine.data().join("server"), measure.clone(), options.talkative);
    measure.begin();
    let begun = Instant::now();
    change(&client, &services, options, &measure).await;
    let changed_for = begun.elapsed();
    measure.end();
    say(format!("no more changes after {:.0} s; waiting until every deployment has ended", changed_for.as_secs_f64()));
    let unfinished = settle(&client, options.agents).await?;
    watching.abort();
    for agent in agents {
        agent.stop();
    }
    Ok(measure.report(options.agents, changed_for, unfinished))
}

/// Two connections for each machine, on each side.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without the right to it, the limit stays and the run says what failed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

async fn connect(machine: &Machine) -> Result<Client> {
    let token = machine.data().join("server/cli-token");
    let token = eventually("the control plane writes its token", Duration::from_secs(60), || async {
        std::fs::read_to_string(&token).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    let client = Client::new(&machine.control_url(), Some(Secret::new(token.trim())))?;
    eventually("the control plane answers", Duration::from_secs(60), || async { client.healthy().await.ok() }).await;
    Ok(client)
}

async fn join(client: &Client, machine: &Machine, count: usize, measure: &Arc<Measure>) -> Result<Vec<Agent>> {
    let client = Arc::new(client.clone());
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(count * 2).build()?;
    let mut joining = JoinSet::new();
    let mut agents = Vec::with_capacity(count);
    for number in 0..count {
        if joining.len() == JOINING_AT_ONCE {
            agents.push(joined(&mut joining).await?);
        }
        let (client, http, base, measure) = (client.clone(), http.clone(), machine.control_url(), measure.clone());
        joining.spawn(async move {
            let purpose = TokenPurpose::Join { project: None, stack: None };
            let request = TokenRequest { name: format!("machine {number}"), purpose, lifetime_ms: None };
            let token = client.token_create(&request).await?.token;
            Agent::join(http, base, &token, &format!("load-{number}"), measure).await
        });
    }
    while !joining.is_empty() {
        agents.push(joined(&mut joining).await?);
    }
    Ok(agents)
}

async fn joined(joining: &mut JoinSet<Result<Agent>>) -> Result<Agent> {
    joining.join_next().await.context("nobody is joining")??
}

/// One service for each machine, in as few stacks as may be. Answers stack and name of each.
async fn deploy(client: &Client, machine: &Machine, count: usize) -> Result<Vec<(String, String)>> {
    let repository: Repository = machine.repository("load")?;
    repository.write("README", "nothing is built here\n")?;
    repository.commit("first")?;
    let git = format!("file://{}", repository.path.display()).parse().context("an address of a repository")?;
    let source = DefaultSource { git, reference: None, directory: String::new() };
    let numbers: Vec<usize> = (0..count).collect();
    let mut services = Vec::new();
    for (number, chunk) in numbers.chunks(SERVICES_PER_STACK).enumerate() {
        let stack = format!("load-{number}");
        let mut manifest = format!("name = \"{stack}\"\n");
        for service in chunk {
            // Short, so that a deployment comes to its end while services are being changed.
            manifest.push_str(&format!(
                "\n[services.s{service}]\nrun = \"exec serve\"\nroute = \"s{service}.load.test\"\n\
                 rollout = {{ bake = \"3s\", warm = \"5s\" }}\n"
            ));
            services.push((stack.clone(), format!("s{service}")));
        }
        let plan = PlanRequest { manifest, manifest_path: None, default_source: Some(source.clone()) };
        client.deploy(&DeployRequest { plan, fingerprint: None, services: vec![], force: false }).await?;
    }
    Ok(services)
}

/// Waits until no deployment is in flight; answers those that did not end well.
async fn settle(client: &Client, count: usize) -> Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        let services = client.services().await?;
        ensure!(services.len() == count, "{} services instead of {count}", services.len());
        let newest = |stage: fn(Stage) -> bool| {
            let of = |s: &api::services::ServiceView| s.deployment.as_ref().is_none_or(|d| stage(d.stage));
            services.iter().filter(|s| of(s)).map(describe).collect::<Vec<String>>()
        };
        let flying = newest(Stage::in_flight);
        let bad = newest(|stage| !stage.in_flight() && stage != Stage::Running);
        if flying.is_empty() || begun.elapsed() > SETTLING {
            return Ok(flying.into_iter().chain(bad).collect());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn describe(service: &api::services::ServiceView) -> String {
    match &service.deployment {
        None => format!("{} was never deployed", service.name),
        Some(deployment) => {
            let why = deployment.failure.as_ref().map(|failure| format!(": {}", failure.message));
            format!("{} is {}{}", service.name, deployment.stage, why.unwrap_or_default())
        }
    }
}

/// Changes a variable of some services each second, evenly over the second, in turn.
async fn change(client: &Client, services: &[(String, String)], options: &FleetOptions, measure: &Arc<Measure>) {
    let per_second = (services.len() as f64 * options.changes_percent / 100.0).max(1.0);
    let mut due = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let begun = Instant::now();
    let mut changing = JoinSet::new();
    let mut order: Vec<usize> = (0..services.len()).collect();
    fastrand::shuffle(&mut order);
    for number in 0usize.. {
        due.tick().await;
        if begun.elapsed() >= options.duration {
            break;
        }
        let (stack, service) = services[order[number % order.len()]].clone();
        let (client, measure) = (client.clone(), measure.clone());
        changing.spawn(async move {
            let variables = BTreeMap::from([("LOAD".to_owned(), Some(Secret::new(number.to_string())))]);
            let asked = Instant::now();
            match client.env_patch(&stack, &service, &EnvPatch { variables, deploy: true }).await {
                Ok(Some(deployment)) => measure.deployment_created(&deployment, asked),
                Ok(None) => measure.error("a change", "no deployment was begun".into()),
                Err(error) => measure.error("a change", error.to_string()),
            }
        });
        while changing.try_join_next().is_some() {}
    }
    while changing.join_next().await.is_some() {}
}
