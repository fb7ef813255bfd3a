//! The smallest service that behaves well: it listens on the port it is given, says that it is well,
//! and finishes what it is doing before it stops. Only the standard library, so that it builds
//! anywhere in seconds; a real service would use a web framework.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

static STOP: AtomicBool = AtomicBool::new(false);
static OPEN_REQUESTS: AtomicUsize = AtomicUsize::new(0);

const REQUEST_LIMIT_BYTES: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    on_sigterm();
    let port: u16 = std::env::var("PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    let listener = match TcpListener::bind(("127.0.0.1", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("hello cannot listen on 127.0.0.1:{port}: {error}");
            std::process::exit(1);
        }
    };
    println!("hello listens on http://127.0.0.1:{port}");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            OPEN_REQUESTS.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                // A visitor who goes away in the middle is no reason to fail.
                let _ = answer(stream);
                OPEN_REQUESTS.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });

    while !STOP.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("hello was asked to stop; finishing {} open requests", OPEN_REQUESTS.load(Ordering::SeqCst));
    let asked = Instant::now();
    while OPEN_REQUESTS.load(Ordering::SeqCst) > 0 && asked.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One request, one answer, then the connection ends.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(REQUEST_LIMIT_BYTES)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/") => ("200 OK", "text/html; charset=utf-8", page()),
        ("GET" | "HEAD", "/healthz") => ("200 OK", "text/plain", "well\n".to_owned()),
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "there is nothing here\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET is answered\n".to_owned()),
    };
    if path != "/healthz" {
        println!("{method} {} {status}", path.escape_debug());
    }
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

fn page() -> String {
    let fact = |name: &str, value: String| format!("<dt>{name}</dt><dd><code>{value}</code></dd>");
    let variable = |name: &str| std::env::var(name).ok().map(|text| escape(&text));
    let mut facts = fact("process", std::process::id().to_string());
    for (label, name) in [
        ("commit", "MAINSTAY_COMMIT"),
        ("revision", "MAINSTAY_REVISION"),
        ("instance", "MAINSTAY_INSTANCE"),
        ("port", "PORT"),
    ] {
        if let Some(value) = variable(name) {
            facts.push_str(&fact(label, value));
        }
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>hello</title>\
         <style>body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;color:#1c2733;background:#f7f9fa}}\
         h1{{font-weight:600;margin:0}}dl{{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin-top:2rem}}\
         dt{{color:#5b6b7b}}dd{{margin:0;overflow-wrap:anywhere}}@media(prefers-color-scheme:dark){{body{{color:#e4e9ee;background:#141a20}}dt{{color:#93a3b3}}}}</style>\
         <h1>Hello from Mainstay.</h1><p>This page was cloned, built, started, checked and routed by one command.</p><dl>{facts}</dl></html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The standard library has no signals; libc, which it links anyway, has.
fn on_sigterm() {
    const SIGTERM: i32 = 15;
    const SIGINT: i32 = 2;
    extern "C" fn stop(_signal: i32) {
        STOP.store(true, Ordering::SeqCst);
    }
    extern "C" {
        fn signal(signal: i32, handler: extern "C" fn(i32)) -> usize;
    }
    // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
    unsafe {
        signal(SIGTERM, stop);
        signal(SIGINT, stop);
    }
}
