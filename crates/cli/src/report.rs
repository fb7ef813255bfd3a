//! How deployments ended, in words: the common end of every command that starts one.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::{self, WaitOptions, stage_words, succeeded};
use crate::times::length;
use api::deployments::{Deployment, Stage};
use api::logs::plain_text;
use client::Client;

/// Lines of a log shown with a failure.
const TAIL_LINES: usize = 20;

/// Waits for one deployment and reports it: what `restart`, `stop`, `scale` and their like end with.
pub async fn finish_one(context: &Context, client: &Client, deployment: Deployment, wait: &WaitOptions) -> Outcome {
    if wait.no_wait {
        context.printer.either(&deployment, |deployment, printer| {
            printer.data(&format!("{} of {} accepted ({})", deployment.kind, deployment.service, deployment.id));
        });
        return Ok(Exit::Ok);
    }
    let ended = progress::or_leave(progress::watch(context, client, vec![deployment], wait.timeout)).await?;
    let Some(deployment) = ended.into_iter().next() else { return Ok(Exit::Ok) };
    context.printer.either(&deployment, |deployment, printer| {
        if succeeded(deployment) {
            printer.data(&sentence(deployment));
        }
    });
    judge(std::slice::from_ref(&deployment))
}

/// `web is running revision 3 (a1b2c3d4e5)`.
pub fn sentence(deployment: &Deployment) -> String {
    match deployment.stage {
        Stage::Running => {
            let copies =
                if deployment.replicas == 1 { String::new() } else { format!(" in {} instances", deployment.replicas) };
            format!(
                "{} is running revision {} ({}){copies}",
                deployment.service,
                deployment.revision_number,
                deployment.source_version.short()
            )
        }
        Stage::Stopped => format!("{} is stopped", deployment.service),
        stage => format!("{} is {}", deployment.service, stage_words(stage)),
    }
}

/// Ok when all went well; else the failure, with its evidence.
pub fn judge(deployments: &[Deployment]) -> Outcome {
    let bad: Vec<&Deployment> = deployments.iter().filter(|deployment| !succeeded(deployment)).collect();
    let Some(first) = bad.first() else { return Ok(Exit::Ok) };
    let mut failure = failure_of(first);
    for other in &bad[1..] {
        let also = failure_of(other);
        failure = failure.evidence([String::new(), also.message.clone()]).evidence(evidence(other));
    }
    Err(failure)
}

fn failure_of(deployment: &Deployment) -> Failure {
    let service = &deployment.service;
    let what = format!("the {} of {service}", deployment.kind);
    let took = deployment
        .ended_at_ms
        .map(|ended| format!(" after {}", length(ended - deployment.created_at_ms)))
        .unwrap_or_default();
    let serving = match &deployment.previous_revision_id {
        Some(_) => "what ran before keeps serving",
        None => "nothing was running before",
    };
    let stage =
        deployment.failure.as_ref().map(|failure| format!(" while {}", doing(failure.stage))).unwrap_or_default();
    let more = format!("all of its log: `mainstay logs {service} --deployment {}`", deployment.id);
    match deployment.stage {
        Stage::Failed => Failure::new(Exit::DeploymentFailed, format!("{what} failed{stage}{took}"))
            .evidence(evidence(deployment))
            .help(format!("mend it, commit and deploy again; {more}")),
        Stage::RolledBack => Failure::new(Exit::DeploymentFailed, format!("{what} was rolled back{took}"))
            .evidence(evidence(deployment))
            .help(format!("see what broke; {more}")),
        Stage::Cancelled => Failure::general(format!("{what} was cancelled{took}; {serving}")),
        Stage::Superseded => Failure::general(format!("{what} was superseded by a newer one"))
            .help(format!("look at it: mainstay status {service}")),
        other => Failure::general(format!("{what} ended as {}", stage_words(other)))
            .evidence(evidence(deployment))
            .help(more),
    }
}

fn doing(stage: Stage) -> &'static str {
    match stage {
        Stage::Pending => "waiting to begin",
        Stage::Building => "building",
        Stage::Pulling => "fetching",
        Stage::Starting => "starting",
        Stage::Healthy | Stage::DnsUpdating | Stage::RoutesUpdating => "switching traffic to it",
        Stage::StoppingOld => "stopping the old release",
        _ => "running",
    }
}

/// What went wrong, the last probe and the last lines of the log.
pub fn evidence(deployment: &Deployment) -> Vec<String> {
    let Some(failure) = &deployment.failure else { return vec![] };
    let mut lines = vec![plain_text(&failure.message)];
    // Often it is the reason, and was just said.
    if let Some(probe) = failure.last_probe.as_ref().filter(|probe| !failure.message.contains(&probe.message)) {
        lines.push(format!("last probe: {}", plain_text(&probe.message)));
    }
    let skipped = failure.log_tail.len().saturating_sub(TAIL_LINES);
    if !failure.log_tail.is_empty() {
        lines.push("last lines of its log:".to_owned());
        lines.extend(failure.log_tail.iter().skip(skipped).map(|line| format!("  | {}", plain_text(line))));
    }
    lines
}
