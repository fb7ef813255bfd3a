//! One suite, every device: the fake one, this process's, and the kernel's where there is one.
//!
//! A real device needs root, /dev/net/tun or the kernel's module, and a network namespace of its own, in which this test
//! runs itself again; what cannot be tried here says so.

use api::mesh::PublicKey;
use api::mesh_device::{DeviceConfig, DeviceLive, DevicePeer};
use mesh::Device;
use mesh::difference::Shape;
use mesh::fake::FakeDevice;
use mesh::kernel::KernelDevice;
use mesh::key::PrivateKey;
use mesh::userspace::UserspaceDevice;
use std::path::Path;
use std::process::Command;

const INSIDE: &str = "MESH_TEST_INSIDE";
const INTERFACE: &str = "meshtest0";

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

fn peer(number: u8) -> DevicePeer {
    DevicePeer {
        public_key: key(number),
        endpoint: Some(format!("192.0.2.{number}:51820").parse().unwrap()),
        allowed: ["10.100", "10.200"].map(|base| format!("{base}.{number}.0/24").parse().unwrap()).into(),
        keepalive_seconds: 25,
    }
}

fn config(key_file: &Path, peers: impl IntoIterator<Item = u8>) -> DeviceConfig {
    DeviceConfig {
        interface: INTERFACE.into(),
        key_file: key_file.display().to_string(),
        address: "10.100.1.1".parse().unwrap(),
        prefix: 24,
        port: 51_899,
        mtu: 1_420,
        peers: peers.into_iter().map(peer).collect(),
    }
}

async fn live(device: &impl Device) -> DeviceLive {
    device.live().await.unwrap().expect("there is a device")
}

/// What every device promises.
async fn suite(device: &impl Device) {
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("mesh.key");
    let own = PrivateKey::read_or_make(&key_file).unwrap().public();
    let as_wanted = async |device: &_, config: &DeviceConfig| {
        let (live, wanted) = (Shape::live(&live(device).await), Shape::wanted(config, own));
        assert_eq!(live.drift(&wanted), Vec::<String>::new());
        assert_eq!(live, wanted);
    };

    assert!(device.live().await.unwrap().is_none(), "there was a device before there was one");
    device.remove().await.unwrap();

    // From nothing, and again.
    let first = config(&key_file, [2, 3]);
    for _ in 0..2 {
        device.apply(&first).await.unwrap();
        as_wanted(device, &first).await;
    }
    assert_eq!(live(device).await.peers[0].endpoint, first.peers[0].endpoint);

    // One comes, one goes, one is another.
    let mut second = config(&key_file, [3, 4]);
    second.peers[0].keepalive_seconds = 0;
    second.peers[0].allowed.pop();
    device.apply(&second).await.unwrap();
    as_wanted(device, &second).await;

    // A network moves from one peer to another.
    let mut moved = config(&key_file, [3, 5]);
    moved.peers[1].allowed = peer(4).allowed;
    device.apply(&moved).await.unwrap();
    as_wanted(device, &moved).await;

    // An endpoint is changed when it is told, and left alone when it is not.
    let elsewhere = "198.51.100.7:4444".parse().unwrap();
    moved.peers[0].endpoint = Some(elsewhere);
    device.apply(&moved).await.unwrap();
    moved.peers[0].endpoint = None;
    device.apply(&moved).await.unwrap();
    assert_eq!(live(device).await.peers[0].endpoint, Some(elsewhere));

    // Address, port, MTU and key.
    let other_key = directory.path().join("other.key");
    let other = PrivateKey::read_or_make(&other_key).unwrap().public();
    let changed =
        DeviceConfig { address: "10.100.9.1".parse().unwrap(), port: 51_898, mtu: 1_380, ..config(&other_key, [3]) };
    device.apply(&changed).await.unwrap();
    assert_eq!(Shape::live(&live(device).await), Shape::wanted(&changed, other));

    // Without any peer, and back: a tunnel that never had one must work all the same.
    device.apply(&config(&key_file, [])).await.unwrap();
    as_wanted(device, &config(&key_file, [])).await;
    device.apply(&first).await.unwrap();
    as_wanted(device, &first).await;

    device.remove().await.unwrap();
    assert!(device.live().await.unwrap().is_none());

    let broken = directory.path().join("broken.key");
    std::fs::write(&broken, "no key").unwrap();
    let error = device.apply(&config(&broken, [2])).await.unwrap_err().describe();
    assert!(error.contains("broken.key"), "{error}");
    assert!(device.live().await.unwrap().is_none(), "a device was made without a key");
}

/// What the two with an interface promise besides: what was done by hand is seen and mended.
async fn suite_of_an_interface(device: &impl Device) {
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("mesh.key");
    let own = PrivateKey::read_or_make(&key_file).unwrap().public();
    let config = config(&key_file, [2, 3]);
    let wanted = Shape::wanted(&config, own);

    // Somebody else's interface of that name stays as it is.
    ip(&["link", "add", INTERFACE, "type", "bridge"]);
    let error = device.apply(&config).await.unwrap_err().describe();
    assert!(error.contains("belongs to something else"), "{error}");
    ip(&["link", "show", INTERFACE]);
    ip(&["link", "del", INTERFACE]);

    device.apply(&config).await.unwrap();
    for (arguments, expected) in [
        (&["route", "del", "10.200.3.0/24"][..], "the route to 10.200.3.0/24 is missing"),
        (&["route", "add", "10.77.0.0/16", "dev", INTERFACE], "the route to 10.77.0.0/16 should not be there"),
        (&["addr", "add", "10.66.0.1/24", "dev", INTERFACE], "its address is another"),
        (&["link", "set", INTERFACE, "mtu", "1300"], "its MTU is 1300 and not 1420"),
        (&["link", "set", INTERFACE, "down"], "the interface is down"),
    ] {
        ip(arguments);
        let drift = Shape::live(&live(device).await).drift(&wanted).join("; ");
        assert!(drift.contains(expected), "{drift}");
        device.apply(&config).await.unwrap();
        assert_eq!(Shape::live(&live(device).await).drift(&wanted), Vec::<String>::new());
    }

    ip(&["link", "del", INTERFACE]);
    assert!(device.live().await.unwrap().is_none(), "a device without its interface is none");
    device.apply(&config).await.unwrap();
    assert_eq!(Shape::live(&live(device).await), wanted);

    // A network that is reached another way is not taken over.
    ip(&["link", "add", "other0", "type", "bridge"]);
    ip(&["link", "set", "other0", "up"]);
    ip(&["route", "add", "10.200.7.0/24", "dev", "other0"]);
    let mut taken = config.clone();
    taken.peers.push(peer(7));
    let error = device.apply(&taken).await.unwrap_err().describe();
    assert!(error.contains("10.200.7.0/24 is already reached another way"), "{error}");
    device.remove().await.unwrap();
    ip(&["link", "del", "other0"]);
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {}", arguments.join(" "));
}

/// Runs the named test again in a network namespace of its own; `false` when this is that run.
fn outside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        ip(&["link", "set", "lo", "up"]);
        return false;
    }
    if !Path::new("/dev/net/tun").exists() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: real devices need root and /dev/net/tun");
        return true;
    }
    let run = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    eprintln!("{said}");
    assert!(run.status.success(), "the run in a namespace of its own failed");
    true
}

#[tokio::test]
async fn the_fake_device_keeps_what_every_device_promises() {
    suite(&FakeDevice::default()).await;
}

#[tokio::test]
async fn the_device_of_this_process_keeps_what_every_device_promises() {
    if outside("the_device_of_this_process_keeps_what_every_device_promises") {
        return;
    }
    let device = UserspaceDevice::default();
    suite(&device).await;
    suite_of_an_interface(&device).await;
}

#[tokio::test]
async fn the_device_of_the_kernel_keeps_what_every_device_promises() {
    if outside("the_device_of_the_kernel_keeps_what_every_device_promises") {
        return;
    }
    if let Some(reason) = mesh::kernel::unusable().await {
        eprintln!("skipped: this kernel has no WireGuard to use: {reason}");
        return;
    }
    let device = KernelDevice::new(INTERFACE, "a test");
    suite(&device).await;
    suite_of_an_interface(&device).await;
}
