//! What every source file must and must not have.

use super::Tree;

/// Past this there is a second concept in the file.
const LINES_LIMIT: usize = 600;
/// Tests are lists; they may be longer.
const TEST_LINES_LIMIT: usize = 900;

/// Whose business it is to write to a terminal or a pipe.
/// Also files that are programs of their own (git's helpers answer git on their output).
const SPEAKERS: [&str; 5] = ["crates/cli/", "crates/e2e/", "crates/bench/", "crates/git/src/helpers.rs", "xtask/"];

/// Words that say that something is not finished. Split, so that this file does not hold them.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// Beginnings of paths that only exist on somebody's machine.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home/", "runner")];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.with_extension("rs") {
        let Some(text) = tree.text(file) else { continue };
        rust_file(file, &text, &mut complaints);
    }
    for file in &tree.files {
        let Some(text) = tree.text(file) else { continue };
        for (index, line) in text.lines().enumerate() {
            let at = format!("{file}:{}", index + 1);
            if let Some(word) = UNFINISHED.iter().find(|word| line.contains(*word)) {
                complaints.push(format!("{at}: `{word}`: finish it, or write an issue"));
            }
            if let Some(path) = MACHINE_PATHS.iter().find(|path| line.contains(*path)) {
                complaints.push(format!("{at}: `{path}` is a path of one machine"));
            }
        }
    }
    for package in tree.crates() {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest =
            package["manifest_path"].as_str().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        if !manifest.contains("[lints]\nworkspace = true") {
            complaints.push(format!(
                "crate `{name}` does not use the lints of the workspace: add `[lints] workspace = true`"
            ));
        }
        for field in ["edition", "rust-version", "license", "publish"] {
            if !manifest.contains(&format!("{field}.workspace = true")) {
                complaints.push(format!("crate `{name}`: write `{field}.workspace = true`"));
            }
        }
    }
    complaints
}

fn rust_file(file: &str, text: &str, complaints: &mut Vec<String>) {
    let is_test = file.contains("/tests/") || file.ends_with("tests.rs");
    let lines = text.lines().count();
    let limit = if is_test { TEST_LINES_LIMIT } else { LINES_LIMIT };
    if lines > limit {
        complaints.push(format!("{file}: {lines} lines; past {limit}, look for the second concept"));
    }
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if !is_test && !first.starts_with("//!") {
        complaints
            .push(format!("{file}: begins without module documentation (`//!`): what it is for, and why this way"));
    }
    let is_program = ["/src/bin/", "/src/main.rs", "examples/", "/build.rs"].iter().any(|part| file.contains(part));
    let speaks = is_test || is_program || SPEAKERS.iter().any(|start| file.starts_with(start));
    // Tests inside a file come last, and may print.
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    for (index, line) in code.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("//") {
            continue;
        }
        let prints = ["println!(", "eprintln!(", "print!(", "eprint!("].iter().any(|call| trimmed.starts_with(call));
        if prints && !speaks {
            complaints.push(format!("{file}:{}: a library does not print; use tracing", index + 1));
        }
        if trimmed.contains("Command::new(\"sh\")") || trimmed.contains("Command::new(\"bash\")") {
            complaints
                .push(format!("{file}:{}: no shell: start the program itself with an argument vector", index + 1));
        }
    }
}
