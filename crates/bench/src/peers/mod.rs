//! What one would use instead, configured as its documentation says and as near to each other as can be:
//! one core each, connections to the origin kept, no access log, the usual forwarding headers, no
//! TLS unless that is measured, every route a host of its own that leads to the same origin.

mod configs;
mod proxy;

pub use proxy::{Proxy, Wish, free_address};

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who passes requests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Nobody: the load asks the origin. What the measurement itself costs.
    Direct,
    Mainstay,
    Nginx,
    Haproxy,
    Caddy,
    Traefik,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Direct, Self::Mainstay, Self::Nginx, Self::Haproxy, Self::Caddy, Self::Traefik];

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mainstay => crate::figure::MAINSTAY,
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
            Self::Traefik => "traefik",
        }
    }
}

/// A program that was found, with what it says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub path: PathBuf,
    pub version: String,
}

#[derive(Debug, Clone, Default)]
pub struct Tools {
    pub found: Vec<Tool>,
    pub missing: Vec<&'static str>,
}

/// Name, and the words that make it say its version.
const TOOLS: [(&str, &[&str]); 10] = [
    ("mainstay", &["version"]),
    ("nginx", &["-v"]),
    ("haproxy", &["-v"]),
    ("caddy", &["version"]),
    ("traefik", &["version"]),
    ("dnsmasq", &["--version"]),
    ("wireguard-go", &["--version"]),
    ("wg", &["--version"]),
    ("iperf3", &["--version"]),
    ("ping", &["-V"]),
];

impl Tools {
    /// Looks beside this program, where the bench installs, and where Debian installs.
    pub fn find(root: &Path, binaries: &Path) -> Self {
        let folders = [binaries.to_owned(), root.join("target/tools/bench/bin"), "/usr/sbin".into(), "/usr/bin".into()];
        let mut tools = Self::default();
        for (name, words) in TOOLS {
            match folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
                Some(path) => {
                    let version = version(&path, words);
                    tools.found.push(Tool { name: name.into(), path, version });
                }
                None => tools.missing.push(name),
            }
        }
        tools
    }

    pub fn path(&self, name: &str) -> Option<&Path> {
        self.found.iter().find(|tool| tool.name == name).map(|tool| tool.path.as_path())
    }

    /// Those of all proxies that can be measured here.
    pub fn proxies(&self) -> Vec<Kind> {
        let there = |kind: &Kind| *kind == Kind::Direct || self.path(kind.name()).is_some();
        Kind::ALL.into_iter().filter(there).collect()
    }
}

/// The first word with a number in it that the program says.
fn version(program: &Path, words: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(words).output() else { return "unknown".into() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let numbered = |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    text.split_whitespace().find(numbered).unwrap_or("unknown").trim_start_matches("nginx/").to_owned()
}
