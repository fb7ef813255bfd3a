//! The wall clock, in the one unit that the api speaks. It is read here and passed down, so that
//! what decides (the planner, backoff, transitions) can be tested with any time.

use api::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; 0 on a machine whose clock lies before it.
pub fn now_ms() -> UnixMillis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
