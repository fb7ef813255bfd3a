//! `mainstay servers`: machines with an agent.

use crate::address::unknown_name;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, Text, Tone};
use crate::times::{ago, now_ms};
use crate::words;
use api::desired::SecurityMode;
use api::servers::{ServerCondition, ServerView};
use client::Client;

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
    /// Forget a machine; what runs on it is placed elsewhere
    Remove {
        #[arg(value_name = "SERVER")]
        machine: String,
        /// Also when it is online
        #[arg(long)]
        force: bool,
    },
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    match options.action.unwrap_or(Action::List) {
        Action::List => {
            let servers = client.servers().await?;
            context.printer.either(&servers, |servers, printer| list(servers, printer));
        }
        Action::Show { machine } => {
            let server = find(&client, &machine).await?;
            context.printer.either(&server, show);
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
            context.printer.either(&serde_json::json!({ "removed": server.id }), |_, printer| {
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

fn condition(server: &ServerView) -> Text {
    match server.condition {
        ServerCondition::Online => Text("online".into(), Tone::Good),
        ServerCondition::Offline => Text("offline".into(), Tone::Bad),
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
            server.facts.operating_system.as_str().into(),
            format!("{} × {}", server.facts.cpu_count, words::size(server.facts.memory_bytes)).into(),
            server.agent_version.as_str().into(),
        ]
    });
    printer.table(&["server", "condition", "seen", "instances", "system", "cpu × memory", "agent"], rows);
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
        ("size", format!("{} cores, {}", facts.cpu_count, words::size(facts.memory_bytes))),
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
        printer.data(&format!("  {:<9} {}", "names", observed.dns.problem.as_deref().unwrap_or(&observed.dns.method)));
        for blocked in &observed.blocked {
            printer.data(&format!("  {} {}: {}", paint.yellow("held back:"), blocked.subject, blocked.reason));
        }
    }
    for limitation in &facts.limitations {
        printer.data(&format!("  {} {limitation}", paint.yellow("!")));
    }
}
