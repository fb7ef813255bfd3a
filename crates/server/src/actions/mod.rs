//! What can be asked of the control plane, once: the API's handlers and the dashboard's forms call
//! the same functions, so there is no second way to change anything.
//!
//! Each takes the [`Caller`](crate::auth::Caller), whose scope goes into every store call and whose
//! name and request go into the cause of every event.

pub mod credentials;
pub mod deploy;
pub mod domains;
pub mod env;
pub mod fingerprint;
pub mod planning;
pub mod routes;
pub mod servers;
pub mod services;
pub mod sign_in;
pub mod sources;
pub mod stacks;
pub mod tokens;
