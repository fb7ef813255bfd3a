//! Finding a text in lines: what `mainstay logs --search` means by "contains".
//!
//! As people search: `timeout` finds `Timeout` and `TIMEOUT`, and `Timeout` finds only itself. Letters
//! outside of ASCII are compared as they are.

#[derive(Debug, Clone)]
pub struct Search {
    text: String,
    any_case: bool,
}

impl Search {
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), any_case: !text.chars().any(|letter| letter.is_ascii_uppercase()) }
    }

    /// What is searched for, as it was typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn is_in(&self, line: &str) -> bool {
        self.find(line).is_some()
    }

    /// A line in pieces, each with whether it is what was searched for.
    pub fn pieces<'a>(&self, line: &'a str) -> Vec<(&'a str, bool)> {
        let mut pieces = Vec::new();
        let mut rest = line;
        while let Some(at) = self.find(rest).filter(|_| !self.text.is_empty()) {
            let (before, from) = rest.split_at(at);
            let (found, after) = from.split_at(self.text.len());
            pieces.extend([(before, false), (found, true)]);
            rest = after;
        }
        pieces.push((rest, false));
        pieces.retain(|(piece, _)| !piece.is_empty());
        pieces
    }

    fn find(&self, line: &str) -> Option<usize> {
        // Changing the case of ASCII moves no byte, so a place in one is a place in the other.
        if self.any_case { line.to_ascii_lowercase().find(&self.text) } else { line.find(&self.text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_small_letters_finds_any_case_and_one_with_a_capital_only_itself() {
        assert!(Search::new("timeout").is_in("TimeOut after 3 s") && !Search::new("TimeOut").is_in("timeout"));
        assert!(Search::new("TimeOut").is_in("a TimeOut"));
        assert!(Search::new("größe").is_in("die größe"), "letters outside of ASCII");
    }

    #[test]
    fn every_place_is_marked_and_nothing_of_the_line_is_lost() {
        let pieces = Search::new("ab").pieces("ab-AB-é-ab");
        assert_eq!(pieces, [("ab", true), ("-", false), ("AB", true), ("-é-", false), ("ab", true)]);
        assert_eq!(Search::new("").pieces("ab"), [("ab", false)]);
        assert_eq!(Search::new("x").pieces("ab"), [("ab", false)]);
    }
}
