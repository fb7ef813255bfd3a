//! `mainstay status`: the truth about what runs, at three distances: everything, a stack, a service.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{NONE, Printer, Text, Tone};
use crate::table::Column;
use crate::times::{ago, length, now_ms};
use crate::{address, disks, report, words};
use api::deployments::{Deployment, Stage};
use api::services::{InstanceView, ServiceView};
use api::stacks::StackView;
use client::Client;

const SERVICES: [Column; 6] = [
    Column::new("service"),
    Column::new("condition"),
    Column::new("revision").goes(2),
    Column::new("instances").right().goes(3),
    Column::new("changed").goes(1),
    // An address that is cut short leads nowhere.
    Column::new("address").goes(4),
];
const INSTANCES: [Column; 8] = [
    Column::new("instance"),
    Column::new("server"),
    Column::new("state"),
    Column::new("traffic").goes(4),
    Column::new("revision").right().goes(1),
    Column::new("port").right().goes(2),
    Column::new("restarts").right().goes(3),
    Column::new("last probe").shortens(),
];
const DEPLOYMENTS: [Column; 7] = [
    Column::new("deployment"),
    Column::new("kind").goes(4),
    Column::new("stage"),
    Column::new("revision").goes(3),
    Column::new("took").right().goes(2),
    Column::new("begun"),
    Column::new("by").shortens().goes(1),
];

/// Show what runs
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A stack, a service, or stack/service; everything without
    #[arg(value_name = "STACK[/SERVICE]")]
    pub what: Option<String>,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let Some(what) = options.what else {
        let stacks = client.stacks().await?;
        context.printer.either(&stacks, |stacks, printer| show_all(stacks, printer));
        if !context.printer.json() {
            // What was asked has been answered; a warning that cannot be had does not make it wrong.
            if let Ok(servers) = client.servers().await {
                disks::warn_of_servers(&servers, &context.printer);
            }
            disks::warn_of_control_plane(&client, &context.printer).await;
        }
        return Ok(Exit::Ok);
    };
    let stacks = client.stacks().await?;
    if let Some(stack) = stacks.iter().find(|stack| stack.name.as_str() == what || stack.id.as_str() == what) {
        context.printer.either(stack, show_stack);
        return Ok(Exit::Ok);
    }
    show_service(context, &client, &what).await?;
    Ok(Exit::Ok)
}

fn show_all(stacks: &[StackView], printer: &Printer) {
    if stacks.is_empty() {
        printer.data("Nothing is deployed yet.");
        printer.hint("Deploy a project from its git repository: mainstay deploy");
        return;
    }
    for (index, stack) in stacks.iter().enumerate() {
        if index > 0 {
            printer.data("");
        }
        show_stack(stack, printer);
    }
}

fn show_stack(stack: &StackView, printer: &Printer) {
    let paint = printer.paint();
    let (word, tone) = words::stack_condition(stack.condition);
    printer.data(&format!("{} {}, version {}", paint.bold(stack.name.as_str()), paint.tone(tone, word), stack.version));
    for problem in &stack.problems {
        printer.sentence(&format!("  {} {problem}", paint.tone(Tone::Warning, "!")), 4);
    }
    let rows = stack.services.iter().map(service_row);
    printer.table(&SERVICES, rows);
    for service in &stack.services {
        if let Some(waits) = service.deployment.as_ref().and_then(crate::progress::waits) {
            printer.data(&format!("  {} {waits}", service.name));
        }
    }
}

fn service_row(service: &ServiceView) -> Vec<Text> {
    let revision = service
        .current
        .as_ref()
        .map_or(NONE.to_owned(), |revision| format!("{} ({})", revision.number, revision.source_version.short()));
    let changed =
        service.deployment.as_ref().map_or(NONE.to_owned(), |deployment| ago(deployment.created_at_ms, now_ms()));
    let address = service.urls.first().cloned().unwrap_or_else(|| NONE.into());
    vec![
        service.name.as_str().into(),
        words::service_condition(service),
        revision.into(),
        words::replicas(service).into(),
        changed.into(),
        address.into(),
    ]
}

async fn show_service(context: &Context, client: &Client, what: &str) -> Result<(), Failure> {
    let service = address::service(client, what).await?;
    let (stack, id) = (service.stack_id.as_str(), service.id.as_str());
    let service = client.service(stack, id).await?;
    let deployments = client.deployments(stack, id, 8).await?;
    if context.printer.json() {
        context.printer.data_json(&service, true);
        return Ok(());
    }
    let printer = &context.printer;
    let paint = printer.paint();
    let Text(word, tone) = words::service_condition(&service);
    printer.data(&format!("{} {}", paint.bold(&address::full_name(&service)), paint.tone(tone, &word)));
    if let Some(current) = &service.current {
        printer.data(&format!(
            "  revision {} ({}) {}",
            current.number,
            current.source_version.short(),
            current.source_subject
        ));
    }
    for url in &service.urls {
        printer.data(&format!("  {url}"));
    }
    if !service.instances.is_empty() {
        printer.data("");
        let rows = service.instances.iter().map(instance_row);
        printer.table(&INSTANCES, rows);
    }
    if !deployments.is_empty() {
        printer.data("");
        printer.table(&DEPLOYMENTS, deployments.iter().map(deployment_row));
    }
    if let Some(waits) = service.deployment.as_ref().and_then(crate::progress::waits) {
        printer.data(&format!("\n  {waits}"));
    }
    if let Some(failed) = service.deployment.as_ref().filter(|d| matches!(d.stage, Stage::Failed | Stage::RolledBack)) {
        printer.data("");
        printer.data(&format!("The last {} did not work:", failed.kind));
        report::evidence(failed).iter().for_each(|line| printer.data(&format!("  {line}")));
    }
    Ok(())
}

fn instance_row(instance: &InstanceView) -> Vec<Text> {
    let observed = instance.observed.as_ref();
    let port = observed.and_then(|o| o.port).map_or(NONE.to_owned(), |port| port.to_string());
    let restarts = observed.map_or(NONE.to_owned(), |o| o.restarts.to_string());
    let probe = observed.and_then(|o| {
        let exit =
            o.last_exit.as_ref().filter(|_| o.last_probe.as_ref().is_none_or(|probe| !probe.ok)).map(|_| o.last_end());
        exit.or_else(|| o.last_probe.as_ref().map(|probe| probe.message.clone()))
    });
    vec![
        instance.id.short().into(),
        instance.server.as_str().into(),
        words::instance_state(instance),
        words::traffic(instance.traffic).into(),
        instance.revision_number.to_string().into(),
        port.into(),
        restarts.into(),
        api::logs::plain_text(&probe.unwrap_or_else(|| NONE.into())).into(),
    ]
}

fn deployment_row(deployment: &Deployment) -> Vec<Text> {
    let took = deployment.ended_at_ms.map_or(NONE.to_owned(), |ended| length(ended - deployment.created_at_ms));
    vec![
        deployment.id.short().into(),
        deployment.kind.as_str().into(),
        words::stage(deployment),
        format!("{} ({})", deployment.revision_number, deployment.source_version.short()).into(),
        took.into(),
        ago(deployment.created_at_ms, now_ms()).into(),
        deployment.cause.actor.label().into(),
    ]
}
