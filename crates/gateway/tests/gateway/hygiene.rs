use crate::support::*;
use gateway::Limits;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SHORT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn messages_that_can_be_read_in_two_ways_are_refused_and_never_reach_a_service() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    for (what, message) in [
        (
            "both lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "both, other order",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
        ("odd length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd"),
        ("not chunked last", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ("hidden chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("chunked in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("space before colon", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n\r\nabcd"),
        ("folded line", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("odd host", "GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n"),
        ("nul in header", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        ("bare carriage return", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
    ] {
        let smuggled = format!("{message}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = raw(address, smuggled.as_bytes(), SHORT).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{what}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer:?}");
    }
    assert_eq!(backend.count(), 0);
    for refused in
        ["CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"]
    {
        let answer = raw(address, refused.as_bytes(), SHORT).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer:?}");
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_pipelined_message_with_both_lengths_is_framed_by_its_chunks_and_is_the_last() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let messages = "GET /one HTTP/1.1\r\nHost: a\r\n\r\n\
                    POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(gateway.address().await, messages.as_bytes(), SHORT).await;
    assert!(backend.count() <= 2, "the smuggled request reached the service: {answer}");
    assert!(answer.matches("HTTP/1.1 ").count() <= 2, "{answer}");
}

#[tokio::test]
async fn headers_have_limits_in_size_and_number() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    let large = format!("X: {}\r\n", "a".repeat(100 * 1024));
    for headers in [many, large] {
        let answer = raw(address, format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes(), SHORT).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    }
    assert_eq!(backend.count(), 0);
}

/// How long a connection lives that sends `bytes` and then one byte every 50 ms.
async fn lives(address: std::net::SocketAddr, bytes: &[u8], drip: Option<u8>) -> Duration {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    stream.write_all(bytes).await.unwrap();
    let (mut read, mut write) = stream.split();
    let dripping = async {
        while let Some(byte) = drip {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let closed = async {
        let mut buffer = [0; 1024];
        while let Ok(1..) = read.read(&mut buffer).await {}
    };
    tokio::select! {
        () = dripping => {}
        () = closed => {}
        () = tokio::time::sleep(PATIENCE) => {}
    }
    begun.elapsed()
}

#[tokio::test]
async fn slow_headers_silence_and_resting_connections_are_cut_off() {
    let backend = Backend::start("web").await;
    let limits = Limits { header_time: Duration::from_millis(400), ..Limits::default() };
    let config = Config::simple(&backend).with(|config| config.idle_timeout_ms = 1500);
    let gateway = TestGateway::start_with(config, limits).await;
    let address = gateway.address().await;
    let silent = lives(address, b"", None).await;
    assert!(silent < Duration::from_millis(1200), "silence: {silent:?}");
    let half = lives(address, b"GE", None).await;
    assert!(half < Duration::from_millis(1500), "half a word: {half:?}");
    let slow = lives(address, b"GET / HTTP/1.1\r\nHost: a\r\nX: ", Some(b'x')).await;
    assert!(slow < Duration::from_millis(1500), "slow headers: {slow:?}");
    let resting = lives(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None).await;
    assert!(resting > Duration::from_millis(1300), "a resting connection lived only {resting:?}");
    assert!(resting < Duration::from_millis(4000), "a resting connection lived {resting:?}");
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off() {
    let backend = Backend::start("web").await;
    let limits = Limits { header_time: Duration::from_millis(400), ..Limits::default() };
    let config = Config::simple(&backend).with(|config| config.idle_timeout_ms = 500);
    let gateway = TestGateway::start_with(config, limits).await;
    let mut stream = TcpStream::connect(gateway.address().await).await.unwrap();
    stream.write_all(b"GET /big?bytes=100000000 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("it is open", async || gateway.open(1).await == Some(1)).await;
    eventually("it is closed", async || gateway.open(1).await.unwrap_or(0) == 0).await;
}
