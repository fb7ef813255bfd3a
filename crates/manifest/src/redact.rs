//! A manifest as it may be shown: without the values of environment variables, which may be secret.
//! Everything else stays as it was written, comments included.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;

#[derive(Deserialize)]
struct Loose {
    #[serde(default)]
    services: BTreeMap<String, LooseService>,
}

#[derive(Deserialize)]
struct LooseService {
    #[serde(default)]
    env: BTreeMap<String, Spanned<toml::Value>>,
}

/// What stands in place of a value.
const PLACEHOLDER: &str = "\"(hidden)\"";

/// The text with every value of `env` hidden; `None` if it cannot be read as a manifest.
pub fn without_env_values(text: &str) -> Option<String> {
    let loose: Loose = toml::from_str(text).ok()?;
    let values = loose.services.values().flat_map(|service| service.env.values());
    let mut spans: Vec<Range<usize>> = values.map(Spanned::span).collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    let mut shown = text.to_owned();
    for span in spans {
        if shown.get(span.clone()).is_some() {
            shown.replace_range(span, PLACEHOLDER);
        }
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_hidden_however_they_are_written_and_nothing_else_is() {
        let text = "name = \"shop\" # ours\n[services.web]\nrun = \"serve\"\nenv = { A = \"hunter2\", B = 7 }\n\
                    [services.api.env]\n# why\nC = '''\nhunter3\nhunter4''' # kept\nD = true\n[services.x]\nenv.E = \"hunter5\"\n";
        let shown = without_env_values(text).unwrap();
        assert!(!shown.contains("hunter") && !shown.contains("= 7"), "{shown}");
        for kept in ["# ours", "run = \"serve\"", "# why", "# kept", "A = \"(hidden)\"", "D = \"(hidden)\"", "env.E"] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
        assert_eq!(without_env_values("name = [").as_deref(), None);
    }
}
