//! The driver of the gateway with the real process behind it. The binary is another package's, so it
//! is there only once that was built (`cargo build -p cli`); without it these tests say that they skip.

use agent::drivers::Config;
use agent::drivers::routes::GatewayDriver;
use api::gateway::{GatewayConfig, Listener, ListenerKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn binary() -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let binary = test.ancestors().nth(2).unwrap().join("mainstay");
    if !binary.exists() {
        println!("skipped: {} is not built", binary.display());
    }
    binary.exists().then_some(binary)
}

fn config(address: SocketAddr) -> GatewayConfig {
    GatewayConfig {
        listeners: vec![Listener { address, kind: ListenerKind::Public }],
        response_timeout_ms: 1_000,
        connect_timeout_ms: 1_000,
        idle_timeout_ms: 1_000,
        ..GatewayConfig::default()
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_gateway_is_started_adopted_by_the_next_agent_and_started_again_after_its_death() {
    let Some(binary) = binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let first = GatewayDriver::new(directory.path().join("gateway"), binary.clone());
    assert!(!first.observe().await.running);
    let digest = first.apply(&config(address)).await.unwrap();
    let pid = first.observe().await.pid.unwrap();

    let second = GatewayDriver::new(directory.path().join("gateway"), binary);
    second.ensure_running().await.unwrap();
    assert_eq!(second.observe().await.pid, Some(pid), "the running one is adopted");
    assert_eq!(second.live_digest().await, Some(digest.clone()));

    let mut changes = second.changes();
    changes.borrow_and_update();
    kill(pid);
    let begun = Instant::now();
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.expect("its death is noticed").unwrap();
    println!("the death of the gateway was noticed after {:?}", begun.elapsed());
    assert_eq!(second.apply(&config(address)).await.unwrap(), digest);
    assert_ne!(second.observe().await.pid, Some(pid));
    second.remove().await.unwrap();
    assert!(!second.observe().await.running);
}

#[tokio::test]
async fn a_gateway_that_served_for_a_while_is_never_waited_for_and_one_that_ends_at_once_is() {
    let Some(binary) = binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let driver = GatewayDriver::new(directory.path().join("gateway"), binary);
    let config = config(free_address());
    for _ in 0..3 {
        driver.apply(&config).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5_200)).await;
        kill_and_wait(&driver).await;
    }
    driver.apply(&config).await.expect("the fourth start in a row is not put off");
    kill_and_wait(&driver).await;
    driver.apply(&config).await.expect("a first bad start may be chance");
    kill_and_wait(&driver).await;
    let waits = driver.apply(&config).await.unwrap_err().describe();
    assert!(waits.contains("is started again in"), "{waits}");
}

/// Until its control socket is silent, too.
async fn kill_and_wait(driver: &GatewayDriver) {
    kill(driver.observe().await.pid.unwrap());
    while driver.observe().await.running {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_gateway_of_another_version_is_replaced_without_refusing_a_connection() {
    let Some(binary) = binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let old = GatewayDriver::new(directory.path().join("gateway"), binary.clone());
    old.apply(&config(address)).await.unwrap();
    let pid = old.observe().await.pid;

    let refused = tokio::spawn(async move {
        let (mut tries, mut refused) = (0, 0);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            tries += 1;
            refused += u32::from(tokio::net::TcpStream::connect(address).await.is_err());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (tries, refused)
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // This agent wants a version that none is of, so whatever runs is replaced.
    let newer = GatewayDriver::with_version(directory.path().join("gateway"), binary, "99.0.0");
    newer.ensure_running().await.unwrap();
    assert_ne!(newer.observe().await.pid, pid);
    assert_eq!(newer.live_digest().await, Some(wire::digest_of(&config(address))), "with its routes");
    let pid = newer.observe().await.pid;
    newer.ensure_running().await.unwrap();
    assert_eq!(newer.observe().await.pid, pid, "the binary brings no other, so it is not replaced for ever");
    let (tries, refused) = refused.await.unwrap();
    println!("{refused} of {tries} connections were refused during the upgrade");
    assert_eq!(refused, 0);
    newer.remove().await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_and_the_config_before_stays() {
    let Some(binary) = binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let driver = GatewayDriver::new(directory.path().join("gateway"), binary);
    let good = driver.apply(&config(free_address())).await.unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = driver.apply(&config(taken.local_addr().unwrap())).await.unwrap_err().describe();
    assert!(error.contains(&taken.local_addr().unwrap().port().to_string()), "{error}");
    let observed = driver.observe().await;
    assert_eq!((observed.digest, observed.problem.is_some()), (Some(good), true));
    driver.remove().await.unwrap();
}

#[tokio::test]
async fn a_binary_that_is_no_gateway_is_an_error_that_says_what_it_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let driver = GatewayDriver::new(directory.path().join("gateway"), "/bin/false".into());
    let error = driver.apply(&config(free_address())).await.unwrap_err().describe();
    assert!(error.contains("the gateway ended at once"), "{error}");
    let again = driver.apply(&config(free_address())).await.unwrap_err().describe();
    assert!(again.contains("is started again in"), "a failed start backs off: {again}");
}
