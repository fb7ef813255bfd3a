//! "Did you mean …?": of words that are known, the one that somebody who wrote another most likely meant.

/// The known word nearest to what was written, if it is near enough to be a slip.
pub fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let lower = written.to_ascii_lowercase();
    let allowed = (lower.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| (distance(&lower, word), word))
        .filter(|(d, _)| *d <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// Edits (insert, remove, change, swap of neighbours) between two short words.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let row =
        |i: usize| (0..=b.len()).map(|j| if i == 0 { j } else { i * usize::from(j == 0) }).collect::<Vec<usize>>();
    let mut rows: Vec<Vec<usize>> = (0..=a.len()).map(row).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_word_that_was_meant() {
        let known = ["replicas", "route", "run", "restart", "build", "branch"];
        assert_eq!(nearest("replica", known), Some("replicas"));
        assert_eq!(nearest("Replicsa", known), Some("replicas"));
        assert_eq!(nearest("buidl", known), Some("build"));
        assert_eq!(nearest("kubernetes", known), None);
    }
}
