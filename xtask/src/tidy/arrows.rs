//! Which of our crates may use which. The picture is in ARCHITECTURE.md; this is the truth.
//!
//! The control plane and the agent never see each other, the gateway sees neither, and `plan` sees
//! only nouns. Dependencies of tests are free, except those two.

use super::Tree;

/// A crate and the crates of ours that it may use. Adding an edge here is a decision about the design.
const ARROWS: [(&str, &[&str]); 19] = [
    ("ambient", &[]),
    ("api", &[]),
    ("sockets", &[]),
    ("wire", &["api"]),
    ("sealing", &["api"]),
    ("manifest", &["api"]),
    ("mesh", &["api"]),
    ("plan", &["api"]),
    ("git", &["api"]),
    ("store", &["ambient", "api"]),
    ("client", &["api", "wire"]),
    ("server", &["ambient", "api", "wire", "sealing", "manifest", "plan", "git", "store", "sockets"]),
    ("agent", &["ambient", "api", "wire", "plan", "git", "mesh", "client", "sockets"]),
    ("gateway", &["api", "wire", "mesh", "sockets"]),
    ("cli", &["api", "wire", "manifest", "plan", "git", "store", "client", "server", "agent", "gateway", "sockets"]),
    ("e2e", &["api", "wire", "manifest", "client", "git"]),
    // The one place where both are seen: it puts a simulated world between them.
    ("sim", &["ambient", "api", "wire", "plan", "git", "store", "server", "agent"]),
    // Measures: plans and desired states in its own process, everything else as the released program. A desired state
    // has no address without a signed request, whose checks cost more than what is to be measured.
    ("bench", &["api", "wire", "manifest", "plan", "client", "store", "server", "e2e"]),
    ("xtask", &["api", "manifest", "server", "cli"]),
];

/// Not even in tests: what these two agree on is `api` and `wire`, and nothing else.
const STRANGERS: [(&str, &str); 2] = [("server", "agent"), ("agent", "server")];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let crates = tree.crates();
    let names: Vec<&str> = crates.iter().filter_map(|c| c["name"].as_str()).collect();
    for package in &crates {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            complaints.push(format!(
                "`{name}` is not in the table of crates (xtask/src/tidy/arrows.rs); decide what it may use"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            if !names.contains(&other) || dependency["path"].is_null() {
                continue;
            }
            let is_for_tests = dependency["kind"].as_str() == Some("dev");
            if !is_for_tests && !allowed.contains(&other) {
                complaints.push(format!("`{name}` must not depend on `{other}`; it may use: {}", allowed.join(", ")));
            }
            if STRANGERS.contains(&(name, other)) {
                complaints.push(format!("`{name}` must never see `{other}`, not even in tests"));
            }
        }
    }
    for (known, _) in ARROWS {
        if !names.contains(&known) {
            complaints.push(format!("`{known}` is in the table of crates but does not exist"));
        }
    }
    complaints
}
