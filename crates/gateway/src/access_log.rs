//! One JSON line per request, off the hot path.
//!
//! A request hands over a small value by a bounded channel and goes on; a thread of its own makes
//! text of it, writes, flushes and rotates by size. The thread looks for work a few times a second
//! instead of being woken, so handing over costs no system call. When the channel is full the line
//! is dropped and counted, and the next line that gets through says how many were.

use crate::limits::Limits;
use crate::proxy::exchange::RequestId;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::time::{Duration, SystemTime};

const PAUSE: Duration = Duration::from_millis(200);

/// What is kept of a request until its line is written. Cheap to make: texts are shared, not copied.
#[derive(Debug)]
pub struct Entry {
    pub at: SystemTime,
    pub request_id: RequestId,
    pub described: Described,
    pub status: u16,
    pub bytes: u64,
    pub duration: Duration,
    pub service: Option<Arc<crate::upstreams::Service>>,
    pub instance: Option<Arc<crate::upstreams::Upstream>>,
    pub peer: IpAddr,
}

/// What was asked for, in one piece of text: method, host and path, the lengths of the first two beside.
#[derive(Debug)]
pub struct Described {
    text: Box<[u8]>,
    method: usize,
    host: usize,
    protocol: &'static str,
}

/// `path` is without the query, which may hold what nobody else should read.
pub fn describe(method: &str, host: &[u8], path: &str, protocol: &'static str) -> Described {
    let text = [method.as_bytes(), host, path.as_bytes()].concat().into_boxed_slice();
    Described { text, method: method.len(), host: host.len(), protocol }
}

enum Message {
    Line(Box<Entry>),
    Path(Option<PathBuf>),
    Close,
}

/// The writing end; cloned freely.
#[derive(Debug, Clone)]
pub struct AccessLog {
    sender: SyncSender<Message>,
    enabled: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

/// The thread; joined at the end so that the last lines are on disk.
#[derive(Debug)]
pub struct AccessLogThread {
    log: AccessLog,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub fn start(limits: &Limits) -> io::Result<AccessLogThread> {
    let (sender, receiver) = mpsc::sync_channel(limits.access_log_lines);
    let dropped = Arc::<AtomicU64>::default();
    let log = AccessLog { sender, enabled: Arc::default(), dropped: dropped.clone() };
    let (bytes, files) = (limits.access_log_bytes, limits.access_log_files);
    let thread = std::thread::Builder::new()
        .name("access-log".into())
        .spawn(move || Writer { receiver, dropped, said_dropped: 0, bytes, files, output: None }.run())?;
    Ok(AccessLogThread { log, thread: Some(thread) })
}

impl AccessLogThread {
    pub fn log(&self) -> AccessLog {
        self.log.clone()
    }

    /// Writes what is on its way, within a bounded time, and ends the thread.
    pub fn finish(mut self) {
        let closed = (0..50).any(|_| {
            let sent = !matches!(self.log.sender.try_send(Message::Close), Err(TrySendError::Full(_)));
            if !sent {
                std::thread::sleep(PAUSE / 10);
            }
            sent
        });
        if let Some(thread) = self.thread.take().filter(|_| closed) {
            // A thread that panicked has said so itself; there is nothing left to write.
            let _ = thread.join();
        }
    }
}

impl AccessLog {
    /// One that nobody reads.
    #[cfg(test)]
    pub fn off() -> Self {
        Self { sender: mpsc::sync_channel(1).0, enabled: Arc::default(), dropped: Arc::default() }
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub fn write(&self, entry: Entry) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Line(Box::new(entry))) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Changes the file. Waits when the channel is full, so it is for the control side only.
    pub fn set_path(&self, path: Option<PathBuf>) {
        self.enabled.store(path.is_some(), Ordering::Relaxed);
        if self.sender.send(Message::Path(path)).is_err() {
            tracing::error!("the access log thread has ended; requests are not logged");
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Writer {
    receiver: Receiver<Message>,
    dropped: Arc<AtomicU64>,
    said_dropped: u64,
    bytes: u64,
    files: u32,
    output: Option<Output>,
}

struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    size: u64,
}

impl Writer {
    fn run(mut self) {
        loop {
            let open = self.drain();
            self.say_dropped();
            if let Some(output) = &mut self.output
                && let Err(error) = output.file.flush()
            {
                tracing::warn!(path = %output.path.display(), %error, "cannot write the access log");
                let path = output.path.clone();
                self.output = None;
                self.open(path);
            }
            if !open {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Everything that waits now; false when no more will come.
    fn drain(&mut self) -> bool {
        loop {
            match self.receiver.try_recv() {
                Ok(Message::Line(entry)) => {
                    let line = Line::of(&entry);
                    self.write(&line);
                }
                Ok(Message::Path(path)) => self.set_path(path),
                Ok(Message::Close) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn set_path(&mut self, path: Option<PathBuf>) {
        if self.output.as_ref().map(|output| &output.path) == path.as_ref() {
            return;
        }
        if let Some(mut output) = self.output.take()
            && let Err(error) = output.file.flush()
        {
            tracing::warn!(path = %output.path.display(), %error, "cannot write the access log");
        }
        if let Some(path) = path {
            self.open(path);
        }
    }

    fn open(&mut self, path: PathBuf) {
        let opened = OpenOptions::new().create(true).append(true).mode(0o640).open(&path);
        match opened.and_then(|file| file.metadata().map(|m| (file, m.len()))) {
            Ok((file, size)) => {
                self.output = Some(Output { path, file: BufWriter::with_capacity(64 * 1024, file), size });
            }
            Err(error) => tracing::error!(path = %path.display(), %error, "cannot open the access log"),
        }
    }

    fn say_dropped(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let news = dropped - self.said_dropped;
        if news > 0 {
            self.said_dropped = dropped;
            tracing::warn!(lines = news, "the access log could not keep up; lines were dropped");
            self.write(&serde_json::json!({ "time": timestamp(SystemTime::now()), "dropped_lines": news }));
        }
    }

    fn write(&mut self, line: &impl Serialize) {
        let Some(output) = &mut self.output else { return };
        let mut text = serde_json::to_vec(line).expect("a log line serializes to JSON");
        text.push(b'\n');
        output.size += text.len() as u64;
        // What fails here fails again at the flush, where it is said.
        let _ = output.file.write_all(&text);
        if output.size >= self.bytes {
            let path = output.path.clone();
            self.output = None;
            rotate(&path, self.files);
            self.open(path);
        }
    }
}

/// `access.log` → `access.log.1` → … ; the last falls off.
fn rotate(path: &Path, files: u32) {
    let numbered = |number: u32| match number {
        0 => path.to_owned(),
        _ => PathBuf::from(format!("{}.{number}", path.display())),
    };
    for number in (0..files.saturating_sub(1)).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot rotate the access log");
            }
            _ => {}
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request_id: &'a str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    status: u16,
    bytes: u64,
    duration_micros: u64,
    service: Option<&'a str>,
    instance: Option<&'a str>,
    peer: IpAddr,
    protocol: &'static str,
}

impl<'a> Line<'a> {
    fn of(entry: &'a Entry) -> Self {
        let Described { text: whole, method, host, protocol } = &entry.described;
        let (method, rest) = whole.split_at(*method);
        let (host, path) = rest.split_at(*host);
        Self {
            time: timestamp(entry.at),
            request_id: entry.request_id.as_str(),
            method: text(method),
            host: text(host),
            path: text(path),
            status: entry.status,
            bytes: entry.bytes,
            duration_micros: u64::try_from(entry.duration.as_micros()).unwrap_or(u64::MAX),
            service: entry.service.as_ref().map(|service| service.name.as_str()),
            instance: entry.instance.as_ref().map(|instance| instance.instance_id.as_str()),
            peer: entry.peer,
            protocol,
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("?")
}

fn timestamp(at: SystemTime) -> String {
    match jiff::Timestamp::try_from(at) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            at: SystemTime::UNIX_EPOCH,
            request_id: RequestId::of(Some(b"r1")),
            described: describe("GET", b"a.example", path, "HTTP/1.1"),
            status: 200,
            bytes: 5,
            duration: Duration::from_micros(42),
            service: None,
            instance: None,
            peer: IpAddr::from([127, 0, 0, 1]),
        }
    }

    #[test]
    fn a_line_holds_what_was_asked_for_and_files_rotate_by_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let limits = Limits { access_log_bytes: 1000, ..Limits::default() };
        let thread = start(&limits).unwrap();
        let log = thread.log();
        log.set_path(Some(path.clone()));
        for number in 0..40 {
            log.write(entry(&format!("/p{number}")));
        }
        thread.finish();
        let one = std::fs::read_to_string(directory.path().join("access.log.1")).unwrap();
        assert!(directory.path().join("access.log.2").exists());
        assert!(!directory.path().join("access.log.3").exists());
        let line: serde_json::Value = serde_json::from_str(one.lines().next().unwrap()).unwrap();
        assert!(line["path"].as_str().unwrap().starts_with("/p"), "{line}");
        assert_eq!(line["duration_micros"], 42);
        assert_eq!(line["time"], "1970-01-01T00:00:00.000Z");
        assert_eq!((&line["method"], &line["host"]), (&"GET".into(), &"a.example".into()));
    }

    #[test]
    fn a_full_log_drops_lines_and_says_how_many() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let thread = start(&Limits { access_log_lines: 4, ..Limits::default() }).unwrap();
        let log = thread.log();
        log.set_path(Some(path.clone()));
        (0..500).for_each(|_| log.write(entry("/")));
        let dropped = log.dropped();
        assert!(dropped > 0);
        thread.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        let said: u64 = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["dropped_lines"].as_u64())
            .sum();
        assert_eq!(said, dropped, "{text}");
    }
}
