//! What Mainstay needs while nothing happens: an agent with fifty small services, and a control plane.
//!
//! Nothing happens to them, but the agent is not asleep: it asks each service for its health every five seconds,
//! looks whether a log grew, waits in a long-poll and reports. Services and gateway are processes of their own and
//! not counted; supervisors, of which each service has one, are told of beside.

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use crate::process::{cpu_of, family, proportional_bytes, resident_bytes};
use crate::system::{Project, STACK, System};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

const SERVICES: usize = 50;

pub fn agent(context: &Context) -> Result<Vec<Figure>> {
    let (row, of) = ("agent-idle", format!("of an idle agent with {SERVICES} services"));
    let mut memory = Figure::new(row, format!("memory {of}"), "MB", Better::Less).goal(15.0);
    let mut resident = Figure::new(row, format!("resident memory {of}"), "MB", Better::Less);
    let mut cpu = Figure::new(row, format!("processor time {of}"), "% of a core", Better::Less).goal(0.1);
    let mut supervisor = Figure::new(row, "memory of the supervisor of one service", "MB", Better::Less);
    let mut supervising =
        Figure::new(row, format!("processor time of {SERVICES} supervisors"), "% of a core", Better::Less);
    resident.note("with what it shares with the supervisors: the program".into());
    let (mut system, pids) = idle_system(context, SERVICES)?;
    let [_, agent] = pids;
    std::thread::sleep(settling(context));
    let window = Duration::from_secs(if context.quick { 5 } else { 60 });
    cpu.note(format!("over {} s", window.as_secs()));
    for _ in 0..context.runs() {
        let shims: Vec<u32> = family(agent).into_iter().filter(|pid| is_supervisor(*pid)).collect();
        ensure!(shims.len() == SERVICES, "{} supervisors instead of {SERVICES}", shims.len());
        let used = || -> Result<[Duration; 2]> {
            let of_shims = shims.iter().map(|pid| cpu_of(*pid)).sum::<Option<Duration>>();
            Ok([cpu_of(agent).context("the agent has ended")?, of_shims.context("a supervisor has ended")?])
        };
        let (begun, before) = (Instant::now(), used()?);
        std::thread::sleep(window);
        let (after, seconds) = (used()?, begun.elapsed().as_secs_f64());
        let percent = |part: usize| (after[part] - before[part]).as_secs_f64() * 100.0 / seconds;
        cpu.add(MAINSTAY, percent(0));
        supervising.add(MAINSTAY, percent(1));
        memory.add(MAINSTAY, megabytes(proportional_bytes(agent))?);
        resident.add(MAINSTAY, megabytes(resident_bytes(agent))?);
        let of_shims = shims.iter().map(|pid| proportional_bytes(*pid)).sum::<Option<u64>>();
        supervisor.add(MAINSTAY, megabytes(of_shims)? / SERVICES as f64);
    }
    system.stop();
    Ok(vec![memory, resident, cpu, supervisor, supervising])
}

pub fn control_plane(context: &Context) -> Result<Vec<Figure>> {
    let row = "control-plane-memory";
    let what = "of an idle control plane with one agent and one service";
    let mut memory = Figure::new(row, format!("memory {what}"), "MB", Better::Less).goal(30.0).size(1);
    let mut resident = Figure::new(row, format!("resident memory {what}"), "MB", Better::Less).size(1);
    memory.note("with 1,000 agents: `cargo xtask load`".into());
    for _ in 0..context.runs() {
        let (mut system, pids) = idle_system(context, 1)?;
        std::thread::sleep(settling(context));
        memory.add(MAINSTAY, megabytes(proportional_bytes(pids[0]))?);
        resident.add(MAINSTAY, megabytes(resident_bytes(pids[0]))?);
        system.stop();
    }
    Ok(vec![memory, resident])
}

/// Until what was needed for the deployment is over: also the look whether the new releases stay well.
fn settling(context: &Context) -> Duration {
    Duration::from_secs(if context.quick { 5 } else { 35 })
}

/// Control plane and agent, each a process of its own, with services that run; answers their pids.
fn idle_system(context: &Context, services: usize) -> Result<(System, [u32; 2])> {
    let (mut system, client, pids) = System::apart(context)?;
    let project = Project::create(&system)?;
    let services: Vec<String> = (0..services).map(|number| project.service(&format!("s{number}"), "v1")).collect();
    let request = project.request(format!("name = \"{STACK}\"\n\n{}", services.join("\n")));
    let answer = system.wait(client.deploy(&request))?;
    ensure!(answer.deployments.len() == services.len(), "not every service is deployed");
    for deployment in &answer.deployments {
        system.wait_running(&client, deployment)?;
    }
    Ok((system, pids))
}

fn is_supervisor(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"shim")
}

fn megabytes(bytes: Option<u64>) -> Result<f64> {
    Ok(bytes.context("a process has ended")? as f64 / 1e6)
}
