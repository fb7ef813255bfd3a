use crate::support::*;
use api::gateway::{Listener, ListenerKind};
use client::gateway::GatewayError;
use gateway::Limits;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::net::TcpListener;

fn listen(config: Config, addresses: &[SocketAddr]) -> Config {
    config.with(|config| {
        let listener = |address: &SocketAddr| Listener { address: *address, kind: ListenerKind::PublicAndInternal };
        config.listeners = addresses.iter().map(listener).collect();
    })
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_its_owner_named_and_the_old_config_stays() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let (address, before) = (gateway.address().await, gateway.status().await);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = (taken.local_addr().unwrap(), taken);
    let free = free_address();
    let refused = listen(Config::new(), &[free, taken.0]);
    let error = gateway.client.put_config(&refused.0).await.unwrap_err();
    let expected = format!("cannot listen on {}: address in use by pid {} (", taken.0, std::process::id());
    assert!(matches!(&error, GatewayError::Refused { problem, .. } if problem.starts_with(&expected)), "{error}");
    assert_eq!(gateway.status().await.digest, before.digest);
    assert_eq!(get(address, "a", "/").await.text, "web");
    assert!(tokio::net::TcpStream::connect(free).await.is_err(), "a socket of the refused config stayed");
}

#[tokio::test]
async fn a_config_that_contradicts_itself_or_is_none_is_refused() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let twice = Config::simple(&backend).route(None, "/", true, 1);
    let error = gateway.client.put_config(&twice.0).await.unwrap_err().to_string();
    assert!(error.contains("the route */ is given to two services"), "{error}");
    let unknown = Config::simple(&backend).route(Some("b.example"), "/x", false, 9);
    let error = gateway.client.put_config(&unknown.0).await.unwrap_err().to_string();
    assert!(error.contains("the route b.example/x names service svc_"), "{error}");
    assert_eq!(get(gateway.address().await, "a", "/").await.text, "web");
}

#[tokio::test]
async fn the_status_tells_the_digest_of_exactly_what_was_given() {
    let backend = Backend::start("web").await;
    let config = Config::simple(&backend);
    let gateway = TestGateway::start(Config::new()).await;
    let digest = gateway.client.put_config(&config.0).await.unwrap();
    assert_eq!(digest, wire::digest_of(&config.0));
    let status = gateway.status().await;
    assert_eq!(status.digest, Some(digest));
    assert_eq!(status.active, [instance_id(1)]);
    assert_eq!(status.pid, Some(std::process::id()));
    assert!(status.running && status.problem.is_none());
}

#[tokio::test]
async fn the_gateway_comes_back_alone_with_its_last_config() {
    let backend = Backend::start("web").await;
    let address = free_address();
    let gateway = TestGateway::start(listen(Config::simple(&backend), &[address])).await;
    let digest = gateway.status().await.digest;
    let directory = gateway.directory.clone();
    gateway.finish().await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let gateway = TestGateway::run(directory, Limits::default(), false).await;
    assert_eq!(gateway.status().await.digest, digest);
    assert_eq!(get(address, "a", "/").await.text, "web");
}

#[tokio::test]
async fn a_port_taken_while_the_gateway_was_away_is_said_and_taken_back_when_it_is_free() {
    let backend = Backend::start("web").await;
    let (one, two) = (free_address(), free_address());
    let gateway = TestGateway::start(listen(Config::simple(&backend), &[one, two])).await;
    let directory = gateway.directory.clone();
    gateway.finish().await.unwrap();
    let thief = TcpListener::bind(one).await.unwrap();
    let gateway = TestGateway::run(directory, Limits::default(), false).await;
    let status = gateway.status().await;
    assert!(status.problem.unwrap().starts_with(&format!("cannot listen on {one}: address in use by pid")));
    assert_eq!(get(two, "a", "/").await.text, "web");
    drop(thief);
    eventually("the port is back", async || gateway.status().await.problem.is_none()).await;
    assert_eq!(get(one, "a", "/").await.text, "web");
}

#[tokio::test]
async fn a_torn_config_is_put_aside_and_the_gateway_waits_for_a_new_one() {
    let directory = std::sync::Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(directory.path().join("config.json"), "{\"liste").unwrap();
    let gateway = TestGateway::run(directory.clone(), Limits::default(), false).await;
    assert_eq!(gateway.status().await.digest, None);
    assert!(directory.path().join("config.json.unreadable").exists());
}

#[tokio::test]
async fn listeners_change_without_touching_those_that_stay() {
    let backend = Backend::start("web").await;
    let (one, two, three) = (free_address(), free_address(), free_address());
    let gateway = TestGateway::start(listen(Config::simple(&backend), &[one, two])).await;
    let mut stays = Http1::connect(one).await.unwrap();
    stays.get("a", "/").await.unwrap();
    gateway.put(listen(Config::simple(&backend), &[one, three])).await;
    assert_eq!(stays.get("a", "/").await.unwrap().text, "web");
    assert_eq!(get(three, "a", "/").await.text, "web");
    assert!(tokio::net::TcpStream::connect(two).await.is_err());
    // From loopback to every interface on one port: one of our own stands in the way.
    let everywhere = SocketAddr::from(([0, 0, 0, 0], one.port()));
    gateway.put(listen(Config::simple(&backend), &[everywhere])).await;
    assert_eq!(gateway.status().await.listening, [everywhere]);
    assert_eq!(get(one, "a", "/").await.text, "web");
    assert_eq!(stays.get("a", "/").await.unwrap().text, "web");
}

#[tokio::test]
async fn there_is_one_gateway_per_directory_and_its_sockets_are_private() {
    let gateway = TestGateway::start(Config::new()).await;
    let options = gateway::GatewayOptions { directory: gateway.directory.path().to_owned(), take_over: false };
    let error = gateway::run_until(options, Limits::default(), Default::default()).await.unwrap_err().to_string();
    let expected = format!("(pid {})", std::process::id());
    assert!(error.contains("a gateway already runs on") && error.contains(&expected), "{error}");
    for socket in ["control.sock", "handover.sock"] {
        let mode = std::fs::metadata(gateway.directory.path().join(socket)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{socket}");
    }
    assert!(gateway.status().await.running);
}

#[tokio::test]
async fn a_stop_finishes_what_is_open_and_takes_nothing_new() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let open = tokio::spawn(async move { get(address, "a", "/slow?ms=700").await.text });
    let mut idle = Http1::connect(address).await.unwrap();
    idle.get("a", "/").await.unwrap();
    eventually("it is open", async || gateway.open(1).await == Some(1)).await;
    gateway.client.stop().await.unwrap();
    eventually("nothing new is taken", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    assert_eq!(open.await.unwrap(), "web");
    eventually("the resting connection is closed", async || idle.is_closed()).await;
    let directory = gateway.directory.clone();
    gateway.finish().await.unwrap();
    assert!(!directory.path().join("control.sock").exists());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let backend = Backend::start("web").await;
    let limits = Limits { stop_time: Duration::from_millis(300), ..Limits::default() };
    let gateway = TestGateway::start_with(Config::simple(&backend), limits).await;
    let address = gateway.address().await;
    let open = tokio::spawn(async move {
        let mut connection = Http1::connect(address).await.unwrap();
        connection.get("a", "/slow?ms=60000").await.is_err()
    });
    eventually("it is open", async || gateway.open(1).await == Some(1)).await;
    gateway.finish().await.unwrap();
    assert!(open.await.unwrap());
}
