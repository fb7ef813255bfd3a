//! Which logs may have grown, told by the kernel (inotify).
//!
//! A log is written by a supervisor, which outlives the agent and knows nothing of it. Looking at every log again and
//! again either costs processor time while nothing happens or makes whoever follows a log wait. So the folder of
//! each log is watched, and one number changes whenever something was written into any of them. Nobody relies on that
//! alone: whoever waits for it looks now and then all the same, because a folder may be made a moment before it is
//! watched, and a machine has only so many watches.

use crate::drivers::LogActivity;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

const EVENTS_BYTES: usize = 16 * 1024;

pub struct LogWatch {
    /// `None`: this machine has none left for us.
    inotify: Option<Arc<OwnedFd>>,
    watched: Mutex<BTreeSet<PathBuf>>,
    activity: Arc<watch::Sender<LogActivity>>,
}

impl LogWatch {
    pub fn open() -> Self {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        if let Err(error) = &inotify {
            tracing::info!(%error, "logs cannot be watched; they are looked at every so often instead");
        }
        let activity = Arc::new(watch::Sender::new(LogActivity { count: 0, complete: true }));
        Self { inotify: inotify.ok().map(Arc::new), watched: Mutex::default(), activity }
    }

    /// Watches these folders; others are watched only until they are gone.
    pub fn set(&self, folders: &BTreeSet<&Path>) {
        let Some(inotify) = &self.inotify else { return };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // The kernel forgets a folder that is gone by itself.
        watched.retain(|folder| folders.contains(folder.as_path()));
        for folder in folders {
            if watched.contains(*folder) {
                continue;
            }
            let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
            match add_watch(inotify, *folder, what) {
                Ok(_) => _ = watched.insert(folder.to_path_buf()),
                // Gone already, or not there yet: then it is among the next ones.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    tracing::debug!(%error, folder = %folder.display(), "a log cannot be watched");
                    self.activity.send_if_modified(|activity| std::mem::take(&mut activity.complete));
                }
            }
        }
    }

    /// Begins to listen, until nobody wants to know any more.
    pub fn listen(&self) -> Option<watch::Receiver<LogActivity>> {
        let inotify = self.inotify.clone()?;
        // SAFETY: the descriptor is owned, stays open and keeps its number for as long as there is an `Arc` of it.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register(inotify) };
        let readable = match registered {
            Ok(readable) => readable,
            Err(error) => {
                tracing::info!(%error, "logs cannot be watched; they are looked at every so often instead");
                return None;
            }
        };
        let activity = self.activity.clone();
        let receiver = activity.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = activity.closed() => {}
                () = hear(&readable, &activity) => {}
            }
        });
        Some(receiver)
    }
}

async fn hear(readable: &AsyncFd<Arc<OwnedFd>>, activity: &watch::Sender<LogActivity>) {
    let mut events = vec![0_u8; EVENTS_BYTES];
    loop {
        let Ok(mut ready) = readable.readable().await else { return };
        // What happened to which folder does not matter, so the events are taken and not read.
        match rustix::io::read(readable.get_ref().as_fd(), events.as_mut_slice()) {
            Ok(_) => activity.send_modify(|activity| activity.count = activity.count.wrapping_add(1)),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "logs cannot be watched any more; they are looked at every so often instead");
                activity.send_modify(|activity| activity.complete = false);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    #[tokio::test]
    async fn a_line_in_any_watched_log_is_told_and_one_elsewhere_is_not() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["a", "b", "elsewhere"].map(|name| root.path().join(name));
        folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let watch = LogWatch::open();
        let mut activity = watch.listen().expect("a machine that tests run on has inotify");
        let missing = root.path().join("missing");
        watch.set(&BTreeSet::from([folders[0].as_path(), &folders[1], &missing]));
        assert!(activity.borrow().complete, "a folder that is not there yet is no reason to look more often");
        for folder in &folders[..2] {
            let mut segment = std::fs::File::create(folder.join("0.log")).unwrap();
            activity.changed().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            activity.mark_unchanged();
            segment.write_all(b"line\n").unwrap();
            tokio::time::timeout(Duration::from_secs(20), activity.changed()).await.unwrap().unwrap();
        }
        std::fs::write(folders[2].join("0.log"), "line\n").unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!activity.has_changed().unwrap(), "nobody asked for that one");
    }
}
