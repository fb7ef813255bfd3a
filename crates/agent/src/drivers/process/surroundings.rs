//! The environment variables of builds and instances: made, not inherited.
//!
//! What the agent happens to run with must not decide how a service behaves. So a command sees the
//! search path, the way to the network, a home of its own, what Mainstay says, and what the user set,
//! in this order; the user's word is the last.

use api::secret::Secret;
use std::collections::BTreeMap;
use std::path::Path;

/// How this machine reaches the network and where it keeps toolchains.
const PASSED_ON: [&str; 13] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RUSTUP_HOME",
    "CARGO_HOME",
    "JAVA_HOME",
    "TZ",
];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every command gets.
pub fn base(home: &Path) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for name in PASSED_ON {
        if let Ok(value) = std::env::var(name) {
            env.insert(name.to_owned(), value);
        }
    }
    // A `cargo` on the search path may be rustup's, which looks for its toolchains in the real home.
    if !env.contains_key("RUSTUP_HOME")
        && let Some(real) = std::env::var_os("HOME")
    {
        let toolchains = Path::new(&real).join(".rustup");
        if toolchains.is_dir() {
            env.insert("RUSTUP_HOME".into(), toolchains.to_string_lossy().into_owned());
        }
    }
    env.insert("PATH".into(), std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into()));
    env.insert("HOME".into(), home.to_string_lossy().into_owned());
    env.insert("LANG".into(), "C.UTF-8".into());
    env
}

/// Lay what Mainstay adds and then what the user set over `env`. A name or value that the system
/// cannot pass on (a NUL byte, `=` in a name) is an error that names it.
pub fn overlay(
    env: &mut BTreeMap<String, String>,
    injected: &BTreeMap<String, Secret>,
    own: &BTreeMap<String, Secret>,
) -> Result<(), String> {
    for (name, value) in injected.iter().chain(own) {
        if name.is_empty() || name.contains(['=', '\0']) || value.expose().contains('\0') {
            return Err(format!(
                "the variable `{}` has a name or value that cannot be passed on; rename it or remove the NUL byte",
                name.escape_debug()
            ));
        }
        env.insert(name.clone(), value.expose().to_owned());
    }
    Ok(())
}
