//! Values of repeated runs, and what is said of them: the median, and how far they lay apart.

use serde::{Deserialize, Serialize};

/// What one program reached in each run, in the order of the runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// `None` when nothing was measured.
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(sorted[middle]),
            _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        }
    }

    /// The least and the most.
    pub fn range(&self) -> Option<(f64, f64)> {
        let sorted = self.sorted();
        Some((*sorted.first()?, *sorted.last()?))
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_the_two_in_the_middle() {
        let of = |values: &[f64]| values.iter().copied().collect::<Samples>();
        assert_eq!(of(&[9.0, 1.0, 5.0]).median(), Some(5.0));
        assert_eq!(of(&[9.0, 1.0, 5.0, 7.0]).median(), Some(6.0));
        assert_eq!(of(&[9.0, 1.0, 5.0]).range(), Some((1.0, 9.0)));
        assert_eq!((of(&[]).median(), of(&[]).range()), (None, None));
    }
}
