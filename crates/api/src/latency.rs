//! How long answers took, in a form that can be added up.
//!
//! A percentile of a day is not the average of the percentiles of its hours, so what travels and is kept is a
//! count per span of time. The spans are fixed for all time and the same everywhere (four to each doubling), so
//! counts of several gateways, hours and versions are added cell by cell, and a percentile read from the sum is
//! off by an eighth of its value at the most. Empty cells are left out: a service that answers evenly has ten.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything faster than this is one cell.
const FIRST_MICROS: u64 = 1 << FIRST_BITS;
const FIRST_BITS: u32 = 6;
const CELLS_PER_DOUBLING_BITS: u32 = 2;

/// The last one has no end: answers after more than two minutes.
pub const LATENCY_CELLS: usize = 86;

/// In which cell a time is counted.
pub fn latency_cell(micros: u64) -> usize {
    if micros < FIRST_MICROS {
        return 0;
    }
    let bits = micros.ilog2();
    let within = (micros >> (bits - CELLS_PER_DOUBLING_BITS)) & ((1 << CELLS_PER_DOUBLING_BITS) - 1);
    let cell = 1 + (((bits - FIRST_BITS) as usize) << CELLS_PER_DOUBLING_BITS) + within as usize;
    cell.min(LATENCY_CELLS - 1)
}

/// The shortest time that a cell counts.
pub fn latency_cell_begin_micros(cell: usize) -> u64 {
    let Some(after_first) = cell.checked_sub(1) else { return 0 };
    let doublings = FIRST_BITS + u32::try_from(after_first >> CELLS_PER_DOUBLING_BITS).unwrap_or(u32::MAX).min(50);
    let within = (after_first & ((1 << CELLS_PER_DOUBLING_BITS) - 1)) as u64;
    ((1 << CELLS_PER_DOUBLING_BITS) + within) << (doublings - CELLS_PER_DOUBLING_BITS)
}

/// How many answers took how long: pairs of a cell and its count, empty cells left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u8, u64)>", into = "Vec<(u8, u64)>")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = Vec<Vec<u64>>))]
pub struct LatencyHistogram(BTreeMap<u8, u64>);

impl From<Vec<(u8, u64)>> for LatencyHistogram {
    fn from(pairs: Vec<(u8, u64)>) -> Self {
        let mut histogram = Self::default();
        for (cell, count) in pairs {
            histogram.count(usize::from(cell), count);
        }
        histogram
    }
}

impl From<LatencyHistogram> for Vec<(u8, u64)> {
    fn from(histogram: LatencyHistogram) -> Self {
        histogram.0.into_iter().collect()
    }
}

impl LatencyHistogram {
    /// Counts so many more in a cell. A cell from a version that has more of them is the last one here.
    pub fn count(&mut self, cell: usize, count: u64) {
        if count > 0 {
            let cell = u8::try_from(cell.min(LATENCY_CELLS - 1)).unwrap_or(u8::MAX);
            let kept = self.0.entry(cell).or_default();
            *kept = kept.saturating_add(count);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cells that are not empty, with their counts, the fastest first.
    pub fn cells(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().map(|(cell, count)| (usize::from(*cell), *count))
    }

    pub fn of_cell(&self, cell: usize) -> u64 {
        u8::try_from(cell).ok().and_then(|cell| self.0.get(&cell)).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Self) {
        for (cell, count) in other.cells() {
            self.count(cell, count);
        }
    }

    /// The time within which this part (0 to 1) of all answers came, in milliseconds; `None` of no answer.
    pub fn quantile_ms(&self, part: f64) -> Option<f64> {
        let total: u64 = self.0.values().fold(0, |sum, count| sum.saturating_add(*count));
        if total == 0 {
            return None;
        }
        let wanted = part.clamp(0.0, 1.0) * total as f64;
        let mut before = 0.0;
        for (cell, count) in self.cells() {
            let count = count as f64;
            if before + count >= wanted {
                let begin = latency_cell_begin_micros(cell) as f64;
                // Of the cell without an end nothing is known but where it begins.
                let end = if cell + 1 < LATENCY_CELLS { latency_cell_begin_micros(cell + 1) as f64 } else { begin };
                return Some((begin + (end - begin) * ((wanted - before) / count)) / 1000.0);
            }
            before += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_one_cell_that_begins_at_or_before_it() {
        for micros in (0..30_000).chain((0..64).map(|bits| 1 << bits)).chain([u64::MAX]) {
            let cell = latency_cell(micros);
            assert!(latency_cell_begin_micros(cell) <= micros, "{micros} µs in cell {cell}");
            let last = cell + 1 == LATENCY_CELLS;
            assert!(last || latency_cell_begin_micros(cell + 1) > micros, "{micros} µs in cell {cell}");
        }
        assert!(latency_cell_begin_micros(LATENCY_CELLS - 1) > 120_000_000);
    }

    #[test]
    fn a_percentile_is_off_by_an_eighth_at_the_most_and_adding_up_changes_nothing() {
        let times: Vec<u64> = (1..=2_000).map(|n: u64| 70 * n + n * n / 7).collect();
        let (mut all, mut some) = (LatencyHistogram::default(), LatencyHistogram::default());
        for (n, micros) in times.iter().enumerate() {
            if n % 3 == 0 { &mut all } else { &mut some }.count(latency_cell(*micros), 1);
        }
        all.add(&some);
        for part in [0.01, 0.5, 0.9, 0.99] {
            let true_ms = times[(part * times.len() as f64) as usize - 1] as f64 / 1000.0;
            let told_ms = all.quantile_ms(part).unwrap();
            assert!((told_ms - true_ms).abs() <= true_ms / 8.0, "{part}: {told_ms} ms instead of {true_ms} ms");
        }
        assert_eq!(LatencyHistogram::default().quantile_ms(0.5), None);
    }

    #[test]
    fn it_travels_as_pairs_and_takes_what_a_newer_version_counts() {
        let mut histogram = LatencyHistogram::default();
        histogram.count(3, 7);
        histogram.count(40, 1);
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(text, "[[3,7],[40,1]]");
        assert_eq!(serde_json::from_str::<LatencyHistogram>(&text).unwrap(), histogram);
        let newer: LatencyHistogram = serde_json::from_str("[[200,2]]").unwrap();
        assert_eq!(newer.of_cell(LATENCY_CELLS - 1), 2);
    }
}
