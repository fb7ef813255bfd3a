//! The data path.

use std::path::PathBuf;

/// Where a gateway lives and how it begins.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// Holds the control socket, the last config, the lock and the hand-over socket.
    pub directory: PathBuf,
    /// Take the listening sockets over from the gateway that runs on the same directory.
    pub take_over: bool,
}

pub async fn run(options: GatewayOptions) -> anyhow::Result<()> {
    anyhow::bail!("the gateway on {} is not built yet", options.directory.display())
}

pub mod static_files {
    use std::path::PathBuf;

    pub async fn run(directory: PathBuf, port: u16) -> anyhow::Result<()> {
        anyhow::bail!("cannot serve {} on {port} yet", directory.display())
    }
}
