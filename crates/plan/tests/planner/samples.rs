//! Well-formed nouns for worlds, and how properties are run.

use proptest::test_runner::{Config, FileFailurePersistence};

#[path = "../../src/samples/nouns.rs"]
mod nouns;

pub use nouns::*;

/// How often a property is tried, and where a case that failed is kept for ever. `PROPTEST_CASES` is
/// 256 if it is not set; ten times that tries each property ten times as often.
pub fn cases(cases: u32) -> Config {
    let default = Config::default();
    Config {
        cases: (u64::from(cases) * u64::from(default.cases) / 256).try_into().unwrap_or(u32::MAX),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/proptest-regressions.txt"
        )))),
        ..default
    }
}

/// The number that [`id`] was given.
pub fn number(id: &str) -> u64 {
    u64::from_str_radix(&id[id.len() - 16..], 16).unwrap()
}
