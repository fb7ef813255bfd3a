//! One JSON line per request, off the hot path.
//!
//! Who ends a request writes its line into memory and goes on; a thread of its own writes what has
//! gathered there to the file, flushes and rotates by size. The thread looks for work a few times a
//! second instead of being woken, so a line costs no system call. When too many lines wait the line is
//! dropped and counted, and the next that are written are followed by how many were.

use crate::http1::{text_give_back, text_take, write_number};
use crate::limits::Limits;
use crate::proxy::exchange::RequestId;
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

const PAUSE: Duration = Duration::from_millis(200);
/// Memory for lines that is kept while few requests come.
const KEPT_BYTES: usize = 64 * 1024;

/// What is told of a request when it has ended.
#[derive(Debug)]
pub struct Entry<'a> {
    pub at: SystemTime,
    pub request_id: &'a RequestId,
    pub described: Described,
    pub status: u16,
    pub bytes: u64,
    pub duration: Duration,
    pub service: Option<&'a str>,
    pub instance: Option<&'a str>,
    pub peer: IpAddr,
}

/// What was asked for, as a piece of the line.
#[derive(Debug)]
pub struct Described(Vec<u8>);

/// `path` is without the query, which may hold what nobody else should read.
pub fn describe(method: &str, host: &[u8], path: &str, protocol: &'static str) -> Described {
    let mut text = text_take();
    for (name, value) in [("method", method.as_bytes()), ("host", host), ("path", path.as_bytes())] {
        write_text(&mut text, name, value);
    }
    write_text(&mut text, "protocol", protocol.as_bytes());
    Described(text)
}

enum Order {
    /// From now on lines go there; those that came before it still go to where they went.
    Path {
        before: Vec<u8>,
        path: Option<PathBuf>,
    },
    Close,
}

/// The writing end; cloned freely.
#[derive(Debug, Clone)]
pub struct AccessLog {
    orders: Sender<Order>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    enabled: AtomicBool,
    dropped: AtomicU64,
    waiting: Mutex<Waiting>,
    lines_limit: usize,
}

/// Lines that nobody has written to the file yet.
#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    lines: usize,
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // What was half written when a thread panicked is a broken line and no reason to stop.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<u8> {
        let mut waiting = self.waiting();
        waiting.lines = 0;
        std::mem::take(&mut waiting.text)
    }
}

/// The thread; joined at the end so that the last lines are on disk.
#[derive(Debug)]
pub struct AccessLogThread {
    log: AccessLog,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub fn start(limits: &Limits) -> io::Result<AccessLogThread> {
    let (log, receiver) = AccessLog::new(limits.access_log_lines);
    let (bytes, files) = (limits.access_log_bytes, limits.access_log_files);
    let shared = log.shared.clone();
    let writer = Writer { receiver, shared, said_dropped: 0, bytes, files, output: None };
    let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run())?;
    Ok(AccessLogThread { log, thread: Some(thread) })
}

impl AccessLogThread {
    pub fn log(&self) -> AccessLog {
        self.log.clone()
    }

    /// Writes what is on its way and ends the thread.
    pub fn finish(mut self) {
        let closed = self.log.orders.send(Order::Close).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| closed) {
            // A thread that panicked has said so itself; there is nothing left to write.
            let _ = thread.join();
        }
    }
}

impl AccessLog {
    fn new(lines_limit: usize) -> (Self, Receiver<Order>) {
        let (orders, receiver) = mpsc::channel();
        let (enabled, dropped, waiting) = Default::default();
        (Self { orders, shared: Arc::new(Shared { enabled, dropped, waiting, lines_limit }) }, receiver)
    }

    /// One that nobody reads.
    #[cfg(test)]
    pub fn off() -> Self {
        Self::new(1).0
    }

    pub fn is_enabled(&self) -> bool {
        self.shared.enabled.load(Ordering::Relaxed)
    }

    pub fn write(&self, entry: Entry<'_>) {
        let mut line = text_take();
        entry.write(&mut line);
        {
            let mut waiting = self.shared.waiting();
            if waiting.lines < self.shared.lines_limit {
                waiting.lines += 1;
                waiting.text.extend_from_slice(&line);
            } else {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        text_give_back(line);
        text_give_back(entry.described.0);
    }

    /// Changes the file.
    pub fn set_path(&self, path: Option<PathBuf>) {
        self.shared.enabled.store(path.is_some(), Ordering::Relaxed);
        if self.orders.send(Order::Path { before: self.shared.take(), path }).is_err() {
            tracing::error!("the access log thread has ended; requests are not logged");
        }
    }

    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Entry<'_> {
    fn write(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(b"{\"time\":\"");
        write_time(line, self.at);
        line.push(b'"');
        write_text(line, "request_id", self.request_id.as_bytes());
        line.extend_from_slice(&self.described.0);
        let micros = u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX);
        for (name, number) in [("status", self.status.into()), ("bytes", self.bytes), ("duration_micros", micros)] {
            write_name(line, name);
            write_number(line, number);
        }
        for (name, value) in [("service", self.service), ("instance", self.instance)] {
            match value {
                Some(value) => write_text(line, name, value.as_bytes()),
                None => {
                    write_name(line, name);
                    line.extend_from_slice(b"null");
                }
            }
        }
        write_name(line, "peer");
        // Writing into memory cannot fail.
        let _ = write!(line, "\"{}\"", self.peer);
        line.extend_from_slice(b"}\n");
    }
}

fn write_name(line: &mut Vec<u8>, name: &str) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
}

fn write_text(line: &mut Vec<u8>, name: &str, value: &[u8]) {
    write_name(line, name);
    let plain = value.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'));
    if plain {
        line.push(b'"');
        line.extend_from_slice(value);
        line.push(b'"');
    } else {
        // Writing text into memory cannot fail.
        let _ = serde_json::to_writer(line, std::str::from_utf8(value).unwrap_or("?"));
    }
}

fn write_time(line: &mut Vec<u8>, at: SystemTime) {
    thread_local! {
        /// The second that was written last, and its text without `Z`.
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            *text = timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(*second)).replace(".000Z", "");
        }
        line.extend_from_slice(text.as_bytes());
    });
    let millis = since.subsec_millis();
    let digit = |of: u32| b'0' + (millis / of % 10) as u8;
    line.extend_from_slice(&[b'.', digit(100), digit(10), digit(1), b'Z']);
}

struct Writer {
    receiver: Receiver<Order>,
    shared: Arc<Shared>,
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
            // Who writes no log is woken by nothing but the order to write one.
            let order = match self.shared.enabled.load(Ordering::Relaxed) {
                true => self.receiver.recv_timeout(PAUSE),
                false => self.receiver.recv().map_err(RecvTimeoutError::from),
            };
            let open = match order {
                Ok(Order::Path { before, path }) => {
                    self.write(&before);
                    self.set_path(path);
                    true
                }
                Ok(Order::Close) | Err(RecvTimeoutError::Disconnected) => false,
                Err(RecvTimeoutError::Timeout) => true,
            };
            self.drain();
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
        }
    }

    /// Everything that waits now.
    fn drain(&mut self) {
        let mut text = self.shared.take();
        self.write(&text);
        if text.capacity() <= KEPT_BYTES {
            // So that the next line finds memory.
            text.clear();
            let mut waiting = self.shared.waiting();
            if waiting.text.capacity() == 0 {
                waiting.text = text;
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
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        let news = dropped - self.said_dropped;
        if news > 0 {
            self.said_dropped = dropped;
            tracing::warn!(lines = news, "the access log could not keep up; lines were dropped");
            let said = serde_json::json!({ "time": timestamp(SystemTime::now()), "dropped_lines": news });
            self.write(format!("{said}\n").as_bytes());
        }
    }

    /// Writes whole lines, each into the file that has room for it.
    fn write(&mut self, lines: &[u8]) {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let Some(output) = &mut self.output else { return };
            output.size += line.len() as u64;
            // What fails here fails again at the flush, where it is said.
            let _ = output.file.write_all(line);
            if output.size >= self.bytes {
                let path = output.path.clone();
                self.output = None;
                rotate(&path, self.files);
                self.open(path);
            }
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

fn timestamp(at: SystemTime) -> String {
    match jiff::Timestamp::try_from(at) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(request_id: &'a RequestId, path: &str) -> Entry<'a> {
        Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(7),
            request_id,
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
        let request_id = RequestId::of(Some(b"r1"));
        for number in 0..40 {
            log.write(entry(&request_id, &format!("/p{number}/\"ü\\")));
        }
        thread.finish();
        let one = std::fs::read_to_string(directory.path().join("access.log.1")).unwrap();
        assert!(directory.path().join("access.log.2").exists());
        assert!(!directory.path().join("access.log.3").exists());
        let line: serde_json::Value = serde_json::from_str(one.lines().next().unwrap()).unwrap();
        let asked = line["path"].as_str().unwrap();
        assert!(asked.starts_with("/p") && asked.ends_with("/\"ü\\"), "{line}");
        assert_eq!(line["duration_micros"], 42);
        assert_eq!(line["time"], "1970-01-01T00:00:00.007Z");
        assert_eq!((&line["method"], &line["host"]), (&"GET".into(), &"a.example".into()));
    }

    #[test]
    fn a_full_log_drops_lines_and_says_how_many() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let thread = start(&Limits { access_log_lines: 4, ..Limits::default() }).unwrap();
        let log = thread.log();
        log.set_path(Some(path.clone()));
        let request_id = RequestId::of(None);
        (0..500).for_each(|_| log.write(entry(&request_id, "/")));
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
