//! Where Mainstay keeps its files on this machine.

use std::path::PathBuf;

/// The data directory, unless another is named: `/var/lib/mainstay` for root, else below the user's
/// state directory.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/mainstay");
    }
    let state = absolute_from_env("XDG_STATE_HOME").or_else(|| Some(home()?.join(".local/state")));
    // Without a home there is still a place that only this user can write to.
    state
        .unwrap_or_else(|| std::env::temp_dir().join(format!("mainstay-{}", rustix::process::geteuid().as_raw())))
        .join("mainstay")
}

/// `~/.config/mainstay/config.json`: which control planes this user knows.
pub fn config_file() -> Option<PathBuf> {
    let config = absolute_from_env("XDG_CONFIG_HOME").or_else(|| Some(home()?.join(".config")))?;
    Some(config.join("mainstay/config.json"))
}

fn home() -> Option<PathBuf> {
    absolute_from_env("HOME")
}

fn absolute_from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
