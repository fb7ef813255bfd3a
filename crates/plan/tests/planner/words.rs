//! A line of a world script as words, with errors that say where and what was expected.

use api::UnixMillis;

/// Midnight of the day on which every world takes place.
const DAY_MS: i64 = 1_700_006_400_000;

/// The words of one line, taken from the left. A word in double quotes may hold spaces.
pub struct Words {
    at: String,
    line: String,
    words: std::collections::VecDeque<String>,
}

impl Words {
    pub fn of(file: &str, number: usize, line: &str) -> Self {
        let at = format!("{file}:{number}");
        assert!(line.matches('"').count().is_multiple_of(2), "{at}: a quote is not closed: {line}");
        let mut words = std::collections::VecDeque::new();
        for (index, part) in line.split('"').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push_back(part.to_owned()),
            }
        }
        Self { at, line: line.trim().to_owned(), words }
    }

    pub fn fail(&self, what: impl std::fmt::Display) -> ! {
        panic!("{}: {what}\n    {}", self.at, self.line)
    }

    pub fn next(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    pub fn take(&mut self, what: &str) -> String {
        self.next().unwrap_or_else(|| self.fail(format!("{what} is missing at the end of the line")))
    }

    /// A fixed word, for people.
    pub fn expect(&mut self, word: &str) {
        let found = self.take(&format!("`{word}`"));
        if found != word {
            self.fail(format!("`{found}` stands where `{word}` is expected"));
        }
    }

    pub fn eat(&mut self, word: &str) -> bool {
        let there = self.words.front().is_some_and(|next| next == word);
        if there {
            self.words.pop_front();
        }
        there
    }

    pub fn parse<T: std::str::FromStr>(&mut self, what: &str) -> T
    where
        T::Err: std::fmt::Display,
    {
        let word = self.take(what);
        word.parse().unwrap_or_else(|error| self.fail(format!("`{word}` is not {what}: {error}")))
    }

    /// `r2`, `i1`, `s1`: a letter for the noun and a number.
    pub fn name(&mut self, letter: char, noun: &str) -> u64 {
        let word = self.take(&format!("the {noun}, such as `{letter}1`,"));
        match word.strip_prefix(letter).and_then(|digits| digits.parse().ok()) {
            Some(number) => number,
            None => self.fail(format!("`{word}` is not a {noun}; write `{letter}` and a number, such as `{letter}1`")),
        }
    }

    /// `12:00:05`, on the day of all worlds.
    pub fn time(&mut self) -> UnixMillis {
        let word = self.take("a time");
        let parts: Vec<i64> = word.split(':').filter_map(|part| part.parse().ok()).collect();
        match parts[..] {
            [hours, minutes, seconds] => DAY_MS + ((hours * 60 + minutes) * 60 + seconds) * 1_000,
            _ => self.fail(format!("`{word}` is not a time such as 12:00:05")),
        }
    }

    /// `30s`, `5m`
    pub fn duration_ms(&mut self) -> u64 {
        let word = self.take("a duration");
        let (digits, unit) = word.split_at(word.len().saturating_sub(1));
        match (digits.parse::<u64>(), unit) {
            (Ok(count), "s") => count * 1_000,
            (Ok(count), "m") => count * 60_000,
            _ => self.fail(format!("`{word}` is not a duration such as 30s or 5m")),
        }
    }

    pub fn end(mut self) {
        if let Some(rest) = self.next() {
            self.fail(format!("`{rest}` is not expected here"));
        }
    }
}
