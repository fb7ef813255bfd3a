//! A manifest as a page shows it: as it was written, but for the values of environment variables.
//!
//! They belong into `mainstay env set`, yet people write secrets into manifests, and a page is looked
//! at over shoulders. The values are found by the parser, not by guessing at lines, so every way of
//! writing them is covered; a text that cannot be parsed is not shown at all.

use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// What stands where a value was.
const HIDDEN: &str = "\"•••\"";

/// The text with the values of `services.*.env.*` hidden; `None` if it cannot be read.
pub fn without_values(text: &str) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    let mut places: Vec<Range<usize>> = Vec::new();
    let Some(DeValue::Table(services)) = document.get_ref().get("services").map(|services| services.get_ref()) else {
        return Some(text.to_owned());
    };
    for service in services.values() {
        let DeValue::Table(service) = service.get_ref() else { continue };
        let Some(DeValue::Table(env)) = service.get("env").map(|env| env.get_ref()) else { continue };
        places.extend(env.values().map(|value| value.span()));
    }
    places.sort_by_key(|place| std::cmp::Reverse(place.start));
    let mut shown = text.to_owned();
    for place in places {
        if shown.get(place.clone()).is_none() {
            return None;
        }
        shown.replace_range(place, HIDDEN);
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_hidden_however_they_are_written_and_all_else_stays() {
        let text = r#"name = "shop" # secret-free
[services.web]
run = "serve ü"
env = { A = "secret-1", "B" = 'secret-2', C = """secret-3
secret-4""" }
[services.api.env]
D = 12345
[services]
worker.env.E = "secret\"5"
"#;
        let shown = without_values(text).unwrap();
        for hidden in ["secret-1", "secret-2", "secret-3", "secret-4", "12345", "secret\\\"5"] {
            assert!(!shown.contains(hidden), "{hidden} is in {shown}");
        }
        assert!(
            shown.contains("name = \"shop\" # secret-free")
                && shown.contains("serve ü")
                && shown.contains("worker.env.E = \"•••\""),
            "{shown}"
        );
    }

    #[test]
    fn a_text_that_cannot_be_read_is_not_shown() {
        assert_eq!(without_values("env = { A = \"secret"), None);
        assert_eq!(without_values("name = \"x\""), Some("name = \"x\"".into()));
    }
}
