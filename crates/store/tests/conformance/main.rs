//! One suite, every database. See `database.rs` for how SQLite and PostgreSQL are provided.
