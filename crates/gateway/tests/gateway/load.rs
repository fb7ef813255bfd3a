//! Under load nothing may be lost: neither by a new config nor by a new process.

use crate::support::*;
use gateway::Limits;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Clients that ask without pause until told to stop; all that goes wrong is written down.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut set = JoinSet::new();
        for number in 0..clients {
            set.spawn(client(address, number, stop.clone(), answered.clone()));
        }
        Self { stop, answered, clients: set }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// What went wrong.
    async fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await.concat()
    }
}

/// A client as they are: keeps its connection, opens another when it is told that it is closed.
async fn client(address: SocketAddr, number: usize, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut connection: Option<Http1> = None;
    while !stop.load(Ordering::SeqCst) {
        let mut open = match connection.take().filter(|open| !open.is_closed()) {
            Some(open) => open,
            None => match Http1::connect(address).await {
                Ok(open) => open,
                Err(error) => {
                    wrong.push(format!("connect: {error}"));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            },
        };
        let post = number.is_multiple_of(3);
        let asked = if post { request("POST", "a", "/count", "12345") } else { request("GET", "a", "/slow?ms=2", "") };
        let answer = match open.send(asked).await {
            Ok(response) => whole(response).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer.status == 200 => {
                answered.fetch_add(1, Ordering::SeqCst);
                let closing = answer.headers.get("connection").is_some_and(|value| value == "close");
                connection = (!closing).then_some(open);
            }
            Ok(answer) => wrong.push(format!("{} {}", answer.status, answer.text)),
            Err(error) => wrong.push(format!("request: {error:?}")),
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_configs_and_instances_under_load_loses_nothing() {
    let backends = [Backend::start("one").await, Backend::start("two").await, Backend::start("three").await];
    let config = |active: usize| {
        let draining = (active + 2) % 3;
        let instances = [(active, false), (draining, true)]
            .map(|(index, draining)| (index as u128 + 1, backends[index].address, draining));
        Config::new().service(1, "web", &instances).route(None, "/", false, 1)
    };
    let gateway = TestGateway::start(config(0)).await;
    let load = Load::start(gateway.address().await, 12);
    for round in 0..60 {
        gateway.put(config(round % 3)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        // What is told is what is so: the draining one empties and stays empty.
        if round % 10 == 9 {
            let left = ((round % 3) + 2) % 3;
            eventually("it is drained", async || gateway.open(left as u128 + 1).await == Some(0)).await;
            let before = backends[left].count();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(backends[left].count(), before, "a drained instance got a request");
        }
    }
    assert!(load.answered() > 200, "only {} answers", load.answered());
    assert_eq!(load.finish().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_gateway_takes_over_under_load_and_loses_nothing() {
    let backend = Backend::start("web").await;
    let limits = Limits { handover_idle_time: Duration::from_millis(800), ..Limits::default() };
    let mut gateway = TestGateway::start_with(Config::simple(&backend), limits.clone()).await;
    let address = gateway.address().await;
    let digest = gateway.status().await.digest;
    let load = Load::start(address, 12);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut newer = TestGateway::run(gateway.directory.clone(), limits.clone(), true).await;
        // The old one ends by itself once its connections have gone over.
        tokio::time::timeout(PATIENCE, &mut gateway.task).await.expect("the old gateway ends").unwrap().unwrap();
        eventually("the new one answers", async || newer.client.status().await.is_ok()).await;
        assert_eq!(newer.status().await.digest, digest);
        assert_eq!(newer.address().await, address);
        std::mem::swap(&mut gateway, &mut newer);
    }
    assert!(load.answered() > 200, "only {} answers", load.answered());
    assert_eq!(load.finish().await, Vec::<String>::new());
    gateway.put(Config::simple(&backend).service(2, "more", &[])).await;
}

#[tokio::test]
async fn a_hand_over_that_breaks_off_leaves_the_old_gateway_as_it_was() {
    use std::io::Read;
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let path = gateway.directory.path().join("handover.sock");
    let read = tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.read(&mut [0; 64]).unwrap()
    });
    assert!(read.await.unwrap() > 0);
    eventually("configs are taken again", async || {
        gateway.client.put_config(&Config::simple(&backend).0).await.is_ok()
    })
    .await;
    assert_eq!(get(gateway.address().await, "a", "/").await.text, "web");
}

#[tokio::test]
async fn a_request_that_is_open_during_a_hand_over_is_answered_by_the_old_gateway() {
    let backend = Backend::start("web").await;
    let mut old = TestGateway::start(Config::simple(&backend)).await;
    let address = old.address().await;
    let open = tokio::spawn(async move { get(address, "a", "/slow?ms=1000").await.text });
    eventually("it is open", async || old.open(1).await == Some(1)).await;
    let new = TestGateway::run(old.directory.clone(), Limits::default(), true).await;
    eventually("the new one serves", async || new.client.status().await.is_ok_and(|status| status.open.is_empty()))
        .await;
    assert_eq!(get(address, "a", "/").await.text, "web");
    assert_eq!(open.await.unwrap(), "web");
    tokio::time::timeout(PATIENCE, &mut old.task).await.unwrap().unwrap().unwrap();
}

/// A resting connection may bring one more request at any moment. Closed at the hand-over, it would lose
/// those that are on their way just then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_brings_its_next_request_to_the_old_gateway_whenever_that_is_and_then_ends() {
    const CONNECTIONS: usize = 400;
    let backend = Backend::start("web").await;
    // Nobody's pause is taken for the end of a connection, however loaded the machine is.
    let limits = Limits { handover_idle_time: PATIENCE, ..Limits::default() };
    let mut old = TestGateway::start_with(Config::simple(&backend), limits.clone()).await;
    let address = old.address().await;
    for _ in 0..3 {
        let mut clients = JoinSet::new();
        let (rest, told) = (Arc::new(tokio::sync::Barrier::new(CONNECTIONS + 1)), Arc::<AtomicBool>::default());
        for number in 0..CONNECTIONS {
            let (rest, told) = (rest.clone(), told.clone());
            clients.spawn(async move {
                let mut connection = Http1::connect(address).await.unwrap();
                connection.get("a", "/").await.unwrap();
                rest.wait().await;
                // Spread over the hand-over; the last of them come when it is surely over.
                loop {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(..100))).await;
                    let over = told.load(Ordering::SeqCst);
                    let post = number.is_multiple_of(2);
                    let asked = request(if post { "POST" } else { "GET" }, "a", "/count", if post { "1" } else { "" });
                    let answer = whole(connection.send(asked).await.unwrap()).await.unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text);
                    match answer.headers.get("connection").map(|value| value.as_bytes()) {
                        Some(b"close") => return,
                        other => assert!(!over, "a connection of the gateway before is kept: {other:?}"),
                    }
                }
            });
        }
        rest.wait().await;
        let new = TestGateway::run(old.directory.clone(), limits.clone(), true).await;
        let first = tokio::time::timeout(PATIENCE, clients.join_next()).await.expect("a connection is told to end");
        first.unwrap().unwrap();
        told.store(true, Ordering::SeqCst);
        clients.join_all().await;
        tokio::time::timeout(PATIENCE, &mut old.task).await.expect("the old gateway ends").unwrap().unwrap();
        old = new;
    }
}
