//! Folders that are kept between builds: `node_modules`, `target`.
//!
//! A build works on the real folder in the real place, because many tools resolve symbolic links and
//! then look for their neighbours in the wrong place. And a release keeps what its build made, so the
//! cache must be a copy: moved in before the build (a rename), copied out after it succeeded (sharing
//! blocks where the file system can). A build that fails has its folders moved back.
//!
//! If the agent is killed inside a build, its folders are lost with it: the next one is slow, not wrong.

use crate::drivers::files::{private_directory, remove_tree};
use std::io;
use std::path::{Component, Path, PathBuf};

/// The folders of one build.
pub struct Cache {
    /// Where they are kept, and where the build has them.
    folders: Vec<(PathBuf, PathBuf)>,
}

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("`{name}` cannot be a cache folder: {reason}; name a folder inside the source directory")]
    Name { name: String, reason: &'static str },
    #[error("could not {operation} the cache folder {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Cache {
    /// Move what is kept into the source directory.
    pub fn move_in(kept: &Path, source: &Path, names: &[String]) -> Result<Self, CacheError> {
        let mut folders = Vec::new();
        for name in names {
            let target = safe_target(source, name)?;
            let place = kept.join(encoded(name));
            let failed = |operation| {
                let path = place.clone();
                move |source| CacheError::Io { operation, path, source }
            };
            private_directory(kept).map_err(failed("make"))?;
            if place.exists() && !target.exists() {
                if let Some(parent) = target.parent() {
                    std::fs::create_dir_all(parent).map_err(failed("make room for"))?;
                }
                std::fs::rename(&place, &target).map_err(failed("move in"))?;
            }
            folders.push((place, target));
        }
        Ok(Self { folders })
    }

    /// The build succeeded: keep a copy of its folders.
    pub fn copy_out(&self) -> Result<(), CacheError> {
        for (place, target) in &self.folders {
            if !target.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                continue;
            }
            let failed = |operation| {
                let path = place.clone();
                move |source| CacheError::Io { operation, path, source }
            };
            let fresh = place.with_extension("new");
            remove_tree(&fresh).map_err(failed("clear"))?;
            copy_tree(target, &fresh).map_err(failed("copy"))?;
            remove_tree(place).map_err(failed("replace"))?;
            std::fs::rename(&fresh, place).map_err(failed("replace"))?;
        }
        Ok(())
    }

    /// The build failed and is thrown away: take the folders back.
    pub fn move_back(&self) {
        for (place, target) in &self.folders {
            if target.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) && remove_tree(place).is_ok() {
                let _ = std::fs::rename(target, place);
            }
        }
    }
}

/// One folder name for a path, without collisions: `a/b` and `a%2Fb` differ.
fn encoded(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F").replace('.', "%2E")
}

/// The folder inside the source directory, wherever links in the repository would like to lead.
fn safe_target(source: &Path, name: &str) -> Result<PathBuf, CacheError> {
    let fail = |reason| Err(CacheError::Name { name: name.chars().take(200).collect(), reason });
    let path = Path::new(name);
    if name.is_empty() || name.contains('\0') || encoded(name).len() > 200 {
        return fail("it is empty or too long");
    }
    if !path.components().all(|component| matches!(component, Component::Normal(_))) {
        return fail("it leads out of the source directory");
    }
    let mut walked = source.to_owned();
    for component in path.components() {
        walked.push(component);
        if walked.is_symlink() {
            return fail("the repository has a symbolic link there");
        }
    }
    Ok(walked)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = from.symlink_metadata()?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(from)?, to)
    } else if kind.is_dir() {
        std::fs::create_dir(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        std::fs::set_permissions(to, metadata.permissions())
    } else if kind.is_file() {
        std::fs::copy(from, to)?;
        // Build tools compare times to see what is new.
        let times = std::fs::FileTimes::new().set_modified(metadata.modified()?);
        match std::fs::File::options().read(true).open(to).and_then(|file| file.set_times(times)) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    } else {
        // Sockets and pipes are not worth keeping.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_never_leads_out_of_the_source_directory() {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("source");
        std::fs::create_dir(&source).unwrap();
        std::os::unix::fs::symlink("/etc", source.join("link")).unwrap();
        for name in ["../x", "/etc", "a/../../b", "", "link", "link/deeper", "."] {
            assert!(safe_target(&source, name).is_err(), "{name:?} was accepted");
        }
        assert_eq!(safe_target(&source, "frontend/node_modules").unwrap(), source.join("frontend/node_modules"));
    }

    #[test]
    fn what_a_build_made_is_there_for_the_next_and_stays_with_the_release() {
        let place = tempfile::tempdir().unwrap();
        let kept = place.path().join("kept");
        let names = ["deps".to_owned()];
        let first = place.path().join("first");
        std::fs::create_dir(&first).unwrap();
        let cache = Cache::move_in(&kept, &first, &names).unwrap();
        std::fs::create_dir(first.join("deps")).unwrap();
        std::fs::write(first.join("deps/a"), "1").unwrap();
        cache.copy_out().unwrap();
        assert!(first.join("deps/a").exists(), "the release keeps what it was built with");

        let second = place.path().join("second");
        std::fs::create_dir(&second).unwrap();
        let cache = Cache::move_in(&kept, &second, &names).unwrap();
        std::fs::write(second.join("deps/a"), "2").unwrap();
        cache.move_back();
        assert_eq!(std::fs::read_to_string(first.join("deps/a")).unwrap(), "1", "a later build does not reach it");
        assert!(kept.join("deps/a").exists(), "a failed build loses nothing");
    }
}
