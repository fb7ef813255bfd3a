//! Times, lengths of time and sizes as people read them.
//!
//! A page says "12 s ago" and holds the exact moment beside it: in `datetime` for programs, in
//! `title` for the mouse. The script re-reads `data-relative`, `data-since` and `data-until` once a
//! second; without it the text is right for the moment at which the page was made.

use api::UnixMillis;
use maud::{Markup, html};

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// `2026-11-21 10:16:26 UTC`; a time outside the calendar is shown as its number.
pub fn exact_text(at_ms: UnixMillis) -> String {
    match jiff::Timestamp::from_millisecond(at_ms) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => format!("{at_ms} ms"),
    }
}

/// The machine-readable form, with milliseconds.
fn datetime(at_ms: UnixMillis) -> String {
    match jiff::Timestamp::from_millisecond(at_ms) {
        Ok(at) => at.to_string(),
        Err(_) => at_ms.to_string(),
    }
}

/// `10:16:26.123`, for log lines.
pub fn clock_text(at_ms: UnixMillis) -> String {
    match jiff::Timestamp::from_millisecond(at_ms) {
        Ok(at) => format!("{}.{:03}", at.strftime("%H:%M:%S"), at_ms.rem_euclid(SECOND_MS)),
        Err(_) => String::new(),
    }
}

/// `just now`, `12 s ago`, `in 3 min`. The same rules as `relative` in `live.js`.
pub fn relative_text(at_ms: UnixMillis, now_ms: UnixMillis) -> String {
    let distance = now_ms.saturating_sub(at_ms);
    if (-2 * SECOND_MS..5 * SECOND_MS).contains(&distance) {
        return "just now".into();
    }
    let size = distance.saturating_abs();
    let text = match size {
        s if s < MINUTE_MS => format!("{} s", s / SECOND_MS),
        s if s < HOUR_MS => format!("{} min", s / MINUTE_MS),
        s if s < DAY_MS => format!("{} h", s / HOUR_MS),
        s => format!("{} d", s / DAY_MS),
    };
    if distance < 0 { format!("in {text}") } else { format!("{text} ago") }
}

/// A moment, as its distance from now.
pub fn relative(at_ms: UnixMillis, now_ms: UnixMillis) -> Markup {
    html! {
        time datetime=(datetime(at_ms)) title=(exact_text(at_ms)) data-relative=(at_ms) { (relative_text(at_ms, now_ms)) }
    }
}

/// `420 ms`, `3.2 s`, `1 min 12 s`, `2 h 3 min`. The same rules as `duration` in `live.js`.
pub fn duration_text(length_ms: i64) -> String {
    let length = length_ms.max(0);
    match length {
        l if l < SECOND_MS => format!("{l} ms"),
        l if l < 10 * SECOND_MS => format!("{}.{} s", l / SECOND_MS, l % SECOND_MS / 100),
        l if l < MINUTE_MS => format!("{} s", l / SECOND_MS),
        l if l < HOUR_MS => format!("{} min {} s", l / MINUTE_MS, l % MINUTE_MS / SECOND_MS),
        l if l < DAY_MS => format!("{} h {} min", l / HOUR_MS, l % HOUR_MS / MINUTE_MS),
        l => format!("{} d {} h", l / DAY_MS, l % DAY_MS / HOUR_MS),
    }
}

/// How long something has lasted that still goes on: the script counts it up.
pub fn since(from_ms: UnixMillis, now_ms: UnixMillis) -> Markup {
    html! { span.counting data-since=(from_ms) { (duration_text(now_ms.saturating_sub(from_ms))) } }
}

/// How long it is until a moment: the script counts it down.
pub fn until(to_ms: UnixMillis, now_ms: UnixMillis) -> Markup {
    html! { span.counting data-until=(to_ms) { (duration_text(to_ms.saturating_sub(now_ms))) } }
}

/// `512 B`, `1.5 KiB`, `2.0 GiB`.
pub fn bytes_text(size_bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = size_bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{size_bytes} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_by_its_distance_and_holds_the_exact_moment() {
        let page = relative(1_700_000_000_000, 1_700_000_090_000).into_string();
        assert!(page.contains(">1 min ago<"), "{page}");
        assert!(page.contains("title=\"2023-11-14 22:13:20 UTC\""), "{page}");
        assert!(page.contains("datetime=\"2023-11-14T22:13:20Z\""), "{page}");
    }

    #[test]
    fn distances_are_told_in_the_largest_unit_that_fits() {
        let cases = [
            (0, "just now"),
            (4_999, "just now"),
            (12_000, "12 s ago"),
            (3_600_000, "1 h ago"),
            (200_000_000, "2 d ago"),
            (-60_000, "in 1 min"),
        ];
        for (distance, text) in cases {
            assert_eq!(relative_text(1_000_000_000 - distance, 1_000_000_000), text);
        }
    }

    #[test]
    fn lengths_are_told_with_the_precision_that_matters() {
        let cases = [
            (-5, "0 ms"),
            (420, "420 ms"),
            (3_250, "3.2 s"),
            (59_999, "59 s"),
            (72_000, "1 min 12 s"),
            (7_380_000, "2 h 3 min"),
            (100_000_000, "1 d 3 h"),
        ];
        for (length, text) in cases {
            assert_eq!(duration_text(length), text);
        }
    }

    #[test]
    fn a_time_outside_the_calendar_does_not_break_the_page() {
        assert!(relative(i64::MAX, 0).into_string().contains("<time"));
        assert!(relative(i64::MIN, i64::MAX).into_string().contains("<time"));
    }

    #[test]
    fn sizes_are_told_in_the_largest_unit_that_fits() {
        assert_eq!(bytes_text(512), "512 B");
        assert_eq!(bytes_text(1_536), "1.5 KiB");
        assert_eq!(bytes_text(2 * 1024 * 1024 * 1024), "2.0 GiB");
    }
}
