//! `mainstay servers`: machines with an agent.

use crate::address::unknown_name;
use crate::answers::Removed;
use crate::commands::metrics::{Range, show_server};
use crate::commands::server_mesh;
use crate::context::Context;
use crate::disks;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, Text, Tone};
use crate::table::Column;
use crate::times::{ago, now_ms};
use crate::{question, words};
use api::desired::SecurityMode;
use api::gateway::DnsObserved;
use api::servers::{RecoveryAction, RecoveryState, ServerCondition, ServerRecovery, ServerView};
use api::words::count;
use client::Client;

const COLUMNS: [Column; 8] = [
    Column::new("server"),
    Column::new("condition"),
    Column::new("seen").goes(4),
    Column::new("instances").right().goes(6),
    Column::new("mesh").goes(5),
    Column::new("system").shortens().goes(1),
    Column::new("cpu × memory").right().goes(2),
    Column::new("agent").goes(3),
];

/// List machines, look at one, remove one
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List all (what is done without a word, too)
    List,
    /// What one machine is, can do and cannot do
    Show {
        #[arg(value_name = "SERVER")]
        machine: String,
    },
    /// What one machine used over time: CPU, memory, disk
    Metrics {
        #[arg(value_name = "SERVER")]
        machine: String,
        #[command(flatten)]
        range: Range,
    },
    /// Forget a machine; what runs on it is placed elsewhere
    Remove {
        #[arg(value_name = "SERVER")]
        machine: String,
        /// Also when it is online
        #[arg(long)]
        force: bool,
    },
    /// After a restore from a backup: let machines that are ahead become what the backup says
    ///
    /// Shows what would change on which machine, and asks. Until then nothing is stopped.
    AcceptRestore {
        #[arg(value_name = "SERVER", conflicts_with = "all")]
        machine: Option<String>,
        /// All machines that are ahead (what is done without a name, too)
        #[arg(long)]
        all: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    match options.action.unwrap_or(Action::List) {
        Action::List => {
            let servers = client.servers().await?;
            context.printer.either(&servers, |servers, printer| list(servers, printer));
            if !context.printer.json() {
                disks::warn_of_servers(&servers, &context.printer);
                disks::warn_of_control_plane(&client, &context.printer).await;
            }
        }
        Action::Show { machine } => {
            let server = find(&client, &machine).await?;
            context.printer.either(&server, show);
        }
        Action::Metrics { machine, range } => {
            let server = find(&client, &machine).await?;
            let metrics = client.server_metrics(server.id.as_str(), range.get).await?;
            context.printer.either(&metrics, |metrics, printer| show_server(server.name.as_str(), metrics, printer));
        }
        Action::AcceptRestore { machine, all: _, yes } => {
            return accept_restore(context, &client, machine.as_deref(), yes).await;
        }
        Action::Remove { machine, force } => {
            let server = find(&client, &machine).await?;
            if server.condition == ServerCondition::Online && !force {
                let failure =
                    Failure::general(format!("{} is online; removing it takes its services away from it", server.name));
                return Err(
                    failure.help(format!("stop its agent first, or: mainstay servers remove {} --force", server.name))
                );
            }
            client.server_remove(server.id.as_str()).await?;
            context.printer.either(&Removed { removed: server.id.to_string() }, |_, printer| {
                printer.data(&format!("removed {}", server.name))
            });
        }
    }
    Ok(Exit::Ok)
}

async fn find(client: &Client, text: &str) -> Result<ServerView, Failure> {
    let servers = client.servers().await?;
    let names: Vec<String> = servers.iter().map(|server| server.name.to_string()).collect();
    let found = servers.into_iter().find(|server| server.name.as_str() == text || server.id.as_str() == text);
    found.ok_or_else(|| unknown_name("server", text, &names))
}

async fn accept_restore(context: &Context, client: &Client, machine: Option<&str>, yes: bool) -> Outcome {
    let servers = match machine {
        Some(name) => vec![find(client, name).await?],
        None => client.servers().await?,
    };
    let ahead: Vec<(&ServerView, &ServerRecovery)> = servers.iter().filter_map(|s| Some((s, is_ahead(s)?))).collect();
    let printer = &context.printer;
    if ahead.is_empty() {
        printer.either(&Vec::<ServerView>::new(), |_, printer| {
            printer.data("No server is ahead of this control plane; there is nothing to accept.");
            let unheard = |s: &&ServerView| s.recovery.as_ref().is_some_and(|r| r.state == RecoveryState::Unheard);
            for server in servers.iter().filter(unheard) {
                printer.hint(&format!("{} has not reported since the restore; look again when it has", server.name));
            }
        });
        return Ok(Exit::Ok);
    }
    printer.note("This control plane was set back. These servers hold what it told them later, and go on with that.");
    printer.note("If you accept, they become what the control plane knows now:");
    for (server, recovery) in &ahead {
        printer.note("");
        for line in plan_lines(server, recovery) {
            printer.note(&line);
        }
    }
    printer.note("");
    if !yes {
        question::agreed(printer, "Accept this?", "what is shown above stops and replaces instances")?;
    }
    let mut accepted = Vec::new();
    for (server, recovery) in ahead {
        accepted.push(client.server_accept_restore(server.id.as_str(), recovery.held_generation).await?);
        printer.note(&format!("accepted for {}", server.name));
    }
    printer.either(&accepted, |accepted: &Vec<ServerView>, printer| {
        printer
            .data(&format!("{} accepted; what runs now goes on until what takes its place is healthy", accepted.len()));
        printer
            .hint("Watch it: mainstay servers, mainstay status. Then deploy again what was deployed after the backup.");
    });
    Ok(Exit::Ok)
}

fn is_ahead(server: &ServerView) -> Option<&ServerRecovery> {
    server.recovery.as_ref().filter(|recovery| recovery.state == RecoveryState::Ahead)
}

fn plan_lines(server: &ServerView, recovery: &ServerRecovery) -> Vec<String> {
    let (held, known) = (recovery.held_generation, recovery.generation);
    let mut lines = vec![format!("  {} (holds generation {held}, known here: {known})", server.name)];
    if !recovery.document_known {
        lines.push(
            "    it has not shown what it holds; whatever this control plane does not know on it will be stopped"
                .into(),
        );
        lines.push("    (look again in a moment, if it is online)".into());
    } else if recovery.changes.is_empty() {
        lines.push("    no service changes".into());
    }
    lines.extend(recovery.changes.iter().map(|change| {
        let (service, from, to) = (&change.service, change.from.as_deref(), change.to.as_deref());
        match change.action {
            RecoveryAction::Replace => {
                format!(
                    "    ~ {service}: {} is replaced by {}, without a gap",
                    from.unwrap_or("what runs"),
                    to.unwrap_or("what was restored")
                )
            }
            RecoveryAction::Stop => {
                format!("    - {service}: {} stops; the backup does not know that it runs", from.unwrap_or("it"))
            }
            RecoveryAction::Start => format!(
                "    + {service}: {} starts again; it was stopped or removed after the backup",
                to.unwrap_or("it")
            ),
        }
    }));
    lines
}

fn condition(server: &ServerView) -> Text {
    if let (Some(recovery), ServerCondition::Online) = (&server.recovery, server.condition) {
        return match recovery.state {
            RecoveryState::Ahead => Text("ahead of this control plane".into(), Tone::Bad),
            RecoveryState::Replacing => Text("online, becoming what was restored".into(), Tone::Busy),
            RecoveryState::Unheard => Text("online, not compared yet".into(), Tone::Warning),
        };
    }
    let wrong_clock = server.wrong_clock();
    match (server.condition, &wrong_clock) {
        (ServerCondition::Online, None) => Text("online".into(), Tone::Good),
        (ServerCondition::Online, Some(wrong)) => Text(format!("online, but {wrong}"), Tone::Warning),
        (ServerCondition::Offline, None) => Text("offline".into(), Tone::Bad),
        (ServerCondition::Offline, Some(wrong)) => Text(format!("offline: {wrong}"), Tone::Bad),
    }
}

fn list(servers: &[ServerView], printer: &Printer) {
    if servers.is_empty() {
        printer.data("No machine has joined yet.");
        printer.hint("Make a token for one: mainstay tokens create NAME");
        return;
    }
    let rows = servers.iter().map(|server| {
        let running = server.observed.as_ref().map_or(0, |observed| observed.instances.len());
        vec![
            server.name.as_str().into(),
            condition(server),
            server.last_seen_at_ms.map_or("never".to_owned(), |at| ago(at, now_ms())).into(),
            running.to_string().into(),
            server_mesh::address(server).into(),
            server.facts.operating_system.as_str().into(),
            format!("{} × {}", server.facts.cpu_count, words::size(server.facts.memory_bytes)).into(),
            server.agent_version.as_str().into(),
        ]
    });
    printer.table(&COLUMNS, rows);
    if servers.iter().any(|server| server.clock_difference_ms.is_some()) {
        printer.warning("requests of a server are refused while its clock and the control plane's differ by more than a minute; what runs on it goes on");
        printer.hint("Set the clock that is wrong, best by NTP (systemd-timesyncd, chrony): the server is back some seconds later.");
    }
    if servers.iter().any(|server| is_ahead(server).is_some()) {
        printer.warning("this control plane was set back, probably restored from a backup; servers that are ahead go on with what they have and get nothing new");
        printer.hint("See what would change, and agree: mainstay servers accept-restore");
    }
}

fn show(server: &ServerView, printer: &Printer) {
    let paint = printer.paint();
    let Text(word, tone) = condition(server);
    printer.data(&format!("{} {}", paint.bold(server.name.as_str()), paint.tone(tone, &word)));
    let facts = &server.facts;
    let mode = match server.security_mode {
        SecurityMode::Open => "open (the gateway is public)",
        SecurityMode::GatewayOnly => "gateway only",
        SecurityMode::Closed => "closed (the gateway listens on loopback)",
    };
    let rows = [
        ("system", format!("{}, {} on {}", facts.operating_system, facts.kernel, facts.architecture)),
        ("size", format!("{}, {}", count(facts.cpu_count, "core"), words::size(facts.memory_bytes))),
        ("security", mode.to_owned()),
        ("limits", format!("cgroups {}", facts.cgroups)),
        ("git", facts.git_version.clone().unwrap_or_else(|| "missing".into())),
        ("joined", ago(server.registered_at_ms, now_ms())),
    ];
    for (key, value) in rows {
        printer.data(&format!("  {key:<9} {value}"));
    }
    if let Some(observed) = &server.observed {
        let gateway = &observed.gateway;
        let listening: Vec<String> = gateway.listening.iter().map(ToString::to_string).collect();
        let words = match &gateway.problem {
            Some(problem) => problem.clone(),
            None if gateway.running => format!("listens on {}", listening.join(", ")),
            None => "does not run".into(),
        };
        printer.data(&format!("  {:<9} {words}", "gateway"));
        printer.data(&format!("  {:<9} {}", "names", names(&observed.dns)));
        server_mesh::show(server, &observed.mesh, printer);
        if let Some(refused) = &observed.agent.refused {
            printer.data(&format!("  {} {refused}", paint.red("refused:")));
        }
        for blocked in &observed.blocked {
            printer.data(&format!("  {} {}: {}", paint.yellow("held back:"), blocked.subject, blocked.reason));
        }
    }
    for limitation in &facts.limitations {
        printer.data(&format!("  {} {limitation}", paint.yellow("!")));
    }
}

/// How internal names resolve, or why they do not.
fn names(dns: &DnsObserved) -> &str {
    dns.problem.as_deref().or(dns.switched_off.as_deref()).unwrap_or(&dns.method)
}
