//! What the gateway adds to a request, measured on this machine.
//!
//! `cargo run --release -p gateway --example added_latency`
//!
//! One backend, one gateway and the clients share the process and the cores. Latency: one kept-alive
//! connection each way, in turns, so that noise meets both alike. Throughput: many connections.

use api::gateway::{GatewayConfig, GatewayRoute, GatewayService, Listener, ListenerKind, Upstream};
use client::gateway::GatewayClient;
use gateway::{GatewayOptions, Limits};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 20_000;
const CONNECTIONS: usize = 64;
const LOAD_TIME: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let backend = backend().await?;
    let directory = tempfile::tempdir()?;
    let stop = CancellationToken::new();
    let options = GatewayOptions { directory: directory.path().to_owned(), take_over: false };
    let gateway = tokio::spawn(gateway::run_until(options, Limits::default(), stop.clone()));
    let client = GatewayClient::new(directory.path());
    while client.status().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.put_config(&config(backend, directory.path().join("access.log").display().to_string())).await?;
    let proxied = client.status().await?.listening[0];

    let (mut direct_times, mut proxied_times) = (Vec::new(), Vec::new());
    let (mut direct, mut through) = (connect(backend).await?, connect(proxied).await?);
    for round in 0..ROUNDS {
        let (first, second) = (ask(&mut direct).await?, ask(&mut through).await?);
        if round >= ROUNDS / 10 {
            direct_times.push(first);
            proxied_times.push(second);
        }
    }
    direct_times.sort_unstable();
    proxied_times.sort_unstable();
    for (name, permille) in [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)] {
        let at = |times: &[Duration]| times[times.len() * permille / 1000].as_secs_f64() * 1e6;
        let (direct, proxied) = (at(&direct_times), at(&proxied_times));
        println!("{name:6} direct {direct:7.1} µs   gateway {proxied:7.1} µs   added {:7.1} µs", proxied - direct);
    }
    println!("{CONNECTIONS} connections: direct  {:8.0} requests/s", load(backend).await?);
    println!("{CONNECTIONS} connections: gateway {:8.0} requests/s", load(proxied).await?);
    stop.cancel();
    gateway.await??;
    Ok(())
}

fn config(backend: SocketAddr, access_log: String) -> GatewayConfig {
    let service_id = "svc_00000000000000000000000000000001".parse().expect("an id");
    let instance_id = "ins_00000000000000000000000000000001".parse().expect("an id");
    GatewayConfig {
        listeners: vec![Listener { address: SocketAddr::from(([127, 0, 0, 1], 0)), kind: ListenerKind::Public }],
        services: vec![GatewayService {
            service_id,
            name: "web".parse().expect("a name"),
            upstreams: vec![Upstream { instance_id, address: backend, draining: false }],
            unavailable_reason: String::new(),
        }],
        routes: vec![GatewayRoute {
            host: None,
            path: Default::default(),
            strip_prefix: false,
            https_only: false,
            service_id: "svc_00000000000000000000000000000001".parse().expect("an id"),
        }],
        response_timeout_ms: 60_000,
        connect_timeout_ms: 3_000,
        idle_timeout_ms: 75_000,
        access_log: Some(access_log),
        ..GatewayConfig::default()
    }
}

async fn backend() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let answer = |_: Request<Incoming>| async {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&[b'x'; 512]))))
            };
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(connection);
        }
    });
    Ok(address)
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    sender.ready().await?;
    let request = Request::builder()
        .uri("/some/path?query=1")
        .header("host", "web.example")
        .header("user-agent", "added-latency")
        .header("accept", "*/*")
        .body(Empty::new())?;
    let response = sender.send_request(request).await?;
    anyhow::ensure!(response.status() == 200, "{}", response.status());
    response.into_body().collect().await?;
    Ok(begun.elapsed())
}

async fn load(address: SocketAddr) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut sender = connect(address).await?;
            let mut count = 0u64;
            while begun.elapsed() < LOAD_TIME {
                ask(&mut sender).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(done) = clients.join_next().await {
        count += done??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}
