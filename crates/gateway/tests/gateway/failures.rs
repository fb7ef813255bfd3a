use crate::support::*;
use gateway::Limits;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A port on which nobody listens.
fn dead() -> SocketAddr {
    free_address()
}

/// A service that reads a request and then does what is asked.
async fn misbehaving(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(bytes).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn each_way_to_fail_has_a_page_that_names_the_service_and_the_reason_and_no_address() {
    let backend = Backend::start("ok").await;
    let config = Config::new()
        .service(1, "idle", &[])
        .service(2, "dead", &[(2, dead(), false)])
        .service(3, "slow", &[(3, backend.address, false)])
        .service(4, "odd", &[(4, misbehaving(b"SMTP ready\r\n").await, false)])
        .service(5, "gone", &[(5, misbehaving(b"").await, false)])
        .service(6, "leaving", &[(6, backend.address, true)])
        .with(|config| config.response_timeout_ms = 300);
    let gateway = TestGateway::start(config).await;
    let address = gateway.address().await;
    for (service, status, reason) in [
        ("idle", 503, "idle is starting."),
        ("dead", 502, "dead does not accept connections."),
        ("slow", 504, "slow did not answer within 300 ms."),
        ("odd", 502, "odd broke off the connection before it had answered."),
        ("gone", 502, "gone broke off the connection before it had answered."),
        ("leaving", 503, "leaving is starting."),
    ] {
        for (accept, kind) in
            [("text/html", "text/html"), ("application/json", "application/json"), ("*/*", "text/plain")]
        {
            let mut asked = request("GET", &format!("{service}.svc.internal"), "/slow?ms=3000", "");
            asked.headers_mut().insert("accept", accept.parse().unwrap());
            asked.headers_mut().insert("x-request-id", "find-me".parse().unwrap());
            let answer = exchange(address, asked).await;
            assert_eq!(answer.status, status, "{service}: {}", answer.text);
            assert!(answer.headers["content-type"].to_str().unwrap().starts_with(kind), "{answer:?}");
            assert!(answer.text.contains(reason) && answer.text.contains("find-me"), "{service}: {}", answer.text);
            assert!(!answer.text.contains("127.0.0.1"), "{}", answer.text);
        }
    }
    assert_eq!(get(address, "unknown.example", "/").await.status, 404);
}

#[tokio::test]
async fn a_dead_instance_costs_no_request_not_even_one_with_a_body() {
    let live = Backend::start("live").await;
    let config = Config::new()
        .service(1, "web", &[(1, dead(), false), (2, live.address, false), (3, dead(), false)])
        .route(None, "/", false, 1);
    let gateway = TestGateway::start(config).await;
    let address = gateway.address().await;
    for number in 0..40 {
        let (method, path) = if number % 2 == 0 { ("GET", "/") } else { ("POST", "/count") };
        let answer = exchange(address, request(method, "a", path, "hello")).await;
        assert_eq!(answer.status, 200, "{method} {number}: {}", answer.text);
    }
    assert_eq!(live.count(), 40);
}

#[tokio::test]
async fn a_connection_that_the_service_closed_meanwhile_costs_no_request() {
    // Answers once per connection and closes it without saying so, as a restarting service does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                let _ = stream.read(&mut [0; 4096]).await;
            });
        }
    });
    let config = Config::new().service(1, "web", &[(1, address, false)]).route(None, "/", false, 1);
    let gateway = TestGateway::start(config).await;
    let mut connection = Http1::connect(gateway.address().await).await.unwrap();
    for _ in 0..20 {
        let answer = connection.get("a", "/").await.unwrap();
        assert_eq!((answer.status, answer.text.as_str()), (200, "ok"));
    }
}

#[tokio::test]
async fn a_request_that_must_not_run_twice_does_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, mut count) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = seen.send(());
        }
    });
    let instances = [(1, address, false), (2, address, false)];
    let config = Config::new().service(1, "web", &instances).route(None, "/", false, 1);
    let gateway = TestGateway::start(config).await;
    let gateway_address = gateway.address().await;
    let answer = exchange(gateway_address, request("POST", "a", "/", "pay")).await;
    assert_eq!(answer.status, 502);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(std::iter::from_fn(|| count.try_recv().ok()).count(), 1);
    // A GET may, and does, once per instance.
    assert_eq!(get(gateway_address, "a", "/").await.status, 502);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(std::iter::from_fn(|| count.try_recv().ok()).count(), 2);
}

#[tokio::test]
async fn connections_to_a_service_are_kept_and_used_again() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let mut connection = Http1::connect(gateway.address().await).await.unwrap();
    for _ in 0..50 {
        connection.get("a", "/").await.unwrap();
    }
    assert_eq!(backend.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_slow_upload_is_not_the_services_fault_and_a_stalled_one_ends() {
    let backend = Backend::start("web").await;
    let config = Config::simple(&backend).with(|config| {
        config.response_timeout_ms = 200;
        config.idle_timeout_ms = 600;
    });
    let gateway = TestGateway::start(config).await;
    let address = gateway.address().await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('5'), "{answer}");
    let stalled = raw(address, b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nx", PATIENCE).await;
    assert!(stalled.starts_with("HTTP/1.1 408"), "{stalled}");
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_instance() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let mut connection = Http1::connect(gateway.address().await).await.unwrap();
    let request = tokio::spawn(async move { connection.get("a", "/slow?ms=60000").await.is_ok() });
    eventually("it is open", async || gateway.open(1).await == Some(1)).await;
    request.abort();
    eventually("it is closed", async || gateway.open(1).await.unwrap_or(0) == 0).await;
}

#[tokio::test]
async fn requests_spread_over_instances_by_how_busy_they_are() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let instances = [(1, one.address, false), (2, two.address, false)];
    let config = Config::new().service(1, "web", &instances).route(None, "/", false, 1);
    let gateway = TestGateway::start_with(config, Limits::default()).await;
    let address = gateway.address().await;
    let slow: Vec<_> = (0..10).map(|_| tokio::spawn(get_slow(address))).collect();
    for request in slow {
        request.await.unwrap();
    }
    assert_eq!((one.count(), two.count()), (5, 5));
}

async fn get_slow(address: SocketAddr) {
    assert_eq!(get(address, "a", "/slow?ms=500").await.status, 200);
}
