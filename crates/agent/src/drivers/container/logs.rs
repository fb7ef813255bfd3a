//! A container's log, copied from the engine's file into one of ours.
//!
//! Ours has what the loop and the control plane rely on (whole lines, offsets that stay valid, bounds), and lives on when
//! a container is made anew. The engine's file is the buffer in between: it holds what a container says while no agent
//! runs. It is read as a file and not through the API, because Podman's API gives times in whole seconds, asks its file
//! four times a second per reader, and loses its place when the file is rotated.
//!
//! Where reading stopped is kept in a file beside the log, written after the lines: a kill in between repeats the lines
//! of that moment, and none is lost.

use super::answers::millis;
use crate::drivers::files::{Durability, read_json, write_json};
use crate::drivers::log::{LogLimits, LogWriter};
use api::UnixMillis;
use api::logs::LogStream;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const POSITION_FILE: &str = "log-position.json";
/// Read at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// A line of the engine's file is not longer than this; docker and conmon cut theirs at 16 KiB.
const LINE_LIMIT_BYTES: usize = 1024 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    path: PathBuf,
    inode: u64,
    offset: u64,
}

/// Copies one instance's log.
pub struct Copier {
    writer: LogWriter,
    memory: PathBuf,
    position: Position,
    source: Option<File>,
    /// Read, and not yet a whole line.
    rest: Vec<u8>,
    /// The beginning of a line that the engine cut, per stream.
    cut: [Vec<u8>; 2],
    unreadable: bool,
}

impl Copier {
    /// `folder` is the instance's.
    pub fn open(folder: &Path, limits: LogLimits) -> io::Result<Self> {
        let memory = folder.join(POSITION_FILE);
        let position = read_json(&memory).unwrap_or(None).unwrap_or_default();
        let writer = LogWriter::open(&folder.join(super::record::LOG_DIRECTORY), limits)?;
        Ok(Self {
            writer,
            memory,
            position,
            source: None,
            rest: Vec::new(),
            cut: Default::default(),
            unreadable: false,
        })
    }

    /// A line of Mainstay's own.
    pub fn note(&mut self, text: &str) {
        self.writer.note(text);
    }

    /// It has ended: what it said without an end of line is a line.
    pub fn finish(&mut self) {
        for (index, stream) in [LogStream::Stdout, LogStream::Stderr].into_iter().enumerate() {
            let text = std::mem::take(&mut self.cut[index]);
            if !text.is_empty() {
                self.writer.line(stream, &text);
            }
        }
    }

    /// Copy all that is there. `path` is where the engine writes now.
    pub fn copy(&mut self, path: &Path) {
        if self.position.path != path {
            self.finish();
            self.source = None;
            self.rest.clear();
            self.position = Position { path: path.to_owned(), ..Position::default() };
        }
        loop {
            match self.copy_file(path) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => {
                    if !std::mem::replace(&mut self.unreadable, true) {
                        let why =
                            format!("the container engine's log of it cannot be read ({}: {error})", path.display());
                        self.writer.note(&why);
                    }
                    return;
                }
            }
        }
    }

    /// Answers whether there may be another file to go on with.
    fn copy_file(&mut self, path: &Path) -> io::Result<bool> {
        if self.source.is_none() {
            self.open_source(path)?;
        }
        let Some(mut source) = self.source.take() else { return Ok(false) };
        let length = source.metadata()?.len();
        if length < self.position.offset {
            // Emptied in its place.
            self.begin_at(&mut source, 0)?;
        }
        let mut piece = vec![0; PIECE_BYTES];
        let mut moved = false;
        loop {
            let count = source.read(&mut piece)?;
            if count == 0 {
                break;
            }
            moved = true;
            self.take_in(&piece[..count]);
        }
        if moved {
            self.remember();
        }
        // Rotated: the old one has been read to its end, and the new one begins.
        let rotated = path.metadata().is_ok_and(|now| now.ino() != self.position.inode);
        if !rotated {
            self.source = Some(source);
        }
        Ok(rotated)
    }

    fn open_source(&mut self, path: &Path) -> io::Result<()> {
        let mut source = File::open(path)?;
        let metadata = source.metadata()?;
        let same = metadata.ino() == self.position.inode && metadata.len() >= self.position.offset;
        self.position.inode = metadata.ino();
        let offset = if same { self.position.offset } else { 0 };
        self.begin_at(&mut source, offset)?;
        self.source = Some(source);
        self.unreadable = false;
        Ok(())
    }

    fn begin_at(&mut self, source: &mut File, offset: u64) -> io::Result<()> {
        source.seek(SeekFrom::Start(offset))?;
        self.position.offset = offset;
        self.rest.clear();
        Ok(())
    }

    fn take_in(&mut self, data: &[u8]) {
        self.rest.extend_from_slice(data);
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.rest.split_off(whole);
        let lines = std::mem::replace(&mut self.rest, rest);
        self.position.offset += lines.len() as u64;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.line(line);
        }
        if self.rest.len() > LINE_LIMIT_BYTES {
            self.position.offset += self.rest.len() as u64;
            self.rest.clear();
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(said) = parse(line) else { return };
        let index = usize::from(said.stream == LogStream::Stderr);
        let mut text = std::mem::take(&mut self.cut[index]);
        text.extend_from_slice(&said.text);
        if said.whole || text.len() > LINE_LIMIT_BYTES {
            // Painted progress becomes lines, as with processes.
            for part in text.split(|byte| *byte == b'\r').filter(|part| !part.is_empty() || !text.contains(&b'\r')) {
                self.writer.line_at(said.at_ms, said.stream, part);
            }
        } else {
            self.cut[index] = text;
        }
    }

    fn remember(&self) {
        if let Err(error) = write_json(&self.memory, &self.position, Durability::Renamed) {
            tracing::warn!(path = %self.memory.display(), %error, "how far a log was read cannot be written down");
        }
    }
}

/// A line of the engine's file.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    at_ms: UnixMillis,
    stream: LogStream,
    /// Otherwise the line goes on with the next one.
    whole: bool,
    text: Vec<u8>,
}

/// Docker's JSON, or the format of Kubernetes that Podman writes.
fn parse(line: &[u8]) -> Option<Said> {
    if line.first() == Some(&b'{') { parse_json(line) } else { parse_plain(line) }
}

fn parse_json(line: &[u8]) -> Option<Said> {
    #[derive(Deserialize)]
    struct Line {
        log: String,
        #[serde(default)]
        stream: String,
        time: String,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    let whole = line.log.ends_with('\n');
    let text = line.log.strip_suffix('\n').unwrap_or(&line.log);
    Some(Said { at_ms: millis(&line.time)?, stream: stream_of(&line.stream), whole, text: text.as_bytes().to_vec() })
}

/// `2026-12-01T11:47:40.781083566+00:00 stdout F text`
fn parse_plain(line: &[u8]) -> Option<Said> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let at_ms = millis(word()?)?;
    let stream = stream_of(word()?);
    let whole = word()? == "F";
    Some(Said { at_ms, stream, whole, text: parts.next().unwrap_or_default().to_vec() })
}

fn stream_of(word: &str) -> LogStream {
    if word == "stderr" { LogStream::Stderr } else { LogStream::Stdout }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::log::tail;
    use std::io::Write;

    struct Place {
        folder: tempfile::TempDir,
        engine: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let engine = folder.path().join("ctr.log");
            Self { folder, engine }
        }

        fn say(&self, text: &str) {
            let mut file = File::options().create(true).append(true).open(&self.engine).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn copier(&self) -> Copier {
            Copier::open(self.folder.path(), LogLimits::default()).unwrap()
        }

        fn lines(&self) -> Vec<String> {
            tail(&self.folder.path().join("log"), 100)
        }
    }

    fn plain(text: &str) -> String {
        format!("2026-12-01T11:47:40.781083566+00:00 stdout F {text}\n")
    }

    #[test]
    fn both_engines_lines_are_read_with_their_time_and_stream() {
        let said = parse(plain("a b").trim_end().as_bytes()).unwrap();
        assert_eq!((said.at_ms, said.stream, said.whole), (1_796_125_660_781, LogStream::Stdout, true));
        assert_eq!(said.text, b"a b");
        let line = br#"{"log":"bad\n","stream":"stderr","time":"2026-12-01T11:47:40.781083566Z"}"#;
        let said = parse(line).unwrap();
        assert_eq!((said.stream, said.whole, said.text.as_slice()), (LogStream::Stderr, true, b"bad".as_slice()));
        assert!(parse(b"nonsense").is_none());
    }

    #[test]
    fn a_copier_made_anew_goes_on_where_the_last_one_stopped() {
        let place = Place::new();
        place.say(&plain("one"));
        place.copier().copy(&place.engine);
        place.say(&plain("two"));
        place.say("2026-12-01T11:47:41.0+00:00 stdout F not yet wh");
        let mut copier = place.copier();
        copier.copy(&place.engine);
        assert_eq!(place.lines(), ["one", "two"]);
        drop(copier);
        place.say("ole\n");
        place.copier().copy(&place.engine);
        assert_eq!(place.lines(), ["one", "two", "not yet whole"]);
    }

    #[test]
    fn a_rotated_log_is_read_to_its_end_before_the_next_begins() {
        let place = Place::new();
        let mut copier = place.copier();
        place.say(&plain("one"));
        copier.copy(&place.engine);
        place.say(&plain("two"));
        std::fs::rename(&place.engine, place.folder.path().join("old")).unwrap();
        place.say(&plain("three"));
        copier.copy(&place.engine);
        assert_eq!(place.lines(), ["one", "two", "three"]);
        File::options().write(true).truncate(true).open(&place.engine).unwrap();
        copier.copy(&place.engine);
        place.say(&plain("4"));
        copier.copy(&place.engine);
        assert_eq!(place.lines(), ["one", "two", "three", "4"], "emptied in its place");
    }

    #[test]
    fn a_container_made_anew_has_another_file_and_the_log_goes_on() {
        let place = Place::new();
        let mut copier = place.copier();
        place.say(&plain("one"));
        copier.copy(&place.engine);
        copier.note("started");
        let other = place.folder.path().join("other.log");
        std::fs::write(&other, plain("two")).unwrap();
        copier.copy(&other);
        assert_eq!(place.lines(), ["one", "started", "two"]);
    }

    #[test]
    fn a_line_that_the_engine_cut_is_one_again() {
        let place = Place::new();
        place.say("2026-12-01T11:47:40.1+00:00 stdout P half \n");
        place.say("2026-12-01T11:47:40.1+00:00 stderr F between\n2026-12-01T11:47:40.2+00:00 stdout F and half\n");
        place.copier().copy(&place.engine);
        assert_eq!(place.lines(), ["between", "half and half"]);
        place.say("2026-12-01T11:47:40.3+00:00 stderr P last words");
        place.say("\n");
        let mut copier = place.copier();
        copier.copy(&place.engine);
        assert_eq!(place.lines().len(), 2, "it may go on");
        copier.finish();
        assert_eq!(place.lines()[2], "last words");
    }
}
