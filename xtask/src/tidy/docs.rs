//! A path that a document names exists. Nothing misleads more than a guide to files that have moved.

use super::Tree;

/// Folders whose paths are recognised in backticks.
const FOLDERS: [&str; 5] = ["crates/", "docs/", "examples/", "xtask/", ".ci/"];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.with_extension("md") {
        let Some(text) = tree.text(file) else { continue };
        for (index, line) in text.lines().enumerate() {
            let named = line.split('`').skip(1).step_by(2).filter(|word| is_path(word));
            for path in named {
                if !tree.root.join(path).exists() {
                    complaints.push(format!("{file}:{}: `{path}` does not exist", index + 1));
                }
            }
            for target in link_targets(line) {
                let folder = tree.root.join(file).parent().map(|p| p.to_owned()).unwrap_or_default();
                if !folder.join(target).exists() {
                    complaints.push(format!("{file}:{}: the link to `{target}` leads nowhere", index + 1));
                }
            }
        }
    }
    complaints
}

/// `crates/plan/src/host.rs`, but not a command that holds a path, a pattern, or a NAME to fill in.
fn is_path(word: &str) -> bool {
    FOLDERS.iter().any(|folder| word.starts_with(folder))
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'))
        && !word.split('/').any(|part| part.split('.').next().is_some_and(|stem| stem == "NAME" || stem == "NOUN"))
}

/// Targets of Markdown links to files, without their anchors.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    let after_brackets = line.split("](").skip(1);
    let targets = after_brackets.filter_map(|rest| rest.split(')').next());
    let local =
        targets.filter(|target| !target.contains("://") && !target.starts_with('#') && !target.starts_with('/'));
    local.filter_map(|target| target.split('#').next()).filter(|target| !target.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_links_are_told_from_commands_and_addresses() {
        assert!(is_path("crates/plan/src/host.rs") && is_path("docs/howto"));
        assert!(!is_path("cargo run") && !is_path("crates/*/src") && !is_path("up examples/hello"));
        let line = "see [a](docs/a.md#top), [b](https://example.com) and [c](#here)";
        assert_eq!(link_targets(line).collect::<Vec<_>>(), ["docs/a.md"]);
    }
}
