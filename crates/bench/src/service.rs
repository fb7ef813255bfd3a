//! The service that the rows about releases and logs deploy, of the standard library alone: it says which
//! release it is, echoes WebSocket frames, takes uploads, and writes lines.
//!
//! | path | answer |
//! |---|---|
//! | `/` | `release NAME` |
//! | `/healthz` | 200 |
//! | `POST /upload` | `release NAME took N bytes` |
//! | `/websocket` | 101, then every frame comes back |
//! | `/write/N` | N lines `line K` of about 100 bytes to stdout, as fast as they are taken |
//!
//! `STAMP_EVERY_MS` writes `stamp N`, the nanoseconds since 1970, about so often. It has no handler for SIGTERM:
//! what is not finished when it is stopped is lost, and would be counted.

use crate::http::origin::UPGRADED;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
/// The largest of the short form, which has no further length.
const FRAME_LIMIT_BYTES: usize = 125;

pub fn serve(release: &str) -> Result<()> {
    let port: u16 = std::env::var("PORT").context("PORT is not set")?.parse().context("PORT is no port")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("listen on {port}"))?;
    if let Some(every_ms) = std::env::var("STAMP_EVERY_MS").ok().and_then(|text| text.parse().ok()) {
        std::thread::spawn(move || write_stamps(every_ms));
    }
    for stream in listener.incoming().flatten() {
        let release = release.to_owned();
        std::thread::spawn(move || {
            // A visitor who goes away in the middle is no reason to fail.
            let _ = attend(stream, &release);
        });
    }
    Ok(())
}

/// Nanoseconds since 1970.
pub fn now_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Not in step with anything that looks at the log in a rhythm of its own.
fn write_stamps(every_ms: u64) {
    loop {
        println!("stamp {}", now_nanos());
        std::thread::sleep(Duration::from_millis(fastrand::u64(every_ms / 2..=every_ms * 3 / 2)));
    }
}

fn write_lines(count: u64) -> Result<()> {
    let mut output = BufWriter::new(std::io::stdout().lock());
    let padding = "-".repeat(80);
    for number in 1..=count {
        writeln!(output, "line {number} {padding}")?;
    }
    Ok(output.flush()?)
}

fn attend(stream: TcpStream, release: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some((path, length)) = read_head(&mut reader)? {
        let taken = std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        let body = match path.as_str() {
            "/websocket" => return echo(&mut reader),
            "/upload" => format!("release {release} took {taken} bytes"),
            path => {
                if let Some(count) = path.strip_prefix("/write/").and_then(|count| count.parse().ok()) {
                    write_lines(count)?;
                }
                format!("release {release}")
            }
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
        reader.get_mut().write_all(format!("{head}{body}").as_bytes())?;
    }
    Ok(())
}

/// Path and length of the body of the next request; `None` when there is none.
fn read_head(reader: &mut impl BufRead) -> Result<Option<(String, u64)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).context("a request without a path")?.to_owned();
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field)?;
        let field = field.trim().to_ascii_lowercase();
        if field.is_empty() {
            return Ok(Some((path, length)));
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().context("a length that is no number")?;
        }
    }
}

fn echo(reader: &mut BufReader<TcpStream>) -> Result<()> {
    reader.get_mut().write_all(UPGRADED)?;
    loop {
        let frame = WebSocketFrame::read(reader)?;
        frame.write(reader.get_mut(), None)?;
        if frame.is_close() {
            return Ok(());
        }
    }
}

/// A short frame that is a whole message (RFC 6455, 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketFrame {
    opcode: u8,
    pub payload: Vec<u8>,
}

impl WebSocketFrame {
    pub fn text(text: &str) -> Self {
        Self { opcode: TEXT, payload: text.as_bytes().to_vec() }
    }

    pub fn close() -> Self {
        Self { opcode: CLOSE, payload: Vec::new() }
    }

    fn is_close(&self) -> bool {
        self.opcode == CLOSE
    }

    pub fn read(reader: &mut impl Read) -> Result<Self> {
        let mut head = [0; 2];
        reader.read_exact(&mut head).context("read a frame")?;
        let (length, is_masked) = (usize::from(head[1] & 0x7f), head[1] & 0x80 != 0);
        anyhow::ensure!(length <= FRAME_LIMIT_BYTES, "a frame of the long form");
        let mut mask = [0; 4];
        if is_masked {
            reader.read_exact(&mut mask).context("read a frame")?;
        }
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).context("read a frame")?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Ok(Self { opcode: head[0] & 0x0f, payload })
    }

    /// Who asks has to mask what it sends, who answers must not.
    pub fn write(&self, writer: &mut impl Write, mask: Option<[u8; 4]>) -> Result<()> {
        anyhow::ensure!(self.payload.len() <= FRAME_LIMIT_BYTES, "too long for one short frame");
        let flag = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | self.opcode, flag | self.payload.len() as u8];
        bytes.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
        let mask = mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        writer.write_all(&bytes).context("send a frame")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_masked_and_plain_and_only_when_it_is_whole() {
        for mask in [None, Some([1, 2, 3, 4])] {
            let mut bytes = Vec::new();
            WebSocketFrame::text("number 7").write(&mut bytes, mask).unwrap();
            assert_eq!(WebSocketFrame::read(&mut &bytes[..]).unwrap(), WebSocketFrame::text("number 7"));
            assert_eq!(bytes[1] & 0x80 != 0, mask.is_some());
            assert!(WebSocketFrame::read(&mut &bytes[..bytes.len() - 1]).is_err());
        }
    }
}
