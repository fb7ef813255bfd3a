//! Times and lengths of time as people say them.

use api::UnixMillis;

pub fn now_ms() -> UnixMillis {
    jiff::Timestamp::now().as_millisecond()
}

/// `12s ago`, `3m ago`, `5d ago`.
pub fn ago(at_ms: UnixMillis, now_ms: UnixMillis) -> String {
    let seconds = (now_ms - at_ms).max(0) / 1000;
    match seconds {
        0..=1 => "just now".into(),
        2..=119 => format!("{seconds}s ago"),
        120..=7199 => format!("{}m ago", seconds / 60),
        7200..=172_799 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// `in 12s`, `in 3m`, `in 5d`.
pub fn until(at_ms: UnixMillis, now_ms: UnixMillis) -> String {
    let seconds = (at_ms - now_ms).max(0) / 1000;
    match seconds {
        0..=1 => "now".into(),
        2..=119 => format!("in {seconds}s"),
        120..=7199 => format!("in {}m", seconds / 60),
        7200..=172_799 => format!("in {}h", seconds / 3600),
        _ => format!("in {}d", seconds / 86_400),
    }
}

/// `0.4s`, `12.4s`, `3m 07s`, `2h 05m`.
pub fn length(ms: i64) -> String {
    let ms = ms.max(0);
    match ms {
        0..=59_999 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        60_000..=3_599_999 => format!("{}m {:02}s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{}h {:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// Local wall time with the date left out when it is today: `10:22:12`, `2026-11-20 10:22:12`.
pub fn clock(at_ms: UnixMillis, now_ms: UnixMillis) -> String {
    let zone = jiff::tz::TimeZone::system();
    let (Ok(at), Ok(now)) = (jiff::Timestamp::from_millisecond(at_ms), jiff::Timestamp::from_millisecond(now_ms))
    else {
        return at_ms.to_string();
    };
    let (at, now) = (at.to_zoned(zone.clone()), now.to_zoned(zone));
    let format = if at.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    at.strftime(format).to_string()
}

/// A value of clap: `90s`, `5m`, `1h`, in milliseconds.
pub fn parse_length(text: &str) -> Result<u64, String> {
    manifest::parse_duration_ms(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_distances_read_like_a_person_would_say_them() {
        assert_eq!(ago(0, 1_000), "just now");
        assert_eq!(ago(0, 90_000), "90s ago");
        assert_eq!(ago(0, 3_600_000), "60m ago");
        assert_eq!(ago(5_000, 0), "just now");
        assert_eq!(length(450), "0.4s");
        assert_eq!(length(187_000), "3m 07s");
        assert_eq!(length(7_500_000), "2h 05m");
    }
}
