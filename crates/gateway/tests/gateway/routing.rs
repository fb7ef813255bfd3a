use crate::support::*;
use api::gateway::ListenerKind;
use std::collections::HashMap;

async fn seen(address: std::net::SocketAddr, request: hyper::Request<TestBody>) -> HashMap<String, String> {
    let answer = exchange(address, request).await;
    let lines: Vec<(String, String)> = serde_json::from_str(&answer.text).unwrap();
    lines.into_iter().collect()
}

#[tokio::test]
async fn requests_go_by_host_then_by_longest_path_and_a_stripped_prefix_is_left_out() {
    let (shop, api) = (Backend::start("shop").await, Backend::start("api").await);
    let config = Config::new()
        .service(1, "shop", &[(1, shop.address, false)])
        .service(2, "api", &[(2, api.address, false)])
        .route(Some("shop.example"), "/", false, 1)
        .route(Some("shop.example"), "/api", true, 2);
    let gateway = TestGateway::start(config).await;
    let address = gateway.address().await;
    assert_eq!(get(address, "shop.example", "/apix").await.text, "shop");
    assert_eq!(get(address, "SHOP.example:8080", "/api/x").await.text, "api");
    assert_eq!(get(address, "other.example", "/").await.status, 404);
    let headers = seen(address, request("GET", "shop.example", "/api/headers?q=1", "")).await;
    assert_eq!(headers[":path"], "/headers?q=1");
    assert_eq!(headers["x-forwarded-prefix"], "/api");
    assert_eq!(headers["host"], "shop.example");
}

#[tokio::test]
async fn a_service_learns_who_asked_and_hop_by_hop_headers_end_at_the_gateway() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let mut asked = request("GET", "a.example:81", "/headers", "");
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("connection", "x-private"),
        ("x-private", "1"),
        ("proxy-connection", "keep-alive"),
        ("x-request-id", "mine-1"),
    ] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    let headers = seen(address, asked).await;
    // The peer is on loopback, so it is believed and continued.
    assert_eq!(headers["x-forwarded-for"], "203.0.113.9, 127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-forwarded-host"], "a.example:81");
    assert_eq!(headers["x-forwarded-port"], address.port().to_string());
    assert_eq!(headers["forwarded"], "for=127.0.0.1;proto=http;host=\"a.example:81\"");
    assert_eq!(headers["x-request-id"], "mine-1");
    for gone in ["x-private", "proxy-connection", "connection"] {
        assert!(!headers.contains_key(gone), "{gone} was passed on: {headers:?}");
    }
    let answer = get(address, "a.example", "/hop").await;
    assert!(!answer.headers.contains_key("x-private") && !answer.headers.contains_key("keep-alive"));
    assert_eq!(answer.headers["x-request-id"].len(), 32);
}

#[tokio::test]
async fn a_peer_from_outside_is_not_believed_and_internal_names_do_not_exist_for_it() {
    let Some(outside) = outside_address() else { return };
    // A name that no random id in hexadecimal can hold.
    let (web, vault) = (Backend::start("web").await, Backend::start("vault").await);
    let config = Config::simple(&web)
        .service(2, "vault", &[(2, vault.address, false)])
        .with(|config| config.listeners[0].address = "0.0.0.0:0".parse().unwrap());
    let gateway = TestGateway::start(config).await;
    let port = gateway.address().await.port();
    let (inside, outside_address) = (([127, 0, 0, 1], port).into(), (outside, port).into());
    assert_eq!(get(inside, "vault.svc.internal", "/").await.text, "vault");
    let refused = get(outside_address, "vault.svc.internal", "/").await;
    assert_eq!(refused.status, 404);
    assert!(!refused.text.contains("vault"), "{}", refused.text);
    let mut asked = request("GET", "a.example", "/headers", "");
    for name in ["x-forwarded-for", "x_forwarded_for", "x-real-ip", "forwarded"] {
        asked.headers_mut().insert(name, "for=6.6.6.6".parse().unwrap());
    }
    let headers = seen(outside_address, asked).await;
    assert_eq!(headers["x-forwarded-for"], outside.to_string());
    assert_eq!(headers["x-real-ip"], outside.to_string());
    assert!(!headers.values().any(|value| value.contains("6.6.6.6")), "{headers:?}");
}

#[tokio::test]
async fn each_kind_of_listener_serves_what_it_is_for() {
    let (web, db) = (Backend::start("web").await, Backend::start("db").await);
    let config = |kind| {
        Config::simple(&web).service(2, "db", &[(2, db.address, false)]).with(|config| config.listeners[0].kind = kind)
    };
    let gateway = TestGateway::start(config(ListenerKind::Internal)).await;
    let address = gateway.address().await;
    assert_eq!(get(address, "db.svc.internal", "/").await.text, "db");
    assert_eq!(get(address, "a.example", "/").await.status, 404);
    let unknown = get(address, "nope.svc.internal", "/").await;
    assert!(unknown.text.contains("No service on this machine is called nope.svc.internal"), "{}", unknown.text);
    // The same socket, another kind.
    gateway.put(config(ListenerKind::Public)).await;
    assert_eq!(gateway.address().await, address);
    assert_eq!(get(address, "db.svc.internal", "/").await.status, 404);
    assert_eq!(get(address, "a.example", "/").await.text, "web");
    gateway.put(config(ListenerKind::Service { service_id: service_id(2) })).await;
    assert_eq!(get(address, "whatever", "/").await.text, "db");
}

#[tokio::test]
async fn http2_is_spoken_on_the_same_port_with_cookies_joined_and_trailers_passed_on() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let mut sender = http2(address).await;
    let ask = |path: &str| {
        hyper::Request::builder()
            .uri(format!("http://two.example{path}"))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .body(text(""))
            .unwrap()
    };
    let answer = whole(sender.send_request(ask("/headers")).await.unwrap()).await.unwrap();
    let headers: HashMap<String, String> =
        serde_json::from_str::<Vec<(String, String)>>(&answer.text).unwrap().into_iter().collect();
    assert_eq!(headers["host"], "two.example");
    assert_eq!(headers["cookie"], "a=1; b=2");
    let answer = whole(sender.send_request(ask("/trailers")).await.unwrap()).await.unwrap();
    assert_eq!(answer.text, "body");
    assert_eq!(answer.trailers.unwrap()["x-sum"], "42");
    // Many at once over one connection.
    let many = (0..50).map(|_| {
        let mut sender = sender.clone();
        async move { whole(sender.send_request(ask("/slow?ms=50")).await.unwrap()).await.unwrap().text }
    });
    let texts = futures_util::future::join_all(many).await;
    assert!(texts.iter().all(|text| text == "web"));
}

#[tokio::test]
async fn head_has_a_length_and_no_body_and_trailers_pass_in_http1_too() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let answer =
        raw(address, b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", std::time::Duration::from_secs(5))
            .await;
    assert!(answer.to_lowercase().contains("content-length: 3") && answer.ends_with("\r\n\r\n"), "{answer}");
    let mut asked = request("GET", "a", "/trailers", "");
    asked.headers_mut().insert("te", "trailers".parse().unwrap());
    assert_eq!(exchange(address, asked).await.trailers.unwrap()["x-sum"], "42");
}

#[tokio::test]
async fn the_access_log_and_the_counters_tell_what_happened_and_no_query() {
    let backend = Backend::start("web").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let config = Config::simple(&backend).with(|c| c.access_log = Some(path.display().to_string()));
    let gateway = TestGateway::start(config).await;
    let address = gateway.address().await;
    get(address, "a.example", "/x?token=secret").await;
    get(address, "a.example", "/fail").await;
    let mut log = String::new();
    eventually("two lines", async || {
        log = std::fs::read_to_string(&path).unwrap_or_default();
        log.lines().count() == 2
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&line["method"], &line["path"], &line["host"]), (&"GET".into(), &"/x".into(), &"a.example".into()));
    assert_eq!((&line["status"], &line["bytes"], &line["service"]), (&200.into(), &3.into(), &"web".into()));
    assert_eq!(line["instance"], instance_id(1).as_str());
    assert_eq!(line["peer"], "127.0.0.1");
    assert_eq!(line["protocol"], "HTTP/1.1");
    assert!(!log.contains("secret"));
    let traffic = &gateway.status().await.services[0];
    assert_eq!((traffic.requests, traffic.errors), (2, 1));
    assert!(traffic.latency_sum_micros > 0);
}

#[tokio::test]
async fn answers_are_counted_by_kind_by_time_and_by_size() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    for path in ["/", "/", "/refuse-upload", "/fail", "/slow?ms=40"] {
        get(address, "a.example", path).await;
    }
    let counted = async || gateway.status().await.services[0].clone();
    // The bytes of an answer are counted when it has ended, which is after the visitor has them all.
    let sent = ("web".len() * 4 + "too large".len()) as u64;
    eventually("all bytes of five answers", async || counted().await.sent_bytes == sent).await;
    let traffic = counted().await;
    assert_eq!((traffic.requests, traffic.client_errors, traffic.errors), (5, 1, 1));
    assert_eq!(traffic.latency.cells().map(|(_, count)| count).sum::<u64>(), 5);
    assert!(traffic.latency.quantile_ms(1.0).unwrap() >= 40.0, "{traffic:?}");
    assert!(traffic.latency.quantile_ms(0.01) < traffic.latency.quantile_ms(1.0), "{traffic:?}");
}
