//! From a wish to the first answer of what was wished for, through the gateway: `mainstay up`, a deployment
//! without a build, a rollback.

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use crate::http::visitor::Visitor;
use crate::peers::free_address;
use crate::samples::Samples;
use crate::system::{LIMIT, Releases, System, commit_all};
use anyhow::{Context as _, Result};
use api::deployments::Deployment;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A build of the example with nothing prepared compiles and takes its time.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

/// The example of the readme: again as it was, and with one line changed.
pub fn up(context: &Context) -> Result<Vec<Figure>> {
    let begins = "from `mainstay up` to the first 200 of the example through the gateway";
    let mut warm = Figure::new("up", format!("{begins}, built before"), "ms", Better::Less).goal(2_000.0);
    let mut changed = Figure::new("up", format!("{begins}, one line changed: with its build"), "ms", Better::Less);
    let mut system = System::new(context)?;
    let example = system.folder().join("hello");
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello"), &example)?;
    let mut commit = commit_all(&example)?;
    once(&mut system, &example, &commit)?;
    for run in 0..context.runs() {
        warm.add(MAINSTAY, once(&mut system, &example, &commit)?);
        let source = example.join("src/main.rs");
        let text = std::fs::read_to_string(&source).context("read the example")?;
        std::fs::write(&source, format!("{text}// Run {run}.\n")).context("change the example")?;
        commit = commit_all(&example)?;
        changed.add(MAINSTAY, once(&mut system, &example, &commit)?);
    }
    changed.note("what the build takes is mostly cargo's and the compiler's".into());
    Ok(vec![warm, changed])
}

/// Starts it, asks until this commit answers (its page tells of it), and ends it.
fn once(system: &mut System, example: &Path, commit: &str) -> Result<f64> {
    let begun = Instant::now();
    system.start_up(Some(example))?;
    let took = Visitor::new(system.gateway).wait_for(commit, begun, BUILD_LIMIT)?;
    finish(system)?;
    Ok(took)
}

/// Lets `up` come to its end before it is stopped: until nothing is in flight.
fn finish(system: &mut System) -> Result<()> {
    let client = system.connect()?;
    system.until("the example runs", |system| {
        let services = system.wait(client.services())?;
        let settled = |service: &api::services::ServiceView| {
            service.deployment.as_ref().is_some_and(|deployment| !deployment.stage.in_flight())
        };
        Ok((!services.is_empty() && services.iter().all(settled)).then_some(()))
    })?;
    system.stop();
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry.with_context(|| format!("read {}", from.display()))?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            // What was built there by hand is not the example.
            if entry.file_name() != "target" {
                copy_folder(&source, &copy)?;
            }
        } else {
            std::fs::copy(&source, &copy).with_context(|| format!("copy {}", source.display()))?;
        }
    }
    Ok(())
}

/// Deployments of which nothing is built: another argument of the same command.
pub fn deploy(context: &Context) -> Result<Vec<Figure>> {
    let what = "API call to the first 200 of the new release through the gateway";
    let mut whole = Figure::new("deploy", format!("{what}, beside its bare start"), "ms", Better::Less);
    let mut added = Figure::new("deploy", format!("{what}, minus its bare start"), "ms", Better::Less).goal(100.0);
    let mut accepted = Figure::new("deploy", "of that, until the API has answered", "ms", Better::Less);
    let mut releases = Releases::begin(context, "")?;
    for _ in 0..context.runs() {
        let mut last = None;
        let [mut deploys, mut starts, mut answers] = <[Samples; 3]>::default();
        for _ in 0..per_run(context) {
            starts.push(bare_start(&releases)?);
            let (begun, deployment) = releases.deploy()?;
            answers.push(begun.elapsed().as_secs_f64() * 1000.0);
            let took = Visitor::new(releases.system.gateway).wait_for(&releases.release(), begun, LIMIT)?;
            deploys.push(took);
            last = Some(releases.system.wait_running(&releases.client, &deployment)?);
        }
        let (deploy, start) = (median(&deploys)?, median(&starts)?);
        whole.add(MAINSTAY, deploy);
        whole.add("bare start", start);
        added.add(MAINSTAY, deploy - start);
        accepted.add(MAINSTAY, median(&answers)?);
        last.iter().for_each(|deployment| whole.note(stages(deployment)));
    }
    Ok(vec![whole, accepted, added])
}

/// How long a deployment stayed in each stage that it did not pass through at once.
fn stages(deployment: &Deployment) -> String {
    let stayed = deployment.stages.windows(2).filter(|two| two[1].at_ms > two[0].at_ms);
    let words: Vec<String> = stayed.map(|two| format!("{} {} ms", two[0].stage, two[1].at_ms - two[0].at_ms)).collect();
    format!("one of them, after the API: {}", words.join(", "))
}

/// Back to the release before, whose process still runs.
pub fn rollback(context: &Context) -> Result<Vec<Figure>> {
    let what = "API call to the first 200 of the old warm release through the gateway";
    let mut took = Figure::new("rollback", what, "ms", Better::Less).goal(200.0);
    let mut releases = Releases::begin(context, "")?;
    // Every way back ends here.
    let old = releases.release();
    for _ in 0..context.runs() {
        let mut times = Samples::default();
        for _ in 0..per_run(context) {
            let (_, deployment) = releases.deploy()?;
            releases.system.wait_running(&releases.client, &deployment)?;
            let mut visitor = Visitor::new(releases.system.gateway);
            visitor.wait_for(&releases.release(), Instant::now(), LIMIT)?;
            let (begun, deployment) = releases.roll_back()?;
            times.push(visitor.wait_for(&old, begun, LIMIT)?);
            releases.system.wait_running(&releases.client, &deployment)?;
        }
        took.add(MAINSTAY, median(&times)?);
    }
    Ok(vec![took])
}

fn per_run(context: &Context) -> usize {
    if context.quick { 1 } else { 5 }
}

fn median(samples: &Samples) -> Result<f64> {
    samples.median().context("nothing was measured")
}

/// Milliseconds from the start of the same process, by the shell that Mainstay starts it by, to its first 200.
fn bare_start(releases: &Releases) -> Result<f64> {
    struct Ended(Child);
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let address = free_address()?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &releases.project.command("bare")]).env("PORT", address.port().to_string());
    let begun = Instant::now();
    let _child = Ended(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("start a service")?);
    Visitor::new(address).wait_for("bare", begun, LIMIT)
}
