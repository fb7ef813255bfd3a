use super::*;
use crate::drivers::Config;
use ::mesh::difference::PeerChange;
use ::mesh::fake::FakeDevice;
use api::mesh::{MeshDeviceKind, MeshPeerState};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

struct Place {
    device: Arc<FakeDevice>,
    driver: MeshDriver,
    directory: tempfile::TempDir,
}

fn id(number: u16) -> ServerId {
    format!("srv_{number:032x}").parse().unwrap()
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let device = Arc::new(FakeDevice::default());
    let driver = driver(&directory, &device);
    Place { device, driver, directory }
}

/// Server 1 on this device; made again it is an agent that was restarted.
fn driver(directory: &tempfile::TempDir, device: &Arc<FakeDevice>) -> MeshDriver {
    let tunnel = Tunnel::fake(device.clone());
    MeshDriver::with_tunnel(id(1), 1, MeshSettings::default(), directory.path(), tunnel, None)
}

fn peer(number: u8, endpoints: &[&str]) -> MeshPeer {
    MeshPeer {
        server_id: id(number.into()),
        name: format!("web-{number}").parse().unwrap(),
        public_key: PublicKey::from_bytes([number; 32]),
        endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
        allowed: ServerAddresses::of(number.into()).unwrap().reached_through_mesh(),
        keepalive_seconds: 25,
    }
}

impl Place {
    /// What the loop does about the mesh: whether it had to change something.
    async fn pass(&self) -> bool {
        let Some(desired) = self.driver.desired() else { return false };
        self.driver.lock().seen = None;
        let wanted = self.driver.desired_digest(&desired);
        if self.driver.live_digest().await.as_ref() == Some(&wanted) {
            return false;
        }
        assert_eq!(self.driver.apply(&desired).await.unwrap(), wanted);
        self.driver.lock().seen = None;
        assert_eq!(self.driver.live_digest().await, Some(wanted), "it was made and is not as it should be");
        true
    }
}

#[tokio::test]
async fn the_fleet_without_oneself_is_made_live_and_then_left_alone() {
    let place = place();
    let own = peer(1, &[]);
    place.driver.want(Some(&[own, peer(2, &["198.51.100.2:51820"]), peer(3, &[])]));
    assert!(place.pass().await);
    assert!(!place.pass().await);
    let changes = place.device.changes();
    assert_eq!(changes.len(), 2, "{changes:?}");
    // The first that would be tried is where it begins.
    let PeerChange::Add(added) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!(added.endpoint, Some("198.51.100.2:51820".parse().unwrap()));
    let observed = place.driver.observe().await;
    assert_eq!(observed.address, Some("10.100.1.1".parse().unwrap()));
    assert!(observed.peers.iter().all(|peer| peer.state == MeshPeerState::Connecting));
}

#[tokio::test]
async fn nobody_has_said_anything_and_a_mesh_of_one_are_different() {
    let place = place();
    assert!(!place.pass().await, "something was done though nobody had said what");
    place.driver.want(Some(&[peer(2, &[])]));
    place.pass().await;
    place.driver.want(Some(&[peer(1, &[])]));
    assert!(place.pass().await, "the interface stayed though there is nobody to reach");
    assert_eq!(place.driver.observe().await.device, None);
    assert_eq!(place.driver.observe().await.problem, None);
}

#[tokio::test]
async fn what_was_changed_by_hand_is_put_back_and_told_with_what_it_was() {
    let place = place();
    place.driver.want(Some(&[peer(2, &[]), peer(3, &[])]));
    place.pass().await;
    assert_eq!(place.driver.observe().await.repaired, None);
    place.device.by_hand(|live| live.peers.retain(|peer| peer.public_key != PublicKey::from_bytes([3; 32])));
    assert!(place.pass().await);
    let repaired = place.driver.observe().await.repaired.unwrap();
    assert!(repaired.what[0].contains("is missing"), "{repaired:?}");
    // A change that was asked for is no repair, and neither is what an agent finds that has just begun.
    place.driver.want(Some(&[peer(2, &[])]));
    place.pass().await;
    assert_eq!(place.driver.observe().await.repaired, Some(repaired));
    let again = Place { driver: driver(&place.directory, &place.device), ..place };
    again.driver.want(Some(&[peer(4, &[])]));
    again.pass().await;
    assert_eq!(again.driver.observe().await.repaired, None);
}

#[tokio::test]
async fn a_peer_that_moved_is_neither_drift_nor_moved_back() {
    let place = place();
    place.driver.want(Some(&[peer(2, &["198.51.100.2:51820"])]));
    place.pass().await;
    let now_ms = now_ms();
    place.device.by_hand(|live| {
        live.peers[0].endpoint = Some("198.51.100.9:4444".parse().unwrap());
        live.peers[0].last_handshake_at_ms = Some(now_ms);
    });
    assert!(!place.pass().await);
    place.driver.lock().seen = None;
    place.driver.try_endpoints().await.unwrap();
    let observed = place.driver.observe().await;
    assert_eq!(observed.peers[0].endpoint, Some("198.51.100.9:4444".parse().unwrap()));
    assert_eq!(observed.peers[0].state, MeshPeerState::Direct);
}

#[tokio::test]
async fn a_device_that_refuses_is_a_problem_in_words_until_it_works() {
    let place = place();
    place.device.fail(Some("no room"));
    place.driver.want(Some(&[peer(2, &[])]));
    let desired = place.driver.desired().unwrap();
    let error = place.driver.apply(&desired).await.unwrap_err();
    assert!(error.retryable() && error.describe().contains("no room"), "{error:?}");
    assert!(place.driver.observe().await.problem.unwrap().contains("no room"));
    place.device.fail(None);
    assert!(place.pass().await);
    assert_eq!(place.driver.observe().await.problem, None);
}

#[tokio::test]
async fn the_key_is_made_once_is_private_and_only_its_public_half_is_told() {
    let place = place();
    let facts = place.driver.facts().await.unwrap();
    let file = place.directory.path().join(KEY_FILE);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let private = std::fs::read_to_string(&file).unwrap();
    place.driver.want(Some(&[peer(2, &[])]));
    place.pass().await;
    let told = serde_json::to_string(&(&facts, place.driver.observe().await, place.driver.desired())).unwrap();
    assert!(!told.contains(private.trim()), "the private key is told");
    assert_eq!(driver(&place.directory, &place.device).facts().await.unwrap().public_key, facts.public_key);
    assert_eq!((facts.port, facts.device), (DEFAULT_PORT, MeshDeviceKind::Userspace));
}

#[tokio::test]
async fn a_machine_that_takes_no_part_says_why_and_plans_nothing() {
    let reason = "the agent does not run as root";
    let driver = MeshDriver::off(id(1), MeshSettings::default(), reason, None);
    driver.want(Some(&[peer(2, &[])]));
    assert_eq!(driver.desired(), None);
    assert_eq!(driver.facts().await, None);
    assert_eq!(driver.observe().await.problem.as_deref(), Some(reason));
    driver.remove().await.unwrap();
}

#[tokio::test]
async fn a_damaged_key_turns_the_mesh_off_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(KEY_FILE), "x").unwrap();
    let driver = driver(&directory, &Arc::new(FakeDevice::default()));
    assert!(driver.observe().await.problem.unwrap().contains("remove it and restart the agent"));
    assert!(driver.limitation().unwrap().contains("takes no part in the mesh"));
}

#[test]
fn addresses_that_lead_here_from_nowhere_else_are_not_told() {
    let own = |interface: &str, address: &str| OwnAddress {
        interface: interface.into(),
        address: address.parse().unwrap(),
        prefix: 24,
    };
    let all = [
        own("lo", "127.0.0.1"),
        own("eth0", "10.0.0.5"),
        own("eth0", "fe80::1"),
        own("eth0", "2001:db8::5"),
        own("docker0", "172.17.0.1"),
        own("br-1234567890ab", "172.18.0.1"),
        own("podman1", "10.200.1.1"),
        own("wg-other", "10.100.1.1"),
    ];
    let told: Vec<String> = endpoints(&all, 51_820).iter().map(ToString::to_string).collect();
    assert_eq!(told, ["10.0.0.5:51820", "[2001:db8::5]:51820"]);
}

#[test]
fn what_is_missing_is_said_with_what_follows() {
    assert_eq!(Ability::Kernel.limitation(), None);
    let userspace = Ability::Userspace { without: "not supported".into() };
    assert!(userspace.limitation().unwrap().contains("runs in the gateway process"));
    let none = Ability::None { reason: "there is no /dev/net/tun".into() };
    assert!(none.limitation().unwrap().contains("do not reach each other privately"));
}
