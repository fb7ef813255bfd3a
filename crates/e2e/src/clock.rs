//! A time of day that a test can set while processes run, for one machine and nobody else.
//!
//! libfaketime stands between a process and the C library and adds an offset to the time of day, read
//! from a file at every call. The time that passes (`CLOCK_MONOTONIC`) is left alone, as it is when a real
//! clock is set.

use crate::Machine;
use std::path::{Path, PathBuf};

/// The clock of one [`Machine`].
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Gives the machine a clock of its own, which is right at first; `None` without libfaketime.
    pub fn of(machine: &mut Machine) -> Option<Self> {
        let library = library()?;
        let clock = Self { file: machine.folder().join("clock") };
        clock.set_ahead(0);
        let settings = [
            ("LD_PRELOAD", library.to_string_lossy().into_owned()),
            ("FAKETIME_TIMESTAMP_FILE", clock.file.to_string_lossy().into_owned()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            // Times of files are what they were when they were written.
            ("NO_FAKE_STAT", "1".into()),
            // Processes that are killed would leave their shared memory behind.
            ("FAKETIME_DISABLE_SHM", "1".into()),
        ];
        machine.environment.extend(settings);
        Some(clock)
    }

    /// Sets it to so many seconds ahead of the right time; negative: behind.
    pub fn set_ahead(&self, seconds: i64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n")).expect("the test's folder can be written");
        std::fs::rename(&next, &self.file).expect("the test's folder can be written");
    }
}

/// Where Debian and others keep the variant for programs with threads.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = folders.chain(["/usr/lib".into(), "/usr/lib64".into(), "/usr/local/lib".into()]);
    let files = folders.map(|folder: PathBuf| folder.join(Path::new("faketime/libfaketimeMT.so.1")));
    files.into_iter().find(|file| file.is_file())
}
