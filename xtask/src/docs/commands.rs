//! Every `mainstay …` command in the documents is one that the real command line takes.
//!
//! Commands are parsed by clap itself, not run. Words that stand for something (NAME, FILE) are values
//! like any other; a command that is only named (`mainstay tokens create`) may lack its arguments.

use crate::root;
use anyhow::{Result, bail};
use clap::error::ErrorKind;

pub fn check() -> Result<()> {
    let tracked = crate::steps::output(std::process::Command::new("git").current_dir(root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.md",
    ]))?;
    let mut complaints = Vec::new();
    let mut count = 0;
    for file in tracked.lines().filter(|file| !file.starts_with("docs/reference/")) {
        let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        for (line, command) in commands(&text) {
            count += 1;
            if let Some(problem) = problem(&command) {
                complaints.push(format!("{file}:{line}: `{command}`: {problem}"));
            }
        }
    }
    if !complaints.is_empty() {
        bail!("commands in the documents that do not work:\n  {}", complaints.join("\n  "));
    }
    println!("{count} commands in the documents are ones that mainstay takes");
    Ok(())
}

/// Lines of shell blocks, and commands named inside text, with their line.
fn commands(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut block: Option<bool> = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(matches!(language, "sh" | "console")) };
            continue;
        }
        let candidates: Vec<&str> = match block {
            Some(true) => {
                let code = line.split(" #").next().unwrap_or_default();
                code.split(['|', '>', ';']).flat_map(|part| part.split("&&")).collect()
            }
            Some(false) => Vec::new(),
            None => line.split('`').skip(1).step_by(2).collect(),
        };
        for candidate in candidates {
            let words = candidate.trim().trim_start_matches("$ ");
            let words = match words.split_once(' ') {
                // A variable set for one command.
                Some((first, rest)) if first.contains('=') => rest,
                _ => words,
            };
            let words = words.replace("cargo run --release -- ", "mainstay ");
            if words.starts_with("mainstay ") && !words.contains('…') {
                found.push((index + 1, words.trim().to_owned()));
            }
        }
    }
    found
}

fn problem(command: &str) -> Option<String> {
    let words = words(command);
    let error = cli::command().try_get_matches_from(words).err()?;
    match error.kind() {
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => None,
        // A word that stands for a value need not be one (`web=N`), a wrong option is a mistake.
        ErrorKind::ValueValidation => None,
        _ => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// Words as a shell would see them, as far as documents need: quotes, no expansion.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, c) => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_shell_blocks_and_in_text() {
        let text = "use `mainstay up` or\n```sh\nMAINSTAY_TOKEN=x mainstay agent --join URL  # now\ncurl x; mainstay down\n```\n```toml\nmainstay nothing\n```\n";
        let found: Vec<String> = commands(text).into_iter().map(|(_, command)| command).collect();
        assert_eq!(found, ["mainstay up", "mainstay agent --join URL", "mainstay down"]);
        assert_eq!(words("mainstay tokens create \"web 1\""), ["mainstay", "tokens", "create", "web 1"]);
    }
}
