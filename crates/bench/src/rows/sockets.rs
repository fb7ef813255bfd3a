//! Memory: what a proxy needs when nobody comes, and what each connection costs that only stays open.

use crate::context::Context;
use crate::figure::{Better, Figure};
use crate::http::sockets::{become_part, raise_file_limit};
use crate::peers::{Kind, Proxy};
use crate::process::{Helper, OriginProcess};
use anyhow::{Context as _, Result};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// As the issue asks; fewer where the system allows fewer open files, of which a proxy needs two each.
const WANTED: u64 = 10_000;
/// How many are asked for before the first answer is read.
const AT_ONCE: usize = 250;
/// Files of a program beside its connections.
const OTHER_FILES: u64 = 150;
/// Until memory that was needed only for a moment is given back.
const SETTLING: Duration = Duration::from_secs(2);

pub fn memory(context: &Context) -> Result<Vec<Figure>> {
    let most = raise_file_limit().saturating_sub(OTHER_FILES) / 2;
    let count = if context.quick { 500 } else { WANTED.min(most) };
    let mut idle = Figure::new("gateway-memory", "memory, idle, one route", "MB", Better::Less).goal(10.0);
    let what = format!("memory of an idle WebSocket, {count} open");
    let mut each = Figure::new("gateway-memory", what, "KB", Better::Less).goal(12.0).size(count);
    if count < WANTED && !context.quick {
        each.note(format!("{count} instead of {WANTED}: this system allows a program {} open files", most * 2));
    }
    let runs = if context.quick { 1 } else { context.runs() };
    for _ in 0..runs {
        for kind in context.tools.proxies().into_iter().filter(|kind| *kind != Kind::Direct) {
            let origin = OriginProcess::start(context.load_core)?;
            let proxy = Proxy::start(context, kind, SocketAddr::from((Ipv4Addr::LOCALHOST, origin.port)), 1)?;
            std::thread::sleep(SETTLING / 2);
            let before = proxy.memory_bytes();
            idle.add(kind.name(), before as f64 / 1e6);
            let words = ["sockets", &context.load_core.to_string(), &proxy.address.to_string(), &count.to_string()];
            let mut holder = Helper::start(&words)?;
            match holder.line()?.strip_prefix("open ") {
                Some(open) if open == count.to_string() => {
                    std::thread::sleep(SETTLING / 2);
                    let grown = proxy.memory_bytes().saturating_sub(before);
                    each.add(kind.name(), grown as f64 / 1000.0 / count as f64);
                }
                said => each.note(format!("{}: not every WebSocket could be opened: {said:?}", kind.name())),
            }
        }
    }
    Ok(vec![idle, each])
}

/// Opens WebSockets, says how many stand, and holds them until it is ended.
pub fn hold_sockets(core: usize, address: SocketAddr, count: usize) -> Result<()> {
    become_part(core)?;
    raise_file_limit();
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        // Many at once: one after the other, each would wait for three programs to have their turn.
        let flight = (count - held.len()).min(AT_ONCE);
        let opened = (0..flight).map(|_| ask_for_websocket(address)).collect::<Result<Vec<_>>>();
        let answered =
            opened.and_then(|asked| asked.into_iter().map(answered_with_websocket).collect::<Result<Vec<_>>>());
        match answered {
            Ok(answered) => held.extend(answered),
            Err(error) => {
                println!("{} open, then: {error:#}", held.len());
                return Ok(());
            }
        }
    }
    println!("open {}", held.len());
    // Until the bench closes its end.
    let mut end = Vec::new();
    std::io::stdin().read_to_end(&mut end).context("wait for the end")?;
    Ok(())
}

fn ask_for_websocket(address: SocketAddr) -> Result<TcpStream> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let host = crate::http::load::host(0);
    write!(
        stream,
        "GET /websocket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    Ok(stream)
}

fn answered_with_websocket(mut stream: TcpStream) -> Result<TcpStream> {
    let mut answer = Vec::new();
    // Nothing follows the head: the origin says nothing by itself.
    while !answer.ends_with(b"\r\n\r\n") {
        let mut bytes = [0; 1024];
        let length = stream.read(&mut bytes).context("read the answer to an upgrade")?;
        anyhow::ensure!(length > 0, "closed before it had answered");
        answer.extend_from_slice(&bytes[..length]);
    }
    let line = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 101"), "answered {line}");
    Ok(stream)
}
