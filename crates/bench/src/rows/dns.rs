//! Internal names: the responder of the gateway beside dnsmasq, each alone on one core, with the same
//! names.

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use crate::http::load::LoadReport;
use crate::names::{QuestionSpec, label};
use crate::peers::{Kind, Proxy, free_address};
use crate::process::{OriginProcess, Running, output_of_self};
use anyhow::{Context as _, Result};
use api::gateway::{DnsResponder, InternalName};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const NAMES: usize = 10_000;
const OPEN: usize = 64;
const DNSMASQ: &str = "dnsmasq";
const START_LIMIT: Duration = Duration::from_secs(20);

pub fn answers(context: &Context) -> Result<Vec<Figure>> {
    let what = |name: &str| format!("{name}, {NAMES} names, {OPEN} questions open");
    let mut rate = Figure::new("dns", what("answers per second"), "1/s", Better::More).goal_of_peers(&[(DNSMASQ, 1.5)]);
    let mut p99 = Figure::new("dns", what("p99"), "µs", Better::Less).goal_of_peers(&[(DNSMASQ, 1.0)]);
    let mut cost = Figure::new("dns", what("processor time per answer"), "µs", Better::Less);
    let origin = OriginProcess::start(context.load_core)?;
    let (gateway, address) = gateway(context, &origin)?;
    let mut servers = vec![(MAINSTAY, address)];
    let folder = tempfile::Builder::new().prefix("mainstay-bench-").tempdir().context("make a folder")?;
    let dnsmasq = dnsmasq(context, folder.path())?;
    servers.extend(dnsmasq.as_ref().map(|(_, address)| (DNSMASQ, *address)));
    for _ in 0..context.runs() {
        for (name, address) in &servers {
            let cpu = || match &dnsmasq {
                Some((running, _)) if *name == DNSMASQ => running.cpu(),
                _ => gateway.cpu(),
            };
            let before = cpu();
            let report = ask(context, *address)?;
            let used = cpu().saturating_sub(before).as_secs_f64();
            let whole = (context.load_time() + context.warm_up()).as_secs_f64();
            rate.add(name, report.per_second());
            p99.add(name, report.p99_micros);
            cost.add(name, used * 1e6 / (report.per_second() * whole));
            if report.failed > 0 {
                rate.note(format!("{name}: {} questions failed: {:?}", report.failed, report.failures));
            }
        }
    }
    Ok(vec![rate, p99, cost])
}

fn ask(context: &Context, address: SocketAddr) -> Result<LoadReport> {
    let (warm_up, duration) = (context.warm_up(), context.load_time());
    let spec = QuestionSpec { address, open: OPEN, names: NAMES, warm_up, duration };
    let words = ["questions", &context.load_core.to_string(), &serde_json::to_string(&spec)?];
    let text = output_of_self(&words, warm_up + duration)?;
    serde_json::from_str(&text).with_context(|| format!("the questions said: {text}"))
}

/// The gateway with a name for each number, as an agent gives it.
fn gateway(context: &Context, origin: &OriginProcess) -> Result<(Proxy, SocketAddr)> {
    let origin = SocketAddr::from((Ipv4Addr::LOCALHOST, origin.port));
    let mut proxy = Proxy::start(context, Kind::Mainstay, origin, 1)?;
    let address = free_address()?;
    let mut config = proxy.config(origin, 1);
    let service_id = config.services.first().context("there is a service")?.service_id.clone();
    for number in 0..NAMES {
        let name = label(number).parse().context("a name")?;
        config.internal.push(InternalName { name, service_id: service_id.clone() });
    }
    let (domain, answer) = ("svc.internal".to_owned(), Ipv4Addr::LOCALHOST);
    config.dns =
        Some(DnsResponder { address, domain, answer, ttl_seconds: 5, forward_to: Vec::new(), only_from: None });
    proxy.put_config(&config)?;
    Ok((proxy, address))
}

/// `None` when it is not installed.
fn dnsmasq(context: &Context, folder: &std::path::Path) -> Result<Option<(Running, SocketAddr)>> {
    let Some(program) = context.tools.path(DNSMASQ) else { return Ok(None) };
    let lines: Vec<String> = (0..NAMES).map(|number| format!("127.0.0.1 {}.svc.internal\n", label(number))).collect();
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, lines.concat()).context("write the names")?;
    let address = free_address()?;
    let (port, hosts) = (format!("--port={}", address.port()), format!("--addn-hosts={}", hosts.display()));
    let arguments = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--no-poll",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--local-ttl=5",
        "--cache-size=10000",
        "--user=root",
        "--pid-file=",
        &port,
        &hosts,
    ];
    let mut running = Running::start(DNSMASQ, context.subject_core, program, &arguments, folder)?;
    let begun = Instant::now();
    // It reads all names before it answers.
    while ask_once(context, address)?.answered == 0 {
        running.check(folder)?;
        anyhow::ensure!(begun.elapsed() < START_LIMIT, "dnsmasq does not answer");
    }
    Ok(Some((running, address)))
}

fn ask_once(context: &Context, address: SocketAddr) -> Result<LoadReport> {
    let (warm_up, duration) = (Duration::ZERO, Duration::from_millis(100));
    let spec = QuestionSpec { address, open: 1, names: NAMES, warm_up, duration };
    let words = ["questions", &context.load_core.to_string(), &serde_json::to_string(&spec)?];
    serde_json::from_str(&output_of_self(&words, duration)?).context("read what the questions found")
}
