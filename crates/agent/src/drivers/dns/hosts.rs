//! Our lines in `/etc/hosts`: between two markers that name their owner, every other byte untouched.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Before the owner's data directory.
const BEGIN: &str = "# BEGIN mainstay ";

pub struct Markers {
    pub begin: String,
    end: String,
}

impl Markers {
    pub fn of(owner: &str) -> Self {
        Self { begin: format!("{BEGIN}{owner}"), end: format!("# END mainstay {owner}") }
    }
}

pub struct Split {
    /// Lines of others, before and after ours.
    pub foreign: String,
    pub block: String,
}

/// Parts ours from theirs: what stands between the markers. A begin without an end (somebody cut the
/// file) claims only lines of the very form that we write, and never a foreign one.
pub fn split_block(text: &str, markers: &Markers) -> Split {
    let mut split = Split { foreign: String::new(), block: String::new() };
    let mut rest = text.split_inclusive('\n').peekable();
    while let Some(line) = rest.next() {
        if line.trim_end() != markers.begin {
            if line.trim_end() != markers.end {
                split.foreign.push_str(line);
            }
            continue;
        }
        let closed = rest.clone().map(str::trim_end).take_while(|l| !l.starts_with(BEGIN)).any(|l| l == markers.end);
        while let Some(line) = rest.peek().copied() {
            let bare = line.trim_end();
            let ours = bare.starts_with("127.0.0.1 ") && (closed || bare.ends_with(".internal"));
            if !ours {
                break;
            }
            split.block.push_str(line);
            rest.next();
        }
    }
    split
}

/// Blocks of agents whose data directory is gone: killed and deleted, they cannot tidy up themselves.
fn without_orphans(text: &str) -> String {
    let owners = text.lines().filter_map(|line| line.strip_prefix(BEGIN));
    let gone = owners.filter(|owner| Path::new(owner).is_absolute() && !Path::new(owner).exists());
    gone.fold(text.to_owned(), |text, owner| split_block(&text, &Markers::of(owner)).foreign)
}

/// Replaces our lines and leaves every other byte as it is.
pub fn replace_block(path: &Path, markers: &Markers, lines: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    // The lock is on the directory, because the file itself is replaced.
    let lock = File::open(directory)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let before = read_or_empty(path)?;
    let mut after = without_orphans(&split_block(&before, markers).foreign);
    if !lines.is_empty() {
        if !after.is_empty() && !after.ends_with('\n') {
            after.push('\n');
        }
        after.push_str(&format!("{}\n{lines}{}\n", markers.begin, markers.end));
    }
    if after == before { Ok(()) } else { replace_file(path, &after) }
}

/// Atomically, with mode and owner kept. Where the file is a mount of its own (in a container) it
/// cannot be replaced and is written in place.
pub fn replace_file(path: &Path, content: &str) -> io::Result<()> {
    let temporary = path.with_file_name(format!(
        ".{}.mainstay-{}",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let mut file = File::create(&temporary)?;
    let result = (|| {
        file.write_all(content.as_bytes())?;
        if let Ok(metadata) = fs::metadata(path) {
            file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
            std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        } else {
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
        }
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    match result {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            let _ = fs::remove_file(&temporary);
            let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()
        }
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

pub fn read_or_empty(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_written_block_never_swallows_foreign_lines() {
        let markers = Markers::of("/data/agent");
        let text = "# BEGIN mainstay /data/agent\n127.0.0.1 web.svc.internal\n10.0.0.1 db\n127.0.0.1 localhost\n";
        let split = split_block(text, &markers);
        assert_eq!(split.foreign, "10.0.0.1 db\n127.0.0.1 localhost\n");
    }
}
