//! The manifest at its boundary: texts in, a stack or complaints out.

#![allow(clippy::unwrap_used)] // The helpers of tests, too.

mod bad_input;
mod detection;
mod good_input;
