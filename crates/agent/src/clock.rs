//! The wall clock, in the one unit that the api speaks. It is read here and passed down, so that
//! what decides (the planner, backoff, transitions) can be tested with any time.

use api::UnixMillis;

/// Milliseconds since the Unix epoch; 0 on a machine whose clock lies before it.
pub fn now_ms() -> UnixMillis {
    ambient::now_ms()
}
