//! A disk of a few megabytes that a test can fill to the last byte: ext4 in a file, or, where the kernel
//! lends no loop device, memory (tmpfs).

use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    place: PathBuf,
    pub kind: &'static str,
}

impl SmallDisk {
    /// Makes the folder `place` a disk of that size; an error where this machine does not let us mount.
    pub(crate) fn mount(place: PathBuf, megabytes: u64) -> Result<Self> {
        std::fs::create_dir_all(&place)?;
        if loop_mount(&place, megabytes).is_ok() {
            return Ok(Self { place, kind: "ext4 on a loop device" });
        }
        let size = format!("size={megabytes}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &place.to_string_lossy()])?;
        Ok(Self { place, kind: "tmpfs" })
    }

    fn filler(&self) -> PathBuf {
        self.place.join("filler")
    }

    pub fn available_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.place).expect("a mounted disk says how full it is");
        stat.f_bavail * stat.f_frsize
    }

    /// Fills it until at most so many bytes are free; 0: until not one more can be written.
    pub fn fill(&self, leave_bytes: u64) {
        let open = std::fs::File::options().create(true).append(true).open(self.filler());
        let mut file = open.expect("the disk can be written");
        let mut piece = 256 * 1024;
        while piece > 0 && (leave_bytes == 0 || self.available_bytes() > leave_bytes) {
            let written = file.write_all(&vec![0x55; piece]).and_then(|()| file.sync_data());
            if written.is_err() {
                piece /= 2;
            }
        }
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the filler can be removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, in case a process that is ending still holds a file.
        let unmounted = run("umount", &["--lazy", &self.place.to_string_lossy()]);
        if let Err(error) = unmounted {
            eprintln!("{} is still mounted: {error:#}", self.place.display());
        }
    }
}

fn loop_mount(place: &Path, megabytes: u64) -> Result<()> {
    let image = place.with_extension("image");
    std::fs::File::create(&image)?.set_len(megabytes * 1024 * 1024)?;
    let image = image.to_string_lossy();
    // No part of it kept for root, who would otherwise go on writing when others cannot.
    run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?;
    run("mount", &["-o", "loop", &image, &place.to_string_lossy()])
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
