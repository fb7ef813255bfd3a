//! Durations and sizes as people write them.

/// `"30s"`, `"1m30s"` to milliseconds. The error says what is wrong, not where.
pub fn parse_duration_ms(text: &str) -> Result<u64, &'static str> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty");
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits == 0 {
            return Err("a number must stand before each unit");
        }
        let number: u64 = rest[..digits].parse().map_err(|_| "the number is too large")?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err("it has no unit"),
            _ => return Err("the unit is not one of ms, s, m, h and d"),
        };
        rest = &rest[letters..];
        total = number.checked_mul(unit_ms).and_then(|ms| total.checked_add(ms)).ok_or("the number is too large")?;
    }
    Ok(total)
}

/// `"512M"` to bytes, in steps of 1024; `MB` and `MiB` are read as the same.
pub fn parse_size_bytes(text: &str) -> Result<u64, &'static str> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if digits == 0 {
        return Err("a whole number must stand before the unit");
    }
    let number: u64 = text[..digits].parse().map_err(|_| "the number is too large")?;
    let shift = match text[digits..].trim_start() {
        "" => return Err("it has no unit"),
        "B" => 0,
        "K" | "KB" | "KiB" | "k" => 10,
        "M" | "MB" | "MiB" => 20,
        "G" | "GB" | "GiB" => 30,
        "T" | "TB" | "TiB" => 40,
        _ => return Err("the unit is not one of B, K, M, G and T"),
    };
    number.checked_mul(1 << shift).ok_or("the number is too large")
}

/// Milliseconds in the shortest form that [`parse_duration_ms`] reads back.
pub fn duration_text(ms: u64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let mut rest = ms;
    let mut out = String::new();
    for (unit_ms, unit) in units {
        if rest >= unit_ms {
            out.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    out
}

/// Bytes with the largest unit that divides them.
pub fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_without_unit_or_with_a_wrong_one_are_refused() {
        for bad in ["", "30", "s", "30x", "-1s", "1.5s", "99999999999999999999s", "184467440737095516d", "1m 30s"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad:?} was accepted");
        }
        for bad in ["", "512", "M", "512X", "-1M", "1.5G", "99999999999999999999M", "18014398509481984K"] {
            assert!(parse_size_bytes(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(parse_duration_ms("1m30s"), Ok(90_000));
        assert_eq!(parse_size_bytes("512M"), Ok(512 << 20));
    }

    proptest! {
        #[test]
        fn a_duration_and_a_size_survive_their_text(ms in 0..=u32::MAX as u64, bytes in 0..=u32::MAX as u64) {
            prop_assert_eq!(parse_duration_ms(&duration_text(ms)), Ok(ms));
            prop_assert_eq!(parse_size_bytes(&size_text(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in ".{0,40}") {
            let _ = parse_duration_ms(&text);
            let _ = parse_size_bytes(&text);
        }
    }
}
