//! Automatic HTTPS: certificates from an authority that speaks ACME (RFC 8555).
//!
//! ```text
//! routes ──► wanted hosts ──► plan::certificates ──► a batch of orders
//!                                                       │
//!     challenges ──► rows ──► every desired state ──► gateways ──► reports say that they answer
//!                                                       │
//!     authority asks them, and gives certificates ──► rows (keys sealed) ──► every desired state
//! ```
//!
//! Any server answers for any host, because the authority may come to any of them: so it is called only
//! when all that are online have said that they know the answer. Orders run in batches, since each batch
//! costs every server two new documents, whatever it holds.
//!
//! State is in rows: that an order begins is written before it does, how it ended after. A control plane
//! that is killed in between leaves an order that nobody finishes (authorities drop those in days) and
//! challenges that the next start removes.
//!
//! Absent: DNS-01 and wildcards (somebody's DNS would have to be changed), renewal information (ARI),
//! external account binding, revocation.

mod account;
mod explain;
mod order;
mod settings;
mod situation;

pub use order::order;
pub use settings::{read as settings, store as store_settings};
pub use situation::{Situation, WantedHosts};
