//! A service for the tests, of the standard library alone: it answers with its version and does on
//! request what services do on bad days.
//!
//! | path | answer |
//! |---|---|
//! | `/` | `version V pid P instance I count N`; N is given once in the life of a process |
//! | `/healthz` | 200, or 503 after `/break` |
//! | `/status/CODE` | that status |
//! | `/slow/MS` | the same as `/` after that many milliseconds |
//! | `/env/NAME` | the value of a variable |
//! | `/exit/CODE` | ends the process |
//! | `/break` | makes `/healthz` fail from now on |
//! | `/log/TEXT` | writes TEXT to stdout |
//! | `/numbered` | how many numbered lines were written |
//!
//! `VERSION` names the release, `LISTEN_ON` overrides `PORT`, `START_DELAY_MS` delays listening.
//! `LOG_EVERY_MS` writes `numbered PID N` with a rising N to stdout so often.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

static BROKEN: AtomicBool = AtomicBool::new(false);
static ANSWERS: AtomicU64 = AtomicU64::new(0);
static LINES: AtomicU64 = AtomicU64::new(0);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn main() {
    let version = std::env::args().nth(1).unwrap_or_else(|| variable("VERSION"));
    println!("e2e-app {version} begins");
    if let Ok(every_ms) = variable("LOG_EVERY_MS").parse() {
        std::thread::spawn(move || write_numbered_lines(Duration::from_millis(every_ms)));
    }
    let delay_ms = variable("START_DELAY_MS").parse().unwrap_or(0);
    std::thread::sleep(Duration::from_millis(delay_ms));
    let port = match variable("LISTEN_ON").parse::<u16>() {
        Ok(port) => port,
        Err(_) => variable("PORT").parse().expect("PORT is a number"),
    };
    let listener = match TcpListener::bind(("127.0.0.1", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen on {port}: {error}");
            std::process::exit(98);
        }
    };
    println!("e2e-app {version} listens on {port}");
    for stream in listener.incoming().flatten() {
        let version = version.clone();
        std::thread::spawn(move || serve(stream, &version));
    }
}

/// The number is counted after the line is out, so that whoever asks can wait for the line.
fn write_numbered_lines(every: Duration) {
    for number in 1.. {
        println!("numbered {} {number}", std::process::id());
        LINES.store(number, Ordering::Release);
        std::thread::sleep(every);
    }
}

fn serve(stream: TcpStream, version: &str) {
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some((path, length)) = read_head(&mut reader) {
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let (status, text) = answer(&path, version);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", text.len());
        if writer.write_all(format!("{head}{text}").as_bytes()).is_err() {
            return;
        }
    }
}

/// Path and body length of the next request.
fn read_head(reader: &mut BufReader<TcpStream>) -> Option<(String, usize)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            return Some((path, length));
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}

fn answer(path: &str, version: &str) -> (u16, String) {
    let who = || {
        let (pid, instance) = (std::process::id(), variable("MAINSTAY_INSTANCE"));
        let count = ANSWERS.fetch_add(1, Ordering::Relaxed) + 1;
        format!("version {version} pid {pid} instance {instance} count {count}")
    };
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        ("healthz", _) if BROKEN.load(Ordering::Relaxed) => (503, "broken".into()),
        ("healthz", _) => (200, "well".into()),
        ("status", code) => (code.parse().unwrap_or(400), "as asked".into()),
        ("slow", ms) => {
            std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
            (200, who())
        }
        ("env", name) => (200, variable(name)),
        ("exit", code) => std::process::exit(code.parse().unwrap_or(1)),
        ("break", _) => {
            BROKEN.store(true, Ordering::Relaxed);
            (200, "broken from now on".into())
        }
        ("log", text) => {
            println!("{text}");
            (200, "logged".into())
        }
        ("numbered", _) => (200, format!("{} {}", std::process::id(), LINES.load(Ordering::Acquire))),
        _ => (200, who()),
    }
}
