//! Room for the control plane's database.
//!
//! While only the reserve is left ([`plan::disk`]), what grows is refused: deployments, and log lines, which
//! wait on the machines they come from. What runs, reports, events, rollbacks and stops go on: they are
//! small, they may be what mends things, and the reserve is for them. A database elsewhere (PostgreSQL) has
//! its own disk and its own watch.

use crate::error::{HttpError, Result};
use crate::options::ServerOptions;
use api::error::ErrorCode;
use plan::disk::{Space, is_low, reserve_bytes, why_low};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Watches the disk that a SQLite database lies on.
#[derive(Debug)]
pub struct DiskGuard {
    place: Option<PathBuf>,
    wished_reserve_bytes: Option<u64>,
    low: AtomicBool,
}

impl DiskGuard {
    pub fn new(options: &ServerOptions) -> Self {
        let place = options.database_url.is_none().then(|| options.directory());
        Self { place, wished_reserve_bytes: options.disk_reserve_bytes, low: AtomicBool::new(false) }
    }

    /// Looks now: what is wrong, or `None` while there is room.
    pub fn problem(&self) -> Option<String> {
        let place = self.place.as_deref()?;
        let space = space(place);
        let reserve = reserve_bytes(space.total_bytes, self.wished_reserve_bytes);
        let low = is_low(space, reserve, self.low.load(Ordering::Relaxed));
        self.low.store(low, Ordering::Relaxed);
        low.then(|| why_low(space.total_bytes, reserve, &place.display().to_string()))
    }

    /// What is free beside the database; `None`: it is not on a disk of ours.
    pub fn free_bytes(&self) -> Option<u64> {
        Some(space(self.place.as_deref()?).available_bytes)
    }

    /// `Err` while there is no room for what is about to be kept.
    pub fn room_for(&self, what: &str) -> Result<()> {
        let Some(problem) = self.problem() else { return Ok(()) };
        let message = format!("{what}: the control plane's disk is nearly full: {problem}");
        Err(HttpError::new(ErrorCode::DiskFull, message).help(
            "free some space on the control plane's machine or give it a larger disk, and repeat it; \
             what runs on the servers is not touched",
        ))
    }
}

fn space(path: &Path) -> Space {
    let counted = rustix::fs::statvfs(path);
    counted.map_or_else(|_| Space::default(), |stat| Space::of_blocks(stat.f_blocks, stat.f_bavail, stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_reserve_what_grows_is_refused_in_words_that_say_what_to_do_and_above_it_nothing_is() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("server")).unwrap();
        let mut options = ServerOptions::new(place.path());
        options.disk_reserve_bytes = Some(u64::MAX);
        let refused = DiskGuard::new(&options).room_for("nothing was deployed").unwrap_err();
        let (status, answer) = refused.to_answer();
        assert_eq!((status.as_u16(), answer.code), (507, ErrorCode::DiskFull));
        assert!(answer.message.contains("nothing was deployed") && answer.help.is_some(), "{answer:?}");

        options.database_url = Some("postgres://elsewhere".into());
        assert!(DiskGuard::new(&options).room_for("x").is_ok(), "its disk is not ours");
        options.database_url = None;
        options.disk_reserve_bytes = Some(0);
        assert!(DiskGuard::new(&options).room_for("x").is_ok());
    }
}
