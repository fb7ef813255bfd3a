//! What was used during some time: sums, and nothing but sums.

use api::latency::LatencyHistogram;

/// What is summed up of a service. The order is that of the store; new ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceFigure {
    CpuMs,
    /// Memory in kibibytes, times seconds.
    MemoryKibSeconds,
    /// Instances that ran, times milliseconds.
    InstanceMs,
    Requests,
    ClientErrors,
    ServerErrors,
    SentBytes,
    Restarts,
}

/// What is summed up of a server. The order is that of the store; new ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFigure {
    CpuBusyMs,
    /// Busy and idle, of all its processors.
    CpuTotalMs,
    /// Processors, times milliseconds.
    CoreMs,
    /// The load of a minute in thousandths, times seconds.
    LoadMilliSeconds,
    MemoryUsedKibSeconds,
    MemoryTotalKibSeconds,
    DiskUsedKibSeconds,
    DiskTotalKibSeconds,
}

/// As many figures as the larger of the two has.
const FIGURES: usize = 8;

/// Sums over some time, of a service or of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Of how much of the time something is known.
    pub covered_ms: u64,
    figures: [u64; FIGURES],
    pub latency: LatencyHistogram,
}

/// Which figure.
pub trait Figure: Copy {
    fn position(self) -> usize;
}

impl Figure for ServiceFigure {
    fn position(self) -> usize {
        self as usize
    }
}

impl Figure for ServerFigure {
    fn position(self) -> usize {
        self as usize
    }
}

impl Sums {
    /// Of so much time it is known that nothing was used, so far.
    pub fn covering(covered_ms: u64) -> Self {
        Self { covered_ms, ..Self::default() }
    }

    pub fn get(&self, figure: impl Figure) -> u64 {
        self.figures[figure.position()]
    }

    pub fn increase(&mut self, figure: impl Figure, by: u64) {
        let sum = &mut self.figures[figure.position()];
        *sum = sum.saturating_add(by);
    }

    /// Another time, or more of the same: what is summed up and what it covers.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.figures.iter_mut().zip(other.figures) {
            *sum = sum.saturating_add(more);
        }
        self.latency.add(&other.latency);
        self.covered_ms = self.covered_ms.saturating_add(other.covered_ms);
    }

    /// What falls between two moments if all of it is spread evenly over the whole. Shares of neighbouring pieces
    /// add up to exactly the whole, because each is the difference of two rounded sums.
    pub fn share(&self, from: u64, to: u64, whole: u64) -> Self {
        let part = |sum: u64| -> u64 {
            let until = |at: u64| u128::from(sum) * u128::from(at.min(whole)) / u128::from(whole.max(1));
            u64::try_from(until(to).saturating_sub(until(from))).unwrap_or(u64::MAX)
        };
        let mut latency = LatencyHistogram::default();
        for (cell, count) in self.latency.cells() {
            latency.count(cell, part(count));
        }
        Self { covered_ms: part(self.covered_ms), figures: self.figures.map(part), latency }
    }

    /// As a row of numbers for the store: when, of how much, the figures, and pairs of the latency. Zeros at the
    /// end of the figures are left out where no pairs follow.
    pub fn to_numbers(&self, offset: u64) -> Vec<u64> {
        let mut numbers = vec![offset, self.covered_ms];
        numbers.extend(self.figures);
        if self.latency.is_empty() {
            while numbers.len() > 2 && numbers.last() == Some(&0) {
                numbers.pop();
            }
        } else {
            numbers.extend(self.latency.cells().flat_map(|(cell, count)| [cell as u64, count]));
        }
        numbers
    }

    /// The offset and the sums; `None` of what is no such row.
    pub fn of_numbers(numbers: &[u64]) -> Option<(u64, Self)> {
        let [offset, covered_ms, rest @ ..] = numbers else { return None };
        let mut sums = Self::covering(*covered_ms);
        for (sum, number) in sums.figures.iter_mut().zip(rest) {
            *sum = *number;
        }
        for pair in rest.get(FIGURES..).unwrap_or_default().chunks_exact(2) {
            sums.latency.count(usize::try_from(pair[0]).unwrap_or(usize::MAX), pair[1]);
        }
        Some((*offset, sums))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn sums()(
            covered_ms in 0..100_000_u64,
            figures in prop::array::uniform8(0..u64::MAX / 8),
            pairs in prop::collection::vec((0..86_u8, 0..1_000_000_u64), 0..6),
        ) -> Sums {
            Sums { covered_ms, figures, latency: pairs.into() }
        }
    }

    proptest! {
        #[test]
        fn shares_of_neighbouring_pieces_add_up_to_the_whole(all in sums(), mut cuts in prop::collection::vec(0..60_000_u64, 0..5)) {
            cuts.extend([0, 60_000]);
            cuts.sort_unstable();
            let mut together = Sums::default();
            for pair in cuts.windows(2) {
                together.add(&all.share(pair[0], pair[1], 60_000));
            }
            prop_assert_eq!(together, all);
        }

        #[test]
        fn what_is_written_is_read_again(all in sums(), offset in 0..100_u64) {
            let numbers = all.to_numbers(offset);
            prop_assert_eq!(Sums::of_numbers(&numbers), Some((offset, all)));
        }
    }

    #[test]
    fn a_quiet_point_takes_few_numbers_and_what_is_no_row_is_none() {
        let mut quiet = Sums::covering(30_000);
        quiet.increase(ServiceFigure::CpuMs, 12);
        assert_eq!(quiet.to_numbers(3), [3, 30_000, 12]);
        assert_eq!(Sums::of_numbers(&[3]), None);
    }
}
