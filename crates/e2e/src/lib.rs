//! The real binary as real processes, driven as a person or a script drives it.
//!
//! Every test has a machine of its own: a data directory, ports and a git repository in a temporary
//! folder. What a test started is found again by that folder in the command lines of processes, and
//! ended when the test ends, also when it fails. Only loopback is ever talked to.

mod load;
mod machine;
mod repository;

pub use load::{Load, LoadReport};
pub use machine::{Answer, Machine, Part, kill};
pub use repository::Repository;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A binary of this workspace, beside the test that runs.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("tests run from target/PROFILE/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built; run `cargo build --package cli --package e2e` first", path.display());
    path
}

/// Looks again until there is an answer; panics with `what` when the time is over.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A port of loopback that is free now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}
