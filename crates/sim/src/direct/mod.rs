//! SQLite without a thread of its own.
//!
//! sqlx gives every SQLite connection a thread and asks it for each statement. Under a clock that stands
//! still nobody gains by that, and much of a simulation's time went by in waking and waiting. This driver
//! stands below the same `Any` connections and pools: the control plane's store, its statements and its
//! transactions are what people run, and SQLite itself is too. What is left out is sqlx's way from a
//! statement to SQLite, so that is not simulated; the store's own tests go through it.
//!
//! The databases are in memory, each at the path where the file would be. One outlives its connections, as a
//! file does, and holds what was committed. So what a file adds is not simulated (its log, its locks, a power
//! cut): the store's tests and those with real processes do that. In return a process that is doubled has two
//! databases.
//!
//! The connections of one database share one handle of SQLite, because pages, schema and prepared statements
//! are then read once. Nobody sees by it what another has not committed: while one is within a transaction,
//! every other is refused.
//!
//! Deliberately absent: whatever the store does not use. Nobody asks this driver for its types, so there are
//! none ([`formal`]).

mod connection;
mod formal;
mod sqlite;

pub use connection::{copy, forget};
use formal::Direct;
use sqlx_core::any::driver::{AnyDriver, install_drivers};
use std::sync::Once;

static DRIVERS: [AnyDriver; 1] = [AnyDriver::without_migrate::<Direct>()];

/// From here on every SQLite database of this process is opened by this driver.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        sqlite::count_no_memory();
        install_drivers(&DRIVERS).expect("a simulation opens no database before this");
        store::drivers_are_installed();
    });
}
