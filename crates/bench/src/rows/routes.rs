//! A whole table of routes replaced while requests go on.

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use crate::http::load::{LoadReport, LoadSpec};
use crate::peers::{Kind, Proxy};
use crate::process::{Helper, OriginProcess};
use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const ROUTES: usize = 10_000;

pub fn swap(context: &Context) -> Result<Vec<Figure>> {
    let row = "gateway-swap";
    let what = format!("{ROUTES} routes replaced under load, until the answer that they are live");
    let mut took = Figure::new(row, what, "ms", Better::Less).goal(20.0).size(ROUTES as u64);
    let mut lost = Figure::new(row, "requests lost meanwhile", "", Better::Less).goal(0.0).size(ROUTES as u64);
    let mut p99 = Figure::new(row, "p99 of the requests meanwhile", "µs", Better::Less).size(ROUTES as u64);
    let origin = OriginProcess::start(context.load_core)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, origin.port));
    let mut proxy = Proxy::start(context, Kind::Mainstay, address, ROUTES)?;
    let mut answered = 0;
    for run in 0..context.runs() {
        let spec = LoadSpec {
            address: proxy.address,
            connections: 64,
            keep_alive: true,
            tls: false,
            hosts: ROUTES,
            body_bytes: 1024,
            warm_up: context.warm_up(),
            duration: context.load_time(),
        };
        let text = serde_json::to_string(&spec)?;
        let load = Helper::start(&["load", &context.load_core.to_string(), &text])?;
        std::thread::sleep(context.warm_up() * 2);
        // One route more or less each time: another table, in which every host of the load is.
        let config = proxy.config(address, ROUTES + 1 + run % 2);
        took.add(MAINSTAY, proxy.put_config(&config)?.as_secs_f64() * 1000.0);
        let report = load.output(spec.duration + Duration::from_secs(30))?;
        let report: LoadReport = serde_json::from_str(&report).context("read what the load found")?;
        lost.add(MAINSTAY, report.failed as f64);
        p99.add(MAINSTAY, report.p99_micros);
        answered += report.answered;
    }
    lost.note(format!("{answered} requests were answered in all runs"));
    Ok(vec![took, lost, p99])
}
