//! Placeholder while the driver lands.
