//! Sentences that fit the terminal.
//!
//! A terminal breaks a long line in the middle of a word. Sentences are broken between words here, with what follows
//! under what they begin with; colours take no room. What stands between backticks is a command or a name that
//! somebody may copy: it is never broken, and goes to the next line whole. Where nobody looks on (a pipe, a file)
//! there is no width, and a line is a line.
//!
//! Only sentences are for this. Lines of logs and commands to be copied stay as they are, because a break that is
//! written is copied with them.

use unicode_width::UnicodeWidthChar;

/// Narrower than this there is no point in hanging lines under others.
const HANGING_WIDTH_MIN: usize = 40;

/// The text in lines of at most so many columns; each line after the first is indented.
pub fn wrapped(text: &str, width: Option<usize>, indent: usize) -> String {
    let Some(width) = width else { return text.to_owned() };
    let indent = if width < HANGING_WIDTH_MIN { 0 } else { indent };
    let lines: Vec<String> = text.split('\n').map(|line| line_wrapped(line, width, indent)).collect();
    lines.join("\n")
}

fn line_wrapped(line: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for (place, part) in parts(line).into_iter().enumerate() {
        let needed = columns(part);
        let gap = usize::from(place > 0);
        if place > 0 && used + gap + needed > width && used > indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else if gap > 0 {
            out.push(' ');
            used += gap;
        }
        out.push_str(part);
        used += needed;
    }
    out
}

/// Words, and what stands between backticks with whatever touches it. Spaces before the first belong to it.
fn parts(line: &str) -> Vec<&str> {
    let start = line.len() - line.trim_start_matches(' ').len();
    let mut parts = Vec::new();
    let (mut begun, mut quoted) = (0, false);
    for (at, letter) in line.char_indices().filter(|(at, _)| *at >= start) {
        match letter {
            '`' => quoted = !quoted,
            ' ' if !quoted => {
                parts.push(&line[begun..at]);
                begun = at + 1;
            }
            _ => {}
        }
    }
    // A backtick alone quotes nothing.
    if quoted {
        parts.extend(line[begun..].split(' '));
    } else {
        parts.push(&line[begun..]);
    }
    parts
}

/// How wide a text is on the terminal, without the marks of colours.
fn columns(text: &str) -> usize {
    let mut marked = false;
    let mut columns = 0;
    for letter in text.chars() {
        match letter {
            '\x1b' => marked = true,
            'm' if marked => marked = false,
            _ if marked => {}
            _ => columns += letter.width().unwrap_or(0),
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_breaks_between_words_and_hangs_under_its_beginning() {
        let text = "! git             2.47.3, without git-lfs: repositories that keep files in Git LFS are refused";
        let expected = "! git             2.47.3, without git-lfs: repositories that keep files in Git\n                  LFS are refused";
        assert_eq!(wrapped(text, Some(80), 18), expected);
        assert_eq!(wrapped(text, None, 18), text);
        assert_eq!(wrapped("short", Some(80), 18), "short");
    }

    #[test]
    fn what_is_between_backticks_is_never_broken() {
        let text = "mend it, commit and deploy again; all of its log: `mainstay logs web --deployment dep_1`";
        let expected = "mend it, commit and deploy again; all of its log:\n  `mainstay logs web --deployment dep_1`";
        assert_eq!(wrapped(text, Some(60), 2), expected);
        let longer = format!("see `{}`", "x y ".repeat(20));
        assert!(wrapped(&longer, Some(40), 2).ends_with(&longer[4..]));
        assert_eq!(wrapped("it's a ` alone in some words", Some(12), 0), "it's a `\nalone in\nsome words");
    }

    #[test]
    fn colours_take_no_room_and_lines_stay_lines() {
        let text = "\x1b[1;31merror:\x1b[0m one two\nthree";
        assert_eq!(wrapped(text, Some(14), 0), text);
        assert_eq!(wrapped("  four five six", Some(12), 2), "  four five\nsix");
        for width in 1..60 {
            let plain = "some words and anotherverylongword and more of them at the end of it";
            let lines = wrapped(plain, Some(width), 4);
            let words: Vec<&str> = lines.split_whitespace().collect();
            assert_eq!(words.join(" "), plain, "{width}");
        }
    }
}
