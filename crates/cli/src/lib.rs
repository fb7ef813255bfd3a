//! The one binary. It is the command line, and it starts every other part of Mainstay.
//!
//! The parts are libraries that know nothing of each other; here, and only here, they meet. Each
//! command is a file in [`commands`]; what they share is [`context`] (which control plane, which
//! token), [`printer`] (stdout is data, stderr is everything else) and [`exit`] (codes and failures).
//!
//! Some names are not for people: `mainstay shim` supervises one process and must stay small, so
//! `main` hands over to it before anything else is set up; `mainstay-git-ssh` and
//! `mainstay-git-askpass` are this same file under another name, started by git.

pub mod address;
pub mod answers;
mod arguments;
mod background;
mod commands;
pub mod config;
pub mod context;
mod disks;
mod doctor;
mod excerpt;
pub mod exit;
mod explain;
mod gateway_port;
mod installed;
mod log_search;
mod logging;
mod mesh_options;
mod paths;
mod plan_file;
mod plan_text;
pub mod printer;
mod private_file;
mod progress;
mod project;
mod question;
mod report;
mod running;
mod sparkline;
mod system;
mod table;
mod times;
mod usage;
mod words;
mod worktree;
mod wrap;

pub use arguments::{command, main};
