//! The schema, step by step. A migration that was released is never changed: its checksum is in
//! every database.
//!
//! They are named here instead of read by `sqlx::migrate!`: that macro would have both database
//! drivers compiled a second time, for the compiler's own use.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Version, description, SQL; oldest first.
const ALL: [(i64, &str, &str); 9] = [
    (1, "foundation", include_str!("../migrations/0001_foundation.sql")),
    (2, "server numbers", include_str!("../migrations/0002_server_numbers.sql")),
    (3, "instance indexes", include_str!("../migrations/0003_instance_indexes.sql")),
    (4, "idle services", include_str!("../migrations/0004_idle_services.sql")),
    (5, "metrics", include_str!("../migrations/0005_metrics.sql")),
    (6, "event filters", include_str!("../migrations/0006_event_filters.sql")),
    (7, "fleet", include_str!("../migrations/0007_fleet.sql")),
    (8, "certificates", include_str!("../migrations/0008_certificates.sql")),
    (9, "server addresses", include_str!("../migrations/0009_server_addresses.sql")),
];

pub const NEWEST: i64 = ALL[ALL.len() - 1].0;

pub fn migrator() -> Migrator {
    migrator_up_to(NEWEST)
}

/// The schema as it was at a version.
pub fn migrator_up_to(newest: i64) -> Migrator {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(ALL.into_iter().filter(|(version, _, _)| *version <= newest).map(migration).collect())
}
