//! When a disk counts as full: some time before it is.
//!
//! A disk that is full to the last byte fails whoever writes next: a database in the middle of a
//! transaction, a service that keeps an upload. So a part is kept in reserve for what runs already, and
//! what is new is refused once only the reserve is left. Both the control plane and the agents do that,
//! each on its own disk, by the same arithmetic.

const MIB: u64 = 1024 * 1024;
/// On a disk of middle size more than 5 %; on a small one that would be all of it.
const RESERVE_AT_LEAST_BYTES: u64 = 256 * MIB;
/// On a large disk 5 % would be wasteful.
const RESERVE_AT_MOST_BYTES: u64 = 2048 * MIB;

/// Of one file system; all zero where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub available_bytes: u64,
}

impl Space {
    /// As file systems count: in blocks, of which some are free for everybody.
    pub fn of_blocks(total: u64, available: u64, block_bytes: u64) -> Self {
        Self { total_bytes: total.saturating_mul(block_bytes), available_bytes: available.saturating_mul(block_bytes) }
    }
}

/// How much is left alone: what was wished, or 5 % between 256 MiB and 2 GiB, but never more than an eighth
/// of the disk.
pub fn reserve_bytes(total_bytes: u64, wished_bytes: Option<u64>) -> u64 {
    let usual = (total_bytes / 20).clamp(RESERVE_AT_LEAST_BYTES, RESERVE_AT_MOST_BYTES).min(total_bytes / 8);
    wished_bytes.unwrap_or(usual)
}

/// Whether only the reserve is left. Once it was so, a little more than the reserve has to be free again:
/// a disk that fills up and is tidied at the same pace must not be news every second.
pub fn is_low(space: Space, reserve_bytes: u64, was_low: bool) -> bool {
    let wanted = if was_low { reserve_bytes.saturating_add(reserve_bytes / 10) } else { reserve_bytes };
    space.total_bytes > 0 && space.available_bytes < wanted
}

/// `less than 8 MiB of 64 MiB are free under /var/lib/mainstay, which are kept for what runs already`: the same
/// words as long as it lasts, however much is free at the moment.
pub fn why_low(total_bytes: u64, reserve_bytes: u64, place: &str) -> String {
    let (reserve, total) = (size(reserve_bytes), size(total_bytes));
    format!("less than {reserve} of {total} are free under {place}, which are kept for what runs already")
}

fn size(bytes: u64) -> String {
    match bytes {
        0..MIB => format!("{} KiB", bytes / 1024),
        _ if bytes < 10_240 * MIB => format!("{} MiB", bytes / MIB),
        _ => format!("{} GiB", bytes / (1024 * MIB)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_fits_the_size_of_the_disk_unless_another_is_wished() {
        let of = |total_mib: u64| reserve_bytes(total_mib * MIB, None) / MIB;
        assert_eq!([64, 1_000, 4_000, 20_000, 1_000_000].map(of), [8, 125, 256, 1_000, 2_048]);
        assert_eq!(reserve_bytes(64 * MIB, Some(0)), 0);
        assert_eq!(reserve_bytes(0, None), 0);
    }

    #[test]
    fn a_disk_is_low_below_its_reserve_and_well_again_a_little_above_it() {
        let space = |available_bytes| Space { total_bytes: 1_000, available_bytes };
        assert!(!is_low(space(100), 100, false) && is_low(space(99), 100, false));
        assert!(is_low(space(109), 100, true) && !is_low(space(110), 100, true));
        assert!(!is_low(space(0), 0, true), "no reserve, no refusal");
        assert!(!is_low(Space::default(), 100, false), "what is not known is not full");
    }

    #[test]
    fn the_words_are_for_people() {
        let text = why_low(64 * MIB, 8 * MIB, "/data");
        assert_eq!(text, "less than 8 MiB of 64 MiB are free under /data, which are kept for what runs already");
    }
}
