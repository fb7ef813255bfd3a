//! `mainstay top`: what machines and services use, as agents report it.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{self, NONE, Printer, Text, Tone};
use crate::system::Signals;
use crate::table::{self, Column};
use crate::times::{ago, now_ms};
use crate::usage::{InstanceUsage, Reports, ServerUsage, ServiceUsage, Usage};
use crate::{address, words};
use api::ids::ServiceId;
use api::observed::InstanceState;
use api::servers::{ServerCondition, ServerView};
use api::services::ServiceView;
use client::Client;
use std::time::{Duration, Instant};

/// How often the control plane is asked; agents report every ten seconds unless told otherwise.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const ONCE_INTERVAL: Duration = Duration::from_millis(500);
/// With --once, how long a second report of each machine is waited for.
const SECOND_REPORT_LIMIT: Duration = Duration::from_secs(30);

const SERVERS: [Column; 8] = [
    Column::new("server"),
    Column::new("reported").goes(1),
    Column::new("load").right(),
    Column::new("memory").right(),
    Column::new("disk free").right().goes(2),
    Column::new("instances").right().goes(3),
    Column::new("requests").right(),
    Column::new("errors").right(),
];
const SERVICES: [Column; 9] = [
    Column::new("service"),
    Column::new("server").goes(4),
    Column::new("state"),
    Column::new("cpu").right(),
    Column::new("memory").right(),
    Column::new("requests").right(),
    Column::new("errors").right(),
    Column::new("latency").right().goes(3),
    Column::new("restarts").right().goes(2),
];

/// Show what servers and services use: CPU, memory, requests, errors
///
/// Lives on a terminal until Ctrl-C. CPU is per core (two busy cores are 200 %); requests and errors are counted by
/// gateways, per service and second. Rates need two reports of a server; what is not known is –. With --json, one line
/// per new report.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only this service, stack/service, or stack; may be given several times
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Show it once and end; waits for a second report of each server, at most half a minute
    #[arg(long)]
    pub once: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let mut looker = Looker { client, names: options.services, reports: Reports::default() };
    if options.once || (!context.printer.json() && !context.printer.to_terminal()) {
        let usage = once(context, &mut looker).await?;
        context.printer.either(&usage, |usage, printer| {
            let lines = lines(usage, printer, printer::terminal_width());
            printer.data(&lines.join("\n"));
        });
        return Ok(Exit::Ok);
    }
    if context.printer.json() {
        loop {
            let (usage, news) = looker.look().await?;
            if news {
                context.printer.data_json(&usage, false);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    live(context, &mut looker).await
}

struct Looker {
    client: Client,
    names: Vec<String>,
    reports: Reports,
}

impl Looker {
    /// What is used now, and whether any of it is new.
    async fn look(&mut self) -> Result<(Usage, bool), Failure> {
        let (servers, services) = self.ask().await?;
        let news = self.reports.take(&servers);
        Ok((self.reports.usage(&servers, &services, now_ms()), news))
    }

    async fn ask(&self) -> Result<(Vec<ServerView>, Vec<ServiceView>), Failure> {
        let (servers, services) = tokio::try_join!(self.client.servers(), self.client.services())?;
        if self.names.is_empty() {
            return Ok((servers, services));
        }
        let mut wanted: Vec<ServiceId> = Vec::new();
        for name in &self.names {
            wanted.extend(address::services(&services, name)?.into_iter().map(|service| service.id.clone()));
        }
        let services = services.into_iter().filter(|service| wanted.contains(&service.id)).collect();
        Ok((servers, services))
    }
}

async fn once(context: &Context, looker: &mut Looker) -> Result<Usage, Failure> {
    let bar = crate::progress::spinner(&context.printer);
    bar.set_message("waiting for a second report of each server");
    let deadline = Instant::now() + SECOND_REPORT_LIMIT;
    loop {
        let (servers, services) = looker.ask().await?;
        looker.reports.take(&servers);
        if looker.reports.complete(&servers) || Instant::now() >= deadline {
            bar.finish_and_clear();
            return Ok(looker.reports.usage(&servers, &services, now_ms()));
        }
        tokio::time::sleep(ONCE_INTERVAL).await;
    }
}

/// Draws on a screen of its own until Ctrl-C; what was on the terminal before is there again afterwards.
async fn live(context: &Context, looker: &mut Looker) -> Outcome {
    // What is asked first may fail: that belongs on the ordinary screen.
    let mut usage = looker.look().await?.0;
    let mut trouble = None;
    // Listened for before the screen is taken: whoever ends this at any moment gets the old one back.
    let mut signals = Signals::new()?;
    let _screen = Screen::enter(&context.printer);
    loop {
        draw(&usage, trouble.as_deref(), &context.printer);
        // Nothing is lost if the pause ends early.
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            _ = signals.next() => return Ok(Exit::Ok),
        }
        tokio::select! {
            looked = looker.look() => match looked {
                Ok((looked, _)) => (usage, trouble) = (looked, None),
                // It may be restarted: what was seen last stays, and says how old it is.
                Err(failure) if failure.exit == Exit::Unreachable => {
                    usage.at_ms = now_ms();
                    trouble = Some(failure.message);
                }
                Err(failure) => return Err(failure),
            },
            _ = signals.next() => return Ok(Exit::Ok),
        }
    }
}

struct Screen<'a>(&'a Printer);

impl<'a> Screen<'a> {
    fn enter(printer: &'a Printer) -> Self {
        printer.control("\x1b[?1049h\x1b[?25l");
        Self(printer)
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.0.control("\x1b[?25h\x1b[?1049l");
    }
}

fn draw(usage: &Usage, trouble: Option<&str>, printer: &Printer) {
    let (width, height) = printer::terminal_size();
    let mut lines = lines(usage, printer, Some(width));
    lines.push(String::new());
    if let Some(trouble) = trouble {
        lines.push(printer.paint().yellow(&table::shortened(trouble, width)));
    }
    lines.push(printer.paint().dim("Ctrl-C ends this."));
    if lines.len() > height {
        let more = lines.len() + 1 - height;
        lines.truncate(height - 1);
        lines.push(
            printer.paint().dim(&format!("… {} more; name services to see less", api::words::count(more, "line"))),
        );
    }
    printer.control(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")));
}

fn lines(usage: &Usage, printer: &Printer, width: Option<usize>) -> Vec<String> {
    let paint = printer.paint();
    let servers: Vec<Vec<Text>> = usage.servers.iter().map(|server| server_row(server, usage.at_ms)).collect();
    let mut lines = table::lay(&SERVERS, &servers, width, paint).lines;
    let services: Vec<Vec<Text>> = usage.services.iter().flat_map(service_rows).collect();
    if !services.is_empty() {
        lines.push(String::new());
        lines.extend(table::lay(&SERVICES, &services, width, paint).lines);
    }
    lines
}

fn server_row(server: &ServerUsage, now_ms: i64) -> Vec<Text> {
    let reported = server.observed_at_ms.map_or("never".to_owned(), |at| ago(at, now_ms));
    let tone = if server.condition == ServerCondition::Online { Tone::Plain } else { Tone::Bad };
    let load = server.load_1m.zip(server.cpu_count).map(|(load, cores)| format!("{load:.2} of {cores}"));
    let of = |part: Option<u64>, whole: Option<u64>| {
        part.zip(whole).map(|(part, whole)| format!("{} of {}", words::size(part), words::size(whole)))
    };
    vec![
        Text(server.server.clone(), tone),
        Text(reported, tone),
        figure(load),
        figure(of(server.memory_used_bytes, server.memory_total_bytes)),
        figure(of(server.disk_available_bytes, server.disk_total_bytes)),
        figure(server.instances.map(|count| count.to_string())),
        figure(server.requests_per_second.map(rate)),
        errors(server.errors_per_second),
    ]
}

/// The service, and its instances below it.
fn service_rows(service: &ServiceUsage) -> Vec<Vec<Text>> {
    let healthy = service.instances.iter().filter(|instance| instance.state == Some(InstanceState::Healthy)).count();
    let head = vec![
        service.service.as_str().into(),
        "".into(),
        format!("{healthy}/{} healthy", service.instances.len()).into(),
        figure(service.cpu_percent.map(percent)),
        figure(service.memory_bytes.map(words::size)),
        figure(service.requests_per_second.map(rate)),
        errors(service.errors_per_second),
        figure(service.latency_ms.map(|ms| format!("{ms:.1} ms"))),
        "".into(),
    ];
    std::iter::once(head).chain(service.instances.iter().map(instance_row)).collect()
}

fn instance_row(instance: &InstanceUsage) -> Vec<Text> {
    let open = instance.open_requests.map(|open| format!("{open} open"));
    vec![
        format!("  {}", instance.instance_id.short()).into(),
        instance.server.as_str().into(),
        figure(instance.state.map(|state| state.as_str().to_owned())),
        figure(instance.cpu_percent.map(percent)),
        figure(instance.memory_bytes.map(words::size)),
        figure(open),
        // Gateways count errors per service.
        figure(None),
        figure(None),
        figure(instance.restarts.map(|restarts| restarts.to_string())),
    ]
}

fn figure(text: Option<String>) -> Text {
    text.map_or_else(|| Text(NONE.into(), Tone::Faint), |text| Text(text, Tone::Plain))
}

fn errors(per_second: Option<f64>) -> Text {
    let tone = if per_second.is_some_and(|errors| errors > 0.0) { Tone::Bad } else { Tone::Plain };
    Text(figure(per_second.map(rate)).0, if per_second.is_none() { Tone::Faint } else { tone })
}

fn rate(per_second: f64) -> String {
    if per_second >= 100.0 { format!("{per_second:.0}/s") } else { format!("{per_second:.1}/s") }
}

fn percent(of_a_core: f64) -> String {
    format!("{of_a_core:.0} %")
}
