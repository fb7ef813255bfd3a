//! Licences and sources of everything that is linked, from `cargo metadata`: the part of `deny.toml`
//! that needs no other tool. The list of licences is read from there, so there is one list.

use super::Tree;

pub fn check(tree: &Tree) -> Vec<String> {
    let deny = tree.text("deny.toml").unwrap_or_default();
    let allowed = allowed_licences(&deny);
    if allowed.is_empty() {
        return vec!["deny.toml names no allowed licences".into()];
    }
    let mut complaints = Vec::new();
    for package in tree.metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(licence) if is_allowed(licence, &allowed) => {}
            Some(licence) => {
                complaints.push(format!("`{name}` has the licence `{licence}`, which deny.toml does not allow"))
            }
            None => complaints.push(format!("`{name}` states no licence")),
        }
        let from = package["source"].as_str();
        if from.is_some_and(|source| !source.starts_with("registry+https://github.com/rust-lang/crates.io-index")) {
            complaints.push(format!("`{name}` does not come from crates.io but from `{}`", from.unwrap_or_default()));
        }
    }
    complaints
}

/// The `allow = [...]` list of `[licenses]`.
fn allowed_licences(deny: &str) -> Vec<&str> {
    let section = deny.split("[licenses]").nth(1).unwrap_or_default();
    let list = section.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
    list.split('"').skip(1).step_by(2).collect()
}

/// An SPDX expression is satisfied when one side of each `OR` and both of each `AND` are.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let satisfied = any(&words, &mut at, allowed);
    satisfied && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut satisfied = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        satisfied |= all(words, at, allowed);
    }
    satisfied
}

fn all(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut satisfied = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        satisfied &= one(words, at, allowed);
    }
    satisfied
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let satisfied = any(words, at, allowed);
        *at += 1;
        return satisfied;
    }
    // An exception only adds permissions.
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    allowed.contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_satisfied_by_one_side_of_or_and_both_of_and() {
        let allowed = ["MIT", "Apache-2.0", "ISC"];
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND ISC",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(is_allowed(good, &allowed), "{good} was refused");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR AGPL-3.0) AND MIT", "", "MIT)"] {
            assert!(!is_allowed(bad, &allowed), "{bad} was allowed");
        }
    }
}
