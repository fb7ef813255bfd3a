//! How a number of things is said, in messages, on pages and on the command line.
//!
//! "1 instances" tells a reader that nobody read it. Every part of Mainstay says numbers through
//! [`count`], so that there is one place that knows how English makes a plural; docs/messages.md has
//! the rest of how Mainstay speaks.

use std::fmt::Display;

/// `1 instance`, `2 instances`, `0 addresses`, `3 copies`: a number and its noun, given in the singular.
pub fn count<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    if number == N::from(1) { format!("{number} {noun}") } else { format!("{number} {}", plural(noun)) }
}

/// The same for what `len` gives, which is what most numbers come from.
pub fn count_of<T>(things: &[T], noun: &str) -> String {
    count(things.len(), noun)
}

/// Of a noun, or of words that end in one: `uncommitted file` gives `uncommitted files`.
pub fn plural(noun: &str) -> String {
    let before_last = noun.chars().rev().nth(1);
    let hisses = ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end));
    match noun.strip_suffix('y') {
        Some(stem) if !matches!(before_last, Some('a' | 'e' | 'i' | 'o' | 'u')) => format!("{stem}ies"),
        _ if hisses => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_said_in_the_singular_and_any_other_number_in_the_plural() {
        assert_eq!(
            [count(0, "instance"), count(1, "instance"), count(2, "instance")].join(", "),
            "0 instances, 1 instance, 2 instances"
        );
        assert_eq!(count(1_u64, "process"), "1 process");
        assert_eq!(
            [plural("process"), plural("address"), plural("branch")].join(", "),
            "processes, addresses, branches"
        );
        assert_eq!(
            [plural("copy"), plural("key"), plural("uncommitted file")].join(", "),
            "copies, keys, uncommitted files"
        );
        assert_eq!(count_of(&["a"], "line"), "1 line");
    }
}
