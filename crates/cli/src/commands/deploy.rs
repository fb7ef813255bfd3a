//! `mainstay deploy`: make what is committed live, and wait until it is.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::plan_file::PlanFile;
use crate::plan_text;
use crate::progress::{self, WaitOptions};
use crate::project::{self, Project};
use crate::report;
use api::name::Name;
use api::plans::{DeployAnswer, DeployRequest};
use client::Client;
use std::path::PathBuf;

/// Deploy a project and wait until it runs
///
/// Deploys the last commit of the git repository around PATH (default: here), or of a git address
/// (`https://host/repository`, `…#branch`). Without a mainstay.toml the kind of project is worked out.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Folder with the project, or a git address
    #[arg(default_value = ".", value_name = "PATH", conflicts_with = "plan")]
    pub path: String,
    /// Apply exactly this plan, made with `mainstay plan --out FILE`; refused when it is stale
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Only this service; may be given several times
    #[arg(long = "service", value_name = "SERVICE")]
    pub services: Vec<Name>,
    /// Deploy services that did not change, too
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub wait: WaitOptions,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let (request, project) = match &options.plan {
        Some(file) => {
            let saved = PlanFile::read(file)?;
            let request = DeployRequest {
                plan: saved.request,
                fingerprint: Some(saved.plan.fingerprint),
                services: vec![],
                force: false,
            };
            (request, None)
        }
        None => {
            let project = project::load(&options.path, &client).await?;
            let plan = project.plan_request();
            (DeployRequest { plan, fingerprint: None, services: vec![], force: false }, Some(project))
        }
    };
    let request = DeployRequest { services: options.services, force: options.force, ..request };
    let answer = submit(context, &client, &request, project.as_ref()).await?;
    finish(context, &client, answer, &options.wait).await
}

/// Says what is about to happen and asks the control plane for it.
pub async fn submit(
    context: &Context,
    client: &Client,
    request: &DeployRequest,
    project: Option<&Project>,
) -> Result<DeployAnswer, Failure> {
    if let Some(project) = project {
        tell(context, project);
    }
    let answer = client.deploy(request).await.map_err(|error| match project {
        Some(project) => project.explain(error),
        None => error.into(),
    })?;
    let paint = context.printer.paint_err();
    context.printer.note(&format!("{} {}", paint.bold("stack"), plan_text::headline(&answer.plan, answer.version)));
    for service in answer.plan.services.iter() {
        for note in &service.notes {
            context.printer.note(&format!("  {}: {note}", service.service));
        }
    }
    Ok(answer)
}

/// What was detected, and what is not deployed.
pub fn tell(context: &Context, project: &Project) {
    if let Some(detection) = &project.detected {
        context.printer.note(&detection.what);
        for reason in &detection.reasons {
            context.printer.note(&format!("  - {reason}"));
        }
        context.printer.hint("There is no mainstay.toml; `mainstay init` writes this down so that you can change it.");
    }
    if let Some(source) = &project.source {
        let reference = source
            .reference
            .as_ref()
            .map(|r| r.as_commit().map_or_else(|| r.to_string(), |commit| commit.short().to_owned()));
        let folder = if source.directory.is_empty() { String::new() } else { format!(", folder {}", source.directory) };
        context.printer.note(&format!(
            "from {} at {}{folder}",
            source.git,
            reference.unwrap_or_else(|| "its default branch".into())
        ));
    }
    for warning in &project.warnings {
        context.printer.warning(warning);
    }
}

/// Waits for what was accepted, shows where it answers, and judges it.
async fn finish(context: &Context, client: &Client, answer: DeployAnswer, options: &WaitOptions) -> Outcome {
    let answer = progress::or_leave(wait(context, client, answer, options)).await?;
    if context.printer.json() {
        context.printer.data_json(&answer, true);
    } else {
        show(context, client, &answer).await?;
    }
    if options.no_wait { Ok(Exit::Ok) } else { report::judge(&answer.deployments) }
}

/// Waits, if that is wished, until every deployment has ended.
pub async fn wait(
    context: &Context,
    client: &Client,
    mut answer: DeployAnswer,
    options: &WaitOptions,
) -> Result<DeployAnswer, Failure> {
    if !options.no_wait && !answer.deployments.is_empty() {
        answer.deployments = progress::watch(context, client, answer.deployments, options.timeout).await?;
    }
    Ok(answer)
}

/// What came of it, and where it answers.
pub async fn show(context: &Context, client: &Client, answer: &DeployAnswer) -> Result<(), Failure> {
    let printer = &context.printer;
    let stack = client.stack(answer.stack_id.as_str()).await?;
    let urls = |id| stack.services.iter().find(|service| &service.id == id).map_or(&[][..], |service| &service.urls);
    if answer.deployments.is_empty() {
        printer.data(&format!("{} is up to date; there is nothing to deploy", answer.stack));
        for service in &stack.services {
            urls(&service.id).iter().for_each(|url| printer.data(&format!("  {}  {url}", service.name)));
        }
        printer.hint("Deploy it all the same with --force.");
    }
    for deployment in &answer.deployments {
        if deployment.stage.in_flight() {
            printer.data(&format!("{} of {} is accepted ({})", deployment.kind, deployment.service, deployment.id));
        } else if progress::succeeded(deployment) {
            printer.data(&report::sentence(deployment));
            urls(&deployment.service_id).iter().for_each(|url| printer.data(&format!("  {url}")));
        }
        if deployment.bake_until_ms.is_some() && deployment.previous_revision_id.is_some() {
            printer.hint(&format!(
                "  {} is watched for a while: if it breaks, it is rolled back by itself",
                deployment.service
            ));
        }
    }
    Ok(())
}
