use crate::support::*;
use http_body_util::{BodyExt, StreamBody};
use hyper::Request;
use hyper::body::{Bytes, Frame};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BIG: u64 = 64 * 1024 * 1024;

#[tokio::test]
async fn events_arrive_when_they_are_sent() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let mut connection = Http1::connect(gateway.address().await).await.unwrap();
    let mut response = connection.send(request("GET", "a", "/events", "")).await.unwrap();
    let begun = Instant::now();
    let mut times = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        if frame.unwrap().is_data() {
            times.push(begun.elapsed());
        }
    }
    assert_eq!(times.len(), 5);
    assert!(times[0] < Duration::from_millis(150), "the first came late: {times:?}");
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] > Duration::from_millis(100), "events came together: {times:?}");
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn big_body() -> TestBody {
    let piece = Bytes::from(vec![7; 64 * 1024]);
    let pieces = futures_util::stream::unfold(0, move |sent| {
        let piece = piece.clone();
        async move { (sent < BIG).then(|| (Ok::<_, io::Error>(Frame::data(piece)), sent + 64 * 1024)) }
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_megabytes_pass_both_ways_at_once_in_bounded_memory() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let before = resident_bytes();
    for http2_client in [false, true] {
        let asked = Request::builder().method("POST").uri("http://a/echo").body(big_body()).unwrap();
        let mut response = if http2_client {
            http2(address).await.send_request(asked).await.unwrap()
        } else {
            let mut asked = asked;
            asked.headers_mut().insert("host", "a".parse().unwrap());
            Http1::connect(address).await.unwrap().send(asked).await.unwrap()
        };
        let (mut received, mut most) = (0, 0);
        while let Some(frame) = response.body_mut().frame().await {
            received += frame.unwrap().data_ref().map_or(0, Bytes::len) as u64;
            most = most.max(resident_bytes());
        }
        assert_eq!(received, BIG);
        // Other tests run in this process, too; holding the body would be 64 MB more.
        let grown = most.saturating_sub(before);
        assert!(grown < 32 * 1024 * 1024, "memory grew by {grown} bytes");
    }
}

/// Opens a tunnel and returns its raw ends.
async fn tunnel(address: std::net::SocketAddr, host: &str) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut asked = request("GET", host, "/socket", "");
    for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = Http1::connect(address).await.unwrap().send(asked).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert_eq!(response.headers()["sec-websocket-accept"], "x");
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

async fn echoes(tunnel: &mut TokioIo<hyper::upgrade::Upgraded>, words: &[u8]) {
    tunnel.write_all(words).await.unwrap();
    let mut back = vec![0; words.len()];
    tokio::time::timeout(PATIENCE, tunnel.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, words);
}

#[tokio::test]
async fn a_websocket_outlives_a_route_swap_and_counts_as_open_until_it_ends() {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let config = |instances: &[(u128, std::net::SocketAddr, bool)]| {
        Config::new().service(1, "web", instances).route(None, "/", false, 1)
    };
    let gateway = TestGateway::start(config(&[(1, old.address, false)])).await;
    let address = gateway.address().await;
    let mut socket = tunnel(address, "a").await;
    echoes(&mut socket, b"before").await;
    assert_eq!(gateway.open(1).await, Some(1));
    gateway.put(config(&[(1, old.address, true), (2, new.address, false)])).await;
    assert_eq!(get(address, "a", "/").await.text, "new");
    echoes(&mut socket, b"after").await;
    assert_eq!(gateway.status().await.active, [instance_id(2)]);
    assert_eq!(gateway.open(1).await, Some(1));
    // Gone from the config altogether, the open one is still told.
    gateway.put(config(&[(2, new.address, false)])).await;
    echoes(&mut socket, b"still").await;
    assert_eq!(gateway.open(1).await, Some(1));
    drop(socket);
    eventually("the tunnel is closed", async || gateway.open(1).await.unwrap_or(0) == 0).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let mut asked = request("GET", "a", "/plain", "");
    asked.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    asked.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let answer = exchange(gateway.address().await, asked).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "web"));
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on_only_when_the_service_takes_the_body() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let ask = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(ask("/count").as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    let length = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
    assert!(buffer[..length].starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&buffer[..length]));
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.contains("200 OK") && rest.ends_with('5'), "{rest}");
    // Refused before a byte of the body was sent.
    let refused = raw(address, ask("/refuse-upload").as_bytes(), PATIENCE).await;
    assert!(refused.starts_with("HTTP/1.1 413") && !refused.contains("100 Continue"), "{refused}");
}

#[tokio::test]
async fn chunked_bodies_reach_the_service_whole_also_with_get() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    for method in ["POST", "GET"] {
        let pieces = (0..3).map(|_| Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"1234"))));
        let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)));
        let asked = Request::builder()
            .method(method)
            .uri("/count")
            .header("host", "a")
            .header("transfer-encoding", "chunked")
            .body(body)
            .unwrap();
        assert_eq!(exchange(gateway.address().await, asked).await.text, "12", "{method}");
    }
}
