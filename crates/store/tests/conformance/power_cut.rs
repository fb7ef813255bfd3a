//! What a power cut leaves of an SQLite database: its three files as they lay on the disk between two
//! commits, with the bytes of the last one only partly there.
//!
//! Also used by the tests of the agent's ledger, which includes this file.
//!
//! What is assumed of a disk: bytes that were not being written keep their value, also within a sector
//! that was, as every disk since the nineties promises. Everything else may be lost, zeroed, garbage, or
//! still what it was before.

use std::path::{Path, PathBuf};

/// A sector of the smallest disks there are.
const SECTOR: usize = 512;

/// The files of a database at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub main: Vec<u8>,
    pub wal: Vec<u8>,
    pub shm: Option<Vec<u8>>,
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Files {
    /// Copied while the database is open and nobody writes.
    pub fn copy(path: &Path) -> Self {
        Self {
            main: std::fs::read(path).unwrap(),
            wal: std::fs::read(beside(path, "-wal")).unwrap_or_default(),
            shm: std::fs::read(beside(path, "-shm")).ok(),
        }
    }

    /// Writes them where a program finds them after the power is back.
    pub fn lay(&self, path: &Path) {
        std::fs::write(path, &self.main).unwrap();
        std::fs::write(beside(path, "-wal"), &self.wal).unwrap();
        match &self.shm {
            Some(shm) => std::fs::write(beside(path, "-shm"), shm).unwrap(),
            None => drop(std::fs::remove_file(beside(path, "-shm"))),
        }
    }
}

/// Two moments: before the last transaction and after it.
pub struct Cut {
    pub before: Files,
    pub after: Files,
}

/// One way in which the power went, and whether the last transaction must be there.
pub struct Case {
    pub name: String,
    pub files: Files,
    pub whole: bool,
}

impl Cut {
    /// First and last byte, exclusive, that the last transaction wrote into the log.
    pub fn written(&self) -> (usize, usize) {
        let (old, new) = (&self.before.wal, &self.after.wal);
        let from = old.iter().zip(new).position(|(a, b)| a != b).unwrap_or(old.len().min(new.len()));
        let same_at_end = |n: usize| n < old.len() && old[n] == new[n];
        let to = (from..new.len()).rev().find(|&n| !same_at_end(n)).map_or(from, |n| n + 1);
        (from, to)
    }

    fn case(&self, name: String, wal: Vec<u8>) -> Case {
        let whole = wal == self.after.wal;
        // The index is not written down in step: it may be that of before, or of after.
        let shm = if wal.len().is_multiple_of(2) { self.before.shm.clone() } else { self.after.shm.clone() };
        Case { name, files: Files { main: self.before.main.clone(), wal, shm }, whole }
    }

    /// The log ends after `length` bytes of what was to be written; what lay behind is as before.
    pub fn prefix(&self, length: usize) -> Case {
        let mut wal = self.after.wal[..length].to_vec();
        wal.extend_from_slice(self.before.wal.get(length..).unwrap_or_default());
        self.case(format!("the log is cut off at byte {length}"), wal)
    }

    /// Every sector that the transaction wrote, each spoilt in several ways.
    pub fn torn_sectors(&self) -> Vec<Case> {
        let (from, to) = self.written();
        let mut cases = Vec::new();
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let range = (sector * SECTOR).max(from)..((sector + 1) * SECTOR).min(to);
            let old = |n: usize| self.before.wal.get(n).copied().unwrap_or(0);
            for (how, byte) in [
                ("zeroed", (&|_| 0u8) as &dyn Fn(usize) -> u8),
                ("garbage", &|n: usize| (n as u8).wrapping_mul(167) ^ 0x5a),
                ("old", &old),
            ] {
                let mut wal = self.after.wal.clone();
                range.clone().for_each(|n| wal[n] = byte(n));
                cases.push(self.case(format!("sector {sector} of the log is {how}"), wal));
            }
        }
        cases
    }

    /// The log is whole, and its index is lost, old, or nonsense.
    pub fn lost_index(&self) -> Vec<Case> {
        let shms = [
            ("lost", None),
            ("old", self.before.shm.clone()),
            ("empty", Some(vec![])),
            ("garbage", Some(vec![0xa7; 32 * 1024])),
        ];
        let case = |(how, shm): (&str, Option<Vec<u8>>)| Case {
            name: format!("the index of the log is {how}"),
            files: Files { shm, ..self.after.clone() },
            whole: true,
        };
        shms.into_iter().map(case).collect()
    }

    /// The power went while the log was being copied into the file, which would have become `copied`:
    /// some pages are, one is in part, in the order in which they lie.
    pub fn torn_checkpoint(&self, copied: &[u8]) -> Vec<Case> {
        let old = &self.after.main;
        let changed = |sector: &usize| {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(copied.len());
            old.get(range.clone()) != Some(&copied[range])
        };
        let sectors: Vec<usize> = (0..copied.len().div_ceil(SECTOR)).filter(changed).collect();
        let case = |&sector: &usize| {
            let written = ((sector * SECTOR) + SECTOR / 2).min(copied.len());
            let mut main = copied[..written].to_vec();
            main.extend_from_slice(old.get(written..).unwrap_or_default());
            let name = format!("copying into the file ended in sector {sector}");
            Case { name, files: Files { main, ..self.after.clone() }, whole: true }
        };
        sectors.iter().map(case).collect()
    }

    /// Byte counts to which the file itself could have been cut by a disk that loses what it promised.
    pub fn shortened_files(&self) -> Vec<Case> {
        let full = self.after.main.len();
        let lengths = [0, 1, 99, 100, 511, 512, 4095, 4096, 4097, 8192, full / 2, full - 4096, full - 1];
        let case = |length: usize| Case {
            name: format!("the file is cut off at byte {length} of {full}"),
            files: Files { main: self.after.main[..length].to_vec(), ..self.after.clone() },
            whole: true,
        };
        lengths.into_iter().filter(|length| *length < full).map(case).collect()
    }
}
