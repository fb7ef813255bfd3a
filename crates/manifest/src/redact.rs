//! A manifest as it may be shown: without the values of environment variables and the content of files, which may be secret.
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
    #[serde(default)]
    files: BTreeMap<String, Spanned<toml::Value>>,
}

impl LooseService {
    /// What may be secret, with the field that it is in.
    fn secrets(&self) -> impl Iterator<Item = (&'static str, &String, &Spanned<toml::Value>)> {
        let env = self.env.iter().map(|(name, value)| ("env", name, value));
        env.chain(self.files.iter().map(|(path, value)| ("files", path, value)))
    }

    fn secret(&self, field: &str, name: &str) -> Option<&Spanned<toml::Value>> {
        if field == "env" { self.env.get(name) } else { self.files.get(name) }
    }
}

/// What stands in place of a value.
const PLACEHOLDER: &str = "\"(hidden)\"";
const HIDDEN: &str = "(hidden)";

/// The text with every value of `env` and `files` hidden; `None` if it cannot be read as a manifest.
pub fn without_env_values(text: &str) -> Option<String> {
    let loose: Loose = toml::from_str(text).ok()?;
    let values = loose.services.values().flat_map(LooseService::secrets);
    let mut spans: Vec<Range<usize>> = values.map(|(_, _, value)| value.span()).collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    let mut shown = text.to_owned();
    for span in spans {
        if shown.get(span.clone()).is_some() {
            shown.replace_range(span, PLACEHOLDER);
        }
    }
    Some(shown)
}

/// The other way round: a text whose values were hidden, with every value that still is taken from the text that
/// it was made from. `Err` names the variables that are hidden and have no value there.
pub fn with_env_values(text: &str, original: &str) -> Result<String, Vec<String>> {
    // What cannot be read is complained about where manifests are read.
    let Ok(loose) = toml::from_str::<Loose>(text) else { return Ok(text.to_owned()) };
    let known: Loose = toml::from_str(original).unwrap_or(Loose { services: BTreeMap::new() });
    let (mut spans, mut unknown) = (Vec::new(), Vec::new());
    for (service, secrets) in &loose.services {
        for (field, name, value) in secrets.secrets() {
            if value.get_ref().as_str() != Some(HIDDEN) {
                continue;
            }
            let kept = known.services.get(service).and_then(|service| service.secret(field, name));
            match kept.and_then(|kept| original.get(kept.span())) {
                Some(kept) => spans.push((value.span(), kept)),
                None => unknown.push(format!("services.{service}.{field}.{name}")),
            }
        }
    }
    if !unknown.is_empty() {
        return Err(unknown);
    }
    spans.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut whole = text.to_owned();
    for (span, kept) in spans {
        if whole.get(span.clone()).is_some() {
            whole.replace_range(span, kept);
        }
    }
    Ok(whole)
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
        let text = "[services.web]\nimage = \"nginx\"\n[services.web.files]\n\"/etc/key\" = \"hunter2\"\n";
        let shown = without_env_values(text).unwrap();
        assert!(shown.contains("\"/etc/key\" = \"(hidden)\""), "{shown}");
        assert_eq!(with_env_values(&shown, text).as_deref(), Ok(text));
        assert_eq!(without_env_values("name = [").as_deref(), None);
    }

    #[test]
    fn hidden_values_come_back_as_they_were_written_and_changed_ones_stay_changed() {
        let text = "name = \"shop\"\n[services.web]\nenv = { A = \"hunter2\", B = 7 }\n[services.api.env]\nC = '''\nhunter3\n''' # kept\n";
        let shown = without_env_values(text).unwrap();
        assert_eq!(with_env_values(&shown, text).as_deref(), Ok(text));
        let changed = shown.replace("B = \"(hidden)\"", "B = 8, D = \"new\"");
        let whole = with_env_values(&changed, text).unwrap();
        assert!(whole.contains("A = \"hunter2\", B = 8, D = \"new\"") && whole.contains("hunter3"), "{whole}");
        let invented = shown.replace("B = ", "E = ");
        assert_eq!(with_env_values(&invented, text), Err(vec!["services.web.env.E".to_owned()]));
        assert_eq!(with_env_values("name = [", text).as_deref(), Ok("name = ["));
    }
}
