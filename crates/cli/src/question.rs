//! Asking before something that cannot be undone.
//!
//! A question is only for a person at a terminal; everywhere else a flag says that it is meant, and without the flag
//! nothing happens. Just pressing return means no.

use crate::exit::Failure;
use crate::printer::Printer;
use std::io::{BufRead, IsTerminal, Write};

/// Goes on if a person agrees. `consequence` is what cannot be undone: `removing a stack stops its services`.
pub fn agreed(printer: &Printer, question: &str, consequence: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if printer.json() || !stdin.is_terminal() {
        let failure = Failure::usage(format!("{consequence}, and nobody is here to be asked"));
        return Err(failure.help("say that it is meant: --yes"));
    }
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    read.map_err(|error| Failure::general(format!("cannot read the answer: {error}")))?;
    if !answer.ends_with('\n') {
        // Ctrl-D leaves the cursor behind the question.
        let _ = writeln!(err);
    }
    if is_yes(&answer) { Ok(()) } else { Err(Failure::general("nothing was changed: you did not agree")) }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(["y\n", "Yes\n", " YES "].iter().all(|answer| super::is_yes(answer)));
        assert!(!["", "\n", "n\n", "yep\n", "no\n"].iter().any(|answer| super::is_yes(answer)));
    }
}
