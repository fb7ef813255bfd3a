//! A userspace device from a config file, until it is ended: for trying it out and for measuring.

use mesh::Device;
use mesh::userspace::UserspaceDevice;

#[tokio::main]
async fn main() {
    let path = std::env::args().nth(1).expect("the path of a config");
    let config = serde_json::from_slice(&std::fs::read(path).expect("the config can be read")).expect("a config");
    let device = UserspaceDevice::default();
    device.apply(&config).await.expect("the device can be made");
    eprintln!("{:?}", device.live().await);
    std::future::pending::<()>().await;
}
