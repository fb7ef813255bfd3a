//! Requests through the gateway and through every other proxy that is there: on one core, with the load
//! and the origin on another.

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use crate::http::load::{LoadReport, LoadSpec, host, run_apart};
use crate::http::tls::Files;
use crate::peers::{Kind, Proxy, Wish};
use crate::process::OriginProcess;
use anyhow::Result;
use std::net::{Ipv4Addr, SocketAddr};

const THROUGHPUT_GOAL: &[(&str, f64)] = &[("nginx", 1.0), ("haproxy", 1.0), ("caddy", 2.0), ("traefik", 2.0)];
const P99_GOAL: &[(&str, f64)] = &[("nginx", 1.0)];

/// What visitors do in one figure.
#[derive(Debug, Clone, Copy)]
struct Shape {
    connections: usize,
    keep_alive: bool,
    bytes: usize,
    routes: usize,
    access_log: bool,
    tls: bool,
}

const USUAL: Shape = Shape { connections: 64, keep_alive: true, bytes: 1024, routes: 1, access_log: false, tls: false };

pub fn connections(context: &Context) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for connections in [1, 64, 512] {
        let what = format!("1 KB, {connections} kept connections");
        let shape = Shape { connections, ..USUAL };
        figures.extend(measure(context, "gateway-connections", &what, shape, Some(connections as u64))?);
    }
    Ok(figures)
}

/// The figure that a change of the gateway is judged by, in less than a minute.
pub fn usual(context: &Context) -> Result<Vec<Figure>> {
    measure(context, "gateway-usual", "1 KB, 64 kept connections, one route", USUAL, None)
}

pub fn new_connections(context: &Context) -> Result<Vec<Figure>> {
    let shape = Shape { keep_alive: false, ..USUAL };
    measure(context, "gateway-new", "1 KB, 64 visitors, a new connection each", shape, None)
}

pub fn large(context: &Context) -> Result<Vec<Figure>> {
    measure(context, "gateway-large", "1 MB, 64 kept connections", Shape { bytes: 1 << 20, ..USUAL }, None)
}

pub fn routes(context: &Context) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for routes in [1, 100, 10_000] {
        let what = format!("1 KB, 64 kept connections, {routes} routes");
        figures.extend(measure(context, "gateway-routes", &what, Shape { routes, ..USUAL }, Some(routes as u64))?);
    }
    Ok(figures)
}

/// TLS on kept connections, and a full handshake for each new one.
pub fn tls(context: &Context) -> Result<Vec<Figure>> {
    // Nobody speaks TLS where nobody stands between.
    let kinds: Vec<Kind> = context.tools.proxies().into_iter().filter(|kind| *kind != Kind::Direct).collect();
    let secure = Shape { tls: true, ..USUAL };
    let mut figures = Vec::new();
    for (what, shape) in [
        ("TLS, 1 KB, 64 kept connections", secure),
        ("TLS, 1 MB, 64 kept connections", Shape { bytes: 1 << 20, ..secure }),
        ("TLS, 1 KB, 64 visitors, a new connection each", Shape { keep_alive: false, ..secure }),
    ] {
        figures.extend(measure_kinds(context, "gateway-tls", what, shape, None, &kinds)?);
    }
    Ok(figures)
}

pub fn access_log(context: &Context) -> Result<Vec<Figure>> {
    let shape = Shape { access_log: true, ..USUAL };
    let kinds = [Kind::Direct, Kind::Mainstay, Kind::Nginx];
    let kinds: Vec<Kind> = context.tools.proxies().into_iter().filter(|kind| kinds.contains(kind)).collect();
    measure_kinds(context, "gateway-log", "1 KB, 64 kept connections, access log", shape, None, &kinds)
}

/// One request at a time through each, beside the same without anything between.
pub fn latency(context: &Context) -> Result<Vec<Figure>> {
    let row = "gateway-latency";
    let mut p50 = Figure::new(row, "added to one request at a time, p50", "µs", Better::Less).goal(60.0);
    let mut p99 = Figure::new(row, "added to one request at a time, p99", "µs", Better::Less).goal(200.0);
    let world = World::start(context, USUAL, &context.tools.proxies())?;
    let shape = Shape { connections: 1, ..USUAL };
    for _ in 0..context.runs() {
        let mut direct = LoadReport::default();
        for proxy in &world.proxies {
            let report = world.load(context, proxy, shape)?;
            note_failures(&mut p50, proxy.kind, &report);
            if proxy.kind == Kind::Direct {
                direct = report;
                continue;
            }
            p50.add(proxy.kind.name(), report.p50_micros - direct.p50_micros);
            p99.add(proxy.kind.name(), report.p99_micros - direct.p99_micros);
        }
    }
    Ok(vec![p50, p99])
}

fn measure(context: &Context, row: &str, what: &str, shape: Shape, size: Option<u64>) -> Result<Vec<Figure>> {
    measure_kinds(context, row, what, shape, size, &context.tools.proxies())
}

fn measure_kinds(
    context: &Context,
    row: &str,
    what: &str,
    shape: Shape,
    size: Option<u64>,
    kinds: &[Kind],
) -> Result<Vec<Figure>> {
    let figure = |name: &str, unit, better| Figure::new(row, format!("{name}, {what}"), unit, better);
    let mut rate = figure("requests per second", "1/s", Better::More).goal_of_peers(THROUGHPUT_GOAL);
    let mut p99 = figure("p99", "µs", Better::Less).goal_of_peers(P99_GOAL);
    let mut cost = figure("processor time per request", "µs", Better::Less);
    (rate.size, p99.size, cost.size) = (size, size, size);
    let world = World::start(context, shape, kinds)?;
    let mut busy = f64::INFINITY;
    for _ in 0..context.runs() {
        for proxy in &world.proxies {
            let before = proxy.cpu();
            let report = world.load(context, proxy, shape)?;
            let used = proxy.cpu().saturating_sub(before).as_secs_f64();
            let name = proxy.kind.name();
            rate.add(name, report.per_second());
            p99.add(name, report.p99_micros);
            note_failures(&mut rate, proxy.kind, &report);
            if proxy.kind != Kind::Direct && report.answered > 0 {
                // The warm-up is in the processor time and not in the count of answers.
                let whole = context.load_time() + context.warm_up();
                let answers = report.per_second() * whole.as_secs_f64();
                cost.add(name, used * 1e6 / answers);
            }
            if name == MAINSTAY {
                busy = busy.min(used / (context.load_time() + context.warm_up()).as_secs_f64());
            }
        }
    }
    if busy < 0.9 {
        rate.note(format!(
            "the gateway ran for {:.0} % of the time only: the load, or other work of the machine, is the limit",
            busy * 100.0
        ));
    }
    Ok(vec![rate, p99, cost])
}

fn note_failures(figure: &mut Figure, kind: Kind, report: &LoadReport) {
    if report.failed > 0 {
        let kinds: Vec<String> = report.failures.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        figure.note(format!("{}: {} requests failed: {}", kind.name(), report.failed, kinds.join(", ")));
    }
    if report.reconnected > 0 {
        figure.note(format!("{}: {} kept connections were closed by it", kind.name(), report.reconnected));
    }
}

/// Origin and proxies, all running, so that they can be measured in turns.
pub struct World {
    proxies: Vec<Proxy>,
    _origin: OriginProcess,
    _folder: tempfile::TempDir,
}

impl World {
    fn start(context: &Context, shape: Shape, kinds: &[Kind]) -> Result<Self> {
        let origin = OriginProcess::start(context.load_core)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, origin.port));
        let folder = tempfile::Builder::new().prefix("mainstay-bench-").tempdir()?;
        let names = || (0..shape.routes).map(host).collect();
        let tls = shape.tls.then(|| Files::make(folder.path(), names())).transpose()?;
        let proxies = kinds
            .iter()
            .map(|kind| {
                let Shape { routes, access_log, .. } = shape;
                Proxy::start_as(context, Wish { kind: *kind, origin: address, routes, access_log, tls: tls.clone() })
            })
            .collect::<Result<_>>()?;
        Ok(Self { proxies, _origin: origin, _folder: folder })
    }

    fn load(&self, context: &Context, proxy: &Proxy, shape: Shape) -> Result<LoadReport> {
        let spec = LoadSpec {
            address: proxy.address,
            connections: shape.connections,
            keep_alive: shape.keep_alive,
            tls: shape.tls,
            hosts: shape.routes,
            body_bytes: shape.bytes,
            warm_up: context.warm_up(),
            duration: context.load_time(),
        };
        run_apart(&spec, context.load_core)
    }
}
