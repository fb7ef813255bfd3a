//! The real binary as real processes, driven as a person or a script drives it.
//!
//! Every test has a machine of its own: a data directory, ports and a git repository in a temporary
//! folder. What a test started is found again by that folder in the command lines of processes, and
//! ended when the test ends, also when it fails. Only loopback is ever talked to.

mod authority;
mod clock;
mod connection;
pub mod fleet;
mod followers;
mod git_servers;
mod load;
mod machine;
mod namespaces;
mod postgres;
mod processes;
mod repository;
mod small_disk;
mod visitors;

pub use authority::{Authority, make_own_certificate};
pub use clock::Clock;
pub use followers::{Follower, all_records};
pub use git_servers::{HttpsHost, SshHost};
pub use load::{Load, LoadReport};
pub use machine::{Answer, Machine, Part, kill};
pub use namespaces::{Network, Wire};
pub use postgres::Postgres;
pub use processes::{CopyWatch, has_ended, instances_of, parent_of};
pub use repository::Repository;
pub use small_disk::SmallDisk;
pub use visitors::{Answered, Judgement, Outage, Outcome, Visit, Visitors, judge};

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A binary of this workspace, beside the test or the program that runs. `MAINSTAY_BINARIES` names another folder: to
/// look at what is shipped (`target/dist`) with a test that is not.
pub fn binary(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("MAINSTAY_BINARIES") {
        // Tests run in their package's folder, and who asks stands in the workspace's.
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder).join(name);
        return path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let running = std::env::current_exe().expect("a program knows its own path");
    let folder = running.parent().expect("a program lies in a folder");
    // Tests run from target/PROFILE/deps, programs from target/PROFILE.
    let folder = if folder.ends_with("deps") { folder.parent().expect("deps lies in a profile") } else { folder };
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

/// A free port that the kernel gives to no outgoing connection: somebody who tries again and again to
/// reach a port on which nobody listens may otherwise be given that very port, and reach himself.
pub fn free_low_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..1000).map(|_| fastrand::u16(30_000..32_768)).find(free).expect("loopback has a free port")
}

/// A port of loopback that is free now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// What this machine cannot do for a test: said, and a failure where everything is required
/// (`cargo xtask test --require-all`, or CI).
pub fn skip(test: &str, reason: &str) {
    let is_set = |name| std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    assert!(
        !is_set("MAINSTAY_REQUIRE_ALL") && !is_set("CI"),
        "{test} cannot run, and everything is required: {reason}"
    );
    eprintln!("skipped: {test}: {reason}");
}
