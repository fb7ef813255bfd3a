//! A whole fleet in one thread and no time: the real control plane, the real agents, the real rollout,
//! on machines that exist in memory, under a clock that jumps from one event to the next.
//!
//! ```text
//!   people ──► control plane (its own thread, real SQLite) ◄──── network ◄──── agents ──► machines
//!                 dies between writes                     loses, doubles,   die at      fail, hang,
//!                                                         delays, is cut    every gate  lose power
//! ```
//!
//! One seed decides everything: who does what when, what fails, and in which order. So each seed is one
//! story, and a seed that breaks a promise can be told again, line by line, until the fault is found.
//!
//! A story has three parts. *Calm*: machines join, a stack is deployed, everything serves. *Storm*:
//! people deploy while everything goes wrong; the [`referee`] watches what must never be. *Calm again*:
//! nothing fails any more, and within a bound the fleet must be what was asked of it.
//!
//! What is not simulated is named in docs/proof.md.

mod books;
mod chance;
mod direct;
mod edges;
mod machine;
mod narrator;
mod network;
mod people;
pub mod plane;
mod promises;
mod referee;
mod scenario;
mod storm;
mod story;
mod time;
mod world;

pub use narrator::{Told, narrate};
pub use scenario::{Beginning, Outcome, Stage, run, stay_on_core};
