//! Counts of durations in cells that are one percent wide, so that a long run costs no more than a short one.

const CELLS_PER_DOUBLING: u32 = 64;
const DOUBLINGS: u32 = 40;

/// Durations in nanoseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    cells: Vec<u64>,
    count: u64,
    most: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { cells: vec![0; (CELLS_PER_DOUBLING * DOUBLINGS) as usize], count: 0, most: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, nanoseconds: u64) {
        self.cells[cell(nanoseconds)] += 1;
        self.count += 1;
        self.most = self.most.max(nanoseconds);
    }

    /// The value that this share of all values does not exceed, in microseconds.
    pub fn quantile_micros(&self, share: f64) -> f64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (cell, count) in self.cells.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return (middle(cell).min(self.most as f64)) / 1000.0;
            }
        }
        self.most as f64 / 1000.0
    }

    pub fn most_micros(&self) -> f64 {
        self.most as f64 / 1000.0
    }
}

fn cell(value: u64) -> usize {
    let least = u64::from(CELLS_PER_DOUBLING);
    if value < least {
        return value as usize;
    }
    let doubling = value.ilog2() - CELLS_PER_DOUBLING.ilog2();
    let within = (value >> doubling) - least;
    (((doubling + 1) * CELLS_PER_DOUBLING) as usize + within as usize)
        .min((CELLS_PER_DOUBLING * DOUBLINGS) as usize - 1)
}

/// The value in the middle of a cell.
fn middle(cell: usize) -> f64 {
    let (doubling, within) = (cell as u32 / CELLS_PER_DOUBLING, cell as u32 % CELLS_PER_DOUBLING);
    if doubling == 0 {
        return f64::from(within);
    }
    (f64::from(CELLS_PER_DOUBLING + within) + 0.5) * 2f64.powi(doubling as i32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_two_percent_at_any_magnitude() {
        for factor in [1u64, 1_000, 1_000_000] {
            let mut histogram = Histogram::default();
            (1..=10_000u64).for_each(|value| histogram.add(value * factor));
            for share in [0.01, 0.5, 0.99, 0.999] {
                let exact = share * 10_000.0 * factor as f64 / 1000.0;
                let found = histogram.quantile_micros(share);
                assert!((found / exact - 1.0).abs() < 0.02, "{share} of {factor}: {found} instead of {exact}");
            }
            assert_eq!(histogram.most_micros(), 10_000.0 * factor as f64 / 1000.0);
        }
    }
}
