//! Git, run as a program with typed arguments.
//!
//! The control plane asks which commit a branch is ([`resolve_reference`]); the agent fetches exactly
//! that commit ([`run::Git`] and the driver's mirrors). Both need the same care, so it lives here once:
//!
//! - *Arguments are values.* URLs, references and commits are types of `api` that cannot begin with a
//!   hyphen or name a remote helper, they stand behind `--`, and no shell is involved.
//! - *The machine's configuration does not leak in.* System and user configuration are replaced by a
//!   file of ours; hooks, credential helpers and prompts are off; only https, http, ssh, git and file
//!   are allowed as protocols.
//! - *Credentials never stand in an argument.* A token or key is written to a file of mode 0600 for the
//!   time of one call, and read by this same binary under another name ([`helpers`]).
//! - *Nothing outlives its time.* Each call has a timeout and its own process group, killed whole.
//! - *Errors say which kind they are* ([`GitError`]): unreachable, refused, not there, no such reference.

pub mod environment;
pub mod error;
pub mod helpers;
pub mod resolve;
pub mod run;

pub use environment::Environment;
pub use error::GitError;
pub use resolve::{ResolvedReference, Subjects, resolve_reference};
