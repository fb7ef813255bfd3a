//! The fingerprint of a plan: what a person agreed to, in a text that can be compared later.
//!
//! It covers everything the plan depends on. Three parts stand apart from the whole so that a refusal
//! can say *what* moved, and not only that something did:
//!
//! ```text
//! VERSION-SPECS-COMMITS-WHOLE      12-9f86d081-60303ae2-…64 hexadecimal digits
//! ```

use api::name::Name;
use api::plans::StackPlan;
use api::services::{ServiceSpec, SourceVersion};
use std::collections::BTreeMap;

/// Of a plan against the specs (environment of `env set` included) and commits it was made from.
pub fn of(plan: &StackPlan, specs: &BTreeMap<Name, ServiceSpec>, versions: &BTreeMap<Name, SourceVersion>) -> String {
    let specs = wire::digest_of(specs);
    let versions = wire::digest_of(versions);
    let bare = StackPlan { fingerprint: String::new(), ..plan.clone() };
    let whole = wire::digest_of(&(&specs, &versions, &bare));
    format!("{}-{}-{}-{whole}", plan.base_version, &specs[..8], &versions[..8])
}

/// What moved between the plan that was agreed to and the one that holds now, in words.
pub fn what_moved(agreed: &str, now: &str) -> String {
    let parts = |text: &str| text.splitn(4, '-').map(str::to_owned).collect::<Vec<_>>();
    let (agreed, now) = (parts(agreed), parts(now));
    if agreed.len() != 4 || now.len() != 4 {
        return "the fingerprint is not one of this control plane".into();
    }
    let mut moved = Vec::new();
    if agreed[0] != now[0] {
        moved.push(format!("the stack was at version {} and is at {} now", shown(&agreed[0]), now[0]));
    }
    if agreed[1] != now[1] {
        moved.push("the manifest or a variable set with `mainstay env` is another one".into());
    }
    if agreed[2] != now[2] {
        moved.push("a branch or tag leads to another commit or image".into());
    }
    if moved.is_empty() {
        moved.push("what is deployed is not what it was".into());
    }
    moved.join("; ")
}

fn shown(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn print(version: u64, path: &str, commit: u64) -> String {
        let plan = StackPlan {
            stack_id: None,
            stack: "shop".parse().unwrap(),
            base_version: version,
            fingerprint: "ignored".into(),
            services: vec![],
        };
        let name: Name = "web".parse().unwrap();
        let specs = BTreeMap::from([(name.clone(), samples::revision(1, path).spec)]);
        of(&plan, &specs, &BTreeMap::from([(name, format!("{commit:040x}").parse().unwrap())]))
    }

    #[test]
    fn it_says_which_part_moved() {
        let base = print(1, "/", 1);
        assert_eq!(base, print(1, "/", 1));
        assert!(what_moved(&base, &print(2, "/", 1)).contains("version 1 and is at 2"));
        assert!(what_moved(&base, &print(1, "/x", 1)).contains("manifest"));
        assert!(what_moved(&base, &print(1, "/", 2)).contains("another commit"));
        assert!(what_moved("nonsense", &base).contains("not one of this control plane"));
    }
}
