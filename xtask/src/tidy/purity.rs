//! `plan` decides and does nothing: no clock, no randomness, no files, no environment, no logging.
//!
//! clippy checks calls by `crates/plan/clippy.toml`; here it is checked that this file is there and
//! bans what it must, and that the crate has no dependency that could do any of it.

use super::Tree;

const BANS: [&str; 6] = [
    "std::time::SystemTime::now",
    "std::time::Instant::now",
    "std::env::var",
    "std::fs::read",
    "std::fs::write",
    "std::thread::sleep",
];
/// What the planner may use beside our own nouns.
const ALLOWED: [&str; 5] = ["api", "serde", "serde_json", "thiserror", "hex"];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let clippy = tree.text("crates/plan/clippy.toml").unwrap_or_default();
    for ban in BANS {
        if !clippy.contains(&format!("path = \"{ban}\"")) {
            complaints.push(format!("crates/plan/clippy.toml does not ban `{ban}`"));
        }
    }
    if clippy.lines().any(|line| line.contains("path =") && !line.contains("reason =")) {
        complaints.push("crates/plan/clippy.toml: every ban states its reason".into());
    }
    for package in tree.crates().into_iter().filter(|p| p["name"] == "plan") {
        for dependency in package["dependencies"].as_array().into_iter().flatten().filter(|d| d["kind"].is_null()) {
            let name = dependency["name"].as_str().unwrap_or_default();
            if !ALLOWED.contains(&name) {
                complaints.push(format!("`plan` depends on `{name}`; it may use only {}", ALLOWED.join(", ")));
            }
        }
    }
    complaints
}
