//! What detection may look at. A trait, so that it is tested without a disk and can later look into
//! a repository that is not checked out.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub name: String,
    pub is_folder: bool,
}

/// The files of a project. What cannot be read is as good as not there: detection guesses, and says so.
pub trait Tree {
    /// Name of the folder, from which the stack gets its name.
    fn name(&self) -> String;
    /// What lies directly in a folder (`""`: the root), by name.
    fn list(&self, folder: &str) -> Vec<Entry>;
    /// The text of a file.
    fn read(&self, path: &str) -> Option<String>;
}

/// A larger file is not read; none that says how a project is run comes near it.
const FILE_LIMIT_BYTES: u64 = 1024 * 1024;
const ENTRIES_LIMIT: usize = 5000;

/// A folder on disk.
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn path(&self) -> &Path {
        &self.root
    }
}

impl Tree for Folder {
    fn name(&self) -> String {
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        root.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    fn list(&self, folder: &str) -> Vec<Entry> {
        let Ok(entries) = std::fs::read_dir(self.root.join(folder)) else { return Vec::new() };
        let mut out: Vec<Entry> = entries
            .flatten()
            .take(ENTRIES_LIMIT)
            .map(|entry| Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_folder: entry.path().is_dir(),
            })
            .collect();
        out.sort();
        out
    }

    fn read(&self, path: &str) -> Option<String> {
        let path = self.root.join(path);
        let metadata = std::fs::metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > FILE_LIMIT_BYTES {
            return None;
        }
        std::fs::read_to_string(path).ok()
    }
}
