//! Stands in for the `mainstay` binary in this crate's tests, which cannot depend on it: the hidden
//! commands that the process driver runs, and a few well- and ill-behaved services.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    if let Some(code) = git::helpers::dispatch() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["shim", directory] => agent::drivers::process::shim::run(Path::new(directory)),
        ["static", "--directory", directory] => serve(&port(), Some(directory)),
        // An HTTP server on PORT.
        ["serve"] => serve(&port(), None),
        // An HTTP server on a port of its own choice.
        ["serve-on", port] => serve(port, None),
        // Like `serve`, after a while.
        ["serve-after", ms] => {
            std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
            serve(&port(), None)
        }
        // Takes memory until it is killed or has that much.
        ["eat", megabytes] => eat(megabytes.parse().unwrap_or(0)),
        // Prints numbered lines.
        ["print", count] => {
            for number in 0..count.parse::<u64>().unwrap_or(0) {
                println!("line {number} of a log that is long enough to be rotated several times in a test");
            }
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        other => {
            eprintln!("agent-test-helper: unknown command {other:?}");
            ExitCode::from(2)
        }
    }
}

fn port() -> String {
    std::env::var("PORT").unwrap_or_default()
}

fn serve(port: &str, directory: Option<&str>) -> ExitCode {
    let listener = match TcpListener::bind(("127.0.0.1", port.parse().unwrap_or(0))) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("could not listen on {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let mut request = [0; 4096];
        let count = stream.read(&mut request).unwrap_or(0);
        let text = String::from_utf8_lossy(&request[..count]).into_owned();
        let path = text.split(' ').nth(1).unwrap_or("/").to_owned();
        let body = match directory {
            Some(directory) => std::fs::read_to_string(format!("{directory}{path}")).unwrap_or_default(),
            None => std::env::var("MAINSTAY_COMMIT").unwrap_or_default(),
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes());
    }
    ExitCode::SUCCESS
}

fn eat(megabytes: usize) -> ExitCode {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    for number in 0..megabytes {
        // Written to, so that it is really there.
        eaten.push(vec![(number % 250) as u8 + 1; 1024 * 1024]);
    }
    println!("ate {} MB", eaten.len());
    std::thread::sleep(Duration::from_secs(3600));
    ExitCode::SUCCESS
}
