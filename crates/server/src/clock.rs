//! The one place that reads the clock.

use api::UnixMillis;

/// Now.
pub fn now_ms() -> UnixMillis {
    jiff::Timestamp::now().as_millisecond()
}
