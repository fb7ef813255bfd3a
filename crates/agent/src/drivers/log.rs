//! Logs on disk: lines with absolute byte offsets that stay valid while old lines go.
//!
//! A log is a folder of segments, each named after the offset of its first byte. The writer appends
//! to the newest and starts another when it is full; the oldest goes when there are too many. So an
//! offset means the same line for ever, a reader needs nothing but the folder, and rotation needs no
//! word between writer and reader. A line is
//!
//! ```text
//! 1763719200123 o listening on 20001
//! └ milliseconds │ └ text, any bytes but newline
//!                └ o stdout, e stderr, m Mainstay
//! ```
//!
//! The supervisor of an instance and the build use the same writer. Deliberately absent: an index,
//! compression and syncing. The control plane keeps what was shipped; this is the buffer before it.

use api::UnixMillis;
use api::ids::ServiceId;
use api::logs::{LogBatch, LogLine, LogSource, LogStream};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::clock::now_ms;
use crate::drivers::DriverError;
use crate::drivers::files::{io_error, private_directory};
use plan::disk::{is_low, reserve_bytes};

/// A longer line is cut into pieces.
pub const LINE_LIMIT_BYTES: usize = 16 * 1024;

/// How much of a log is kept: at most `segments` times `segment_bytes`, and one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogLimits {
    pub segment_bytes: u64,
    pub segments: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { segment_bytes: 4 * 1024 * 1024, segments: 4 }
    }
}

pub struct LogWriter {
    directory: PathBuf,
    limits: LogLimits,
    file: File,
    start: u64,
    length: u64,
    /// Lines that could not be written since the last one that could (a full disk).
    lost: u64,
}

impl LogWriter {
    pub fn open(directory: &Path, limits: LogLimits) -> io::Result<Self> {
        private_directory(directory)?;
        let start = segments(directory)?.last().copied().unwrap_or(0);
        let mut file = open_segment(directory, start)?;
        let mut length = file.metadata()?.len();
        // A writer that was killed inside a line left it open.
        if length > 0 {
            let mut last = [0; 1];
            file.read_exact_at(&mut last, length - 1)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                length += 1;
            }
        }
        Ok(Self { directory: directory.to_owned(), limits, file, start, length, lost: 0 })
    }

    /// Append one line (cut if it is too long). A failure is counted and told with the next line
    /// that can be written; the process whose output this is must not suffer from it.
    pub fn line(&mut self, stream: LogStream, text: &[u8]) {
        self.line_at(now_ms(), stream, text);
    }

    /// As [`Self::line`], for a line that was said at another time than now.
    pub fn line_at(&mut self, at_ms: UnixMillis, stream: LogStream, text: &[u8]) {
        if self.lost > 0 {
            let note =
                format!("{} before this one could not be written to the log", api::words::count(self.lost, "line"));
            if self.write(at_ms, LogStream::Mainstay, note.as_bytes()).is_err() {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        let mut rest = text;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(LINE_LIMIT_BYTES));
            if self.write(at_ms, stream, piece).is_err() {
                self.lost += 1;
            }
            if after.is_empty() {
                return;
            }
            rest = after;
        }
    }

    /// A line of Mainstay's own.
    pub fn note(&mut self, text: &str) {
        for line in text.lines() {
            self.line(LogStream::Mainstay, line.as_bytes());
        }
    }

    fn write(&mut self, at_ms: UnixMillis, stream: LogStream, text: &[u8]) -> io::Result<()> {
        if self.length >= self.limits.segment_bytes {
            self.rotate()?;
        }
        let mark = match stream {
            LogStream::Stdout => 'o',
            LogStream::Stderr => 'e',
            LogStream::Mainstay => 'm',
        };
        let mut line = format!("{at_ms} {mark} ").into_bytes();
        line.extend(text.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        line.push(b'\n');
        match self.file.write_all(&line) {
            Ok(()) => {
                self.length += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Part of it may be there; offsets must go on to match the file.
                let _ = self.file.set_len(self.length);
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let start = self.start + self.length;
        self.file = open_segment(&self.directory, start)?;
        self.start = start;
        self.length = 0;
        let all = segments(&self.directory)?;
        // On a disk that fills up, logs are the first to give way.
        let space = crate::resources::space(&self.directory);
        let low = is_low(space, reserve_bytes(space.total_bytes, None), false);
        let keep = if low { self.limits.segments.min(2) } else { self.limits.segments };
        for old in &all[..all.len().saturating_sub(keep)] {
            std::fs::remove_file(segment_path(&self.directory, *old))?;
        }
        Ok(())
    }
}

/// Makes lines of what a pipe delivers in pieces. A carriage return ends a line too, so that painted
/// progress becomes lines rather than one endless one.
#[derive(Default)]
pub struct LineSplitter {
    pending: Vec<u8>,
    after_return: bool,
}

impl LineSplitter {
    pub fn push(&mut self, data: &[u8], mut line: impl FnMut(&[u8])) {
        for byte in data {
            let completes_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if completes_return => {}
                b'\n' | b'\r' => {
                    line(&self.pending);
                    self.pending.clear();
                }
                other => {
                    self.pending.push(*other);
                    if self.pending.len() == LINE_LIMIT_BYTES {
                        line(&self.pending);
                        self.pending.clear();
                    }
                }
            }
        }
    }

    /// The pipe is closed: what is left is a line.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            line(&self.pending);
            self.pending.clear();
        }
    }
}

/// What [`read`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRead {
    pub offset: u64,
    pub next_offset: u64,
    pub lines: Vec<LogLine>,
}

/// Whole lines from `offset` on. At least one line is answered if there is one, whatever `max_bytes`.
pub fn read(directory: &Path, offset: u64, max_bytes: usize) -> io::Result<LogRead> {
    // The segment may be rotated away between listing and opening; then the next is the oldest.
    for _ in 0..5 {
        match try_read(directory, offset, max_bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory.exists() => {}
            other => return other,
        }
    }
    Err(io::Error::other("the log rotates faster than it can be read"))
}

fn try_read(directory: &Path, wanted: u64, max_bytes: usize) -> io::Result<LogRead> {
    let all = segments(directory)?;
    let Some(first) = all.first().copied() else {
        return Ok(LogRead { offset: 0, next_offset: 0, lines: Vec::new() });
    };
    let mut offset = wanted.max(first);
    let index = all.partition_point(|start| *start <= offset).saturating_sub(1);
    let begin = offset;
    let mut lines = Vec::new();
    let mut budget = max_bytes.max(LINE_LIMIT_BYTES + 64);
    for (position, start) in all.iter().enumerate().skip(index) {
        let mut file = File::open(segment_path(directory, *start))?;
        let length = file.metadata()?.len();
        if offset > start + length {
            // Beyond the end: an offset of another life of this log.
            let end = all.get(position + 1).copied().unwrap_or(start + length);
            return Ok(LogRead { offset: end, next_offset: end, lines });
        }
        file.seek(SeekFrom::Start(offset - start))?;
        let mut data = Vec::new();
        file.take(budget as u64).read_to_end(&mut data)?;
        let whole = data.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        lines.extend(data[..whole].split_inclusive(|byte| *byte == b'\n').filter_map(parse_line));
        offset += whole as u64;
        budget = budget.saturating_sub(data.len());
        if budget == 0 || offset < start + length {
            break;
        }
    }
    Ok(LogRead { offset: begin, next_offset: offset, lines })
}

/// What [`read`] found, as it is sent; `None`: there is no log.
pub fn batch(
    directory: &Path,
    source: LogSource,
    service_id: ServiceId,
    offset: u64,
    max_bytes: usize,
) -> Result<Option<LogBatch>, DriverError> {
    match read(directory, offset, max_bytes) {
        Ok(LogRead { offset, next_offset, lines }) => {
            Ok(Some(LogBatch { source, service_id, offset, next_offset, lines }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read the log in", directory)(error)),
    }
}

/// First and end offset; `None`: there is no log.
pub fn extent(directory: &Path) -> io::Result<Option<(u64, u64)>> {
    let all = match segments(directory) {
        Ok(all) => all,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(None) };
    let length = std::fs::metadata(segment_path(directory, *last)).map_or(0, |metadata| metadata.len());
    Ok(Some((*first, last + length)))
}

/// The last lines as plain text.
pub fn tail(directory: &Path, count: usize) -> Vec<String> {
    const WINDOW_BYTES: u64 = 64 * 1024;
    let Ok(Some((first, end))) = extent(directory) else { return Vec::new() };
    let from = end.saturating_sub(WINDOW_BYTES).max(first);
    let Ok(found) = read(directory, from, WINDOW_BYTES as usize) else { return Vec::new() };
    // The first line may be cut by the window, unless the window begins where the log does.
    let cut = usize::from(from > first && found.lines.len() > 1);
    let lines = &found.lines[cut..];
    lines[lines.len().saturating_sub(count)..].iter().map(|line| line.text.clone()).collect()
}

fn parse_line(line: &[u8]) -> Option<LogLine> {
    let text = String::from_utf8_lossy(line);
    let mut parts = text.trim_end_matches('\n').splitn(3, ' ');
    let at_ms = parts.next()?.parse().ok()?;
    let stream = match parts.next()? {
        "o" => LogStream::Stdout,
        "e" => LogStream::Stderr,
        "m" => LogStream::Mainstay,
        _ => return None,
    };
    Some(LogLine { at_ms, stream, text: parts.next().unwrap_or("").to_owned() })
}

fn segment_path(directory: &Path, start: u64) -> PathBuf {
    directory.join(format!("{start:020}.log"))
}

fn open_segment(directory: &Path, start: u64) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(segment_path(directory, start))
}

/// Start offsets, oldest first.
fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut starts: Vec<u64> = std::fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
        .collect();
    starts.sort_unstable();
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(directory: &Path, mut offset: u64) -> (Vec<String>, u64) {
        let mut texts = Vec::new();
        loop {
            let found = read(directory, offset, 1).unwrap();
            if found.next_offset == found.offset {
                return (texts, offset);
            }
            texts.extend(found.lines.into_iter().map(|line| line.text));
            offset = found.next_offset;
        }
    }

    #[test]
    fn offsets_stay_valid_while_old_segments_go() {
        let place = tempfile::tempdir().unwrap();
        let limits = LogLimits { segment_bytes: 4000, segments: 3 };
        let mut writer = LogWriter::open(place.path(), limits).unwrap();
        let mut offset = 0;
        let mut seen = Vec::new();
        for number in 0..1000 {
            writer.line(LogStream::Stdout, format!("line {number}").as_bytes());
            if number % 50 == 0 {
                let (texts, next) = all(place.path(), offset);
                seen.extend(texts);
                offset = next;
            }
        }
        seen.extend(all(place.path(), offset).0);
        assert_eq!(seen, (0..1000).map(|number| format!("line {number}")).collect::<Vec<_>>());
        let (first, end) = extent(place.path()).unwrap().unwrap();
        assert!(first > 0 && end - first < 4 * 4000, "bounded: {first}..{end}");
        let late = read(place.path(), 0, 100).unwrap();
        assert_eq!(late.offset, first, "an offset that is gone begins at the oldest line kept");
    }

    #[test]
    fn a_writer_opened_again_goes_on_where_the_last_one_was_killed() {
        let place = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(place.path(), LogLimits::default()).unwrap();
        writer.line(LogStream::Stdout, b"whole");
        writer.file.write_all(b"1 o half").unwrap();
        drop(writer);
        let mut writer = LogWriter::open(place.path(), LogLimits::default()).unwrap();
        writer.line(LogStream::Stderr, b"after");
        assert_eq!(all(place.path(), 0).0, ["whole", "half", "after"]);
        assert_eq!(tail(place.path(), 1), ["after"]);
    }

    #[test]
    fn a_very_long_line_is_cut_and_bytes_that_are_not_text_do_not_break_the_log() {
        let place = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(place.path(), LogLimits::default()).unwrap();
        let mut splitter = LineSplitter::default();
        let mut input = vec![b'x'; LINE_LIMIT_BYTES * 2 + 10];
        input.extend(b"\r\nnext\r\xff\xfe end");
        splitter.push(&input, |line| writer.line(LogStream::Stdout, line));
        splitter.finish(|line| writer.line(LogStream::Stdout, line));
        let lines = all(place.path(), 0).0;
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>()[..4], [LINE_LIMIT_BYTES, LINE_LIMIT_BYTES, 10, 4]);
        assert_eq!(lines[4], "\u{fffd}\u{fffd} end");
    }

    #[test]
    fn an_offset_beyond_the_end_is_answered_with_the_end() {
        let place = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(place.path(), LogLimits::default()).unwrap();
        writer.line(LogStream::Stdout, b"a");
        let (_, end) = extent(place.path()).unwrap().unwrap();
        assert_eq!(read(place.path(), 10_000, 100).unwrap(), LogRead { offset: end, next_offset: end, lines: vec![] });
    }
}
