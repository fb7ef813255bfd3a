//! What visitors lose while one release follows the other: nothing, it should be.
//!
//! Some ask on kept connections as steadily as they can, some send uploads that take a second, and one holds
//! a WebSocket and sends frames that have to come back. Every failure counts, whatever its reason: another status
//! than 200, an answer of nobody's release, an upload that was not taken whole, a frame that did not come back.
//! Nobody asks twice.
//!
//! A WebSocket is closed by the visitor after a while and opened anew: it outlives the switch that happens
//! meanwhile, and ends within the time that an old release gets to finish (`drain`). One that stayed for ever
//! would be cut when that time is over, which is what `drain` promises.

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use crate::http::visitor::{Visitor, connect};
use crate::service::WebSocketFrame;
use crate::system::Releases;
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const STEADY: usize = 8;
const PAUSE: Duration = Duration::from_millis(2);
const UPLOADS: usize = 2;
/// An upload takes a second.
const PIECES: usize = 20;
const PIECE_BYTES: usize = 4 * 1024;
const BEFORE_PIECE: Duration = Duration::from_millis(50);
/// So long a WebSocket lives.
const FRAMES: usize = 50;
const BEFORE_FRAME: Duration = Duration::from_millis(20);
/// No more changes are begun after this.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Different failures that are told of.
const KINDS: usize = 10;

pub fn lost(context: &Context) -> Result<Vec<Figure>> {
    let rounds = if context.quick { 5 } else { 100 };
    let what = format!("requests, uploads and WebSockets lost in {rounds} deployments and {rounds} rollbacks");
    let mut lost = Figure::new("releases-lost", what, "", Better::Less).goal(0.0);
    let mut slowest = Figure::new("releases-lost", "the slowest request meanwhile", "ms", Better::Less);
    let mut releases = Releases::begin(context, "")?;
    let crowd = Crowd::start(releases.system.gateway);
    let begun = Instant::now();
    let changed = change(&mut releases, rounds, begun);
    let seen = crowd.finish()?;
    let done = changed?;
    lost.add(MAINSTAY, seen.failures.values().sum::<u64>() as f64);
    slowest.add(MAINSTAY, seen.slowest.as_secs_f64() * 1000.0);
    lost.note(format!(
        "in {:.0} s {} requests were answered on {STEADY} kept connections, {} uploads of a second taken, {} WebSockets \
         opened and closed, and {} frames came back",
        begun.elapsed().as_secs_f64(),
        seen.answered,
        seen.uploads,
        seen.sockets,
        seen.frames
    ));
    if done < rounds {
        lost.note(format!("only {done} of {rounds} rounds were made in {} s", LIMIT.as_secs()));
    }
    for (problem, count) in seen.failures {
        lost.note(format!("{count} times: {problem}"));
    }
    Ok(vec![lost, slowest])
}

/// Answers how many rounds were made.
fn change(releases: &mut Releases, rounds: usize, begun: Instant) -> Result<usize> {
    for round in 0..rounds {
        if begun.elapsed() > LIMIT {
            return Ok(round);
        }
        let (_, deployment) = releases.deploy()?;
        releases.system.wait_running(&releases.client, &deployment)?;
        let (_, deployment) = releases.roll_back()?;
        releases.system.wait_running(&releases.client, &deployment)?;
    }
    Ok(rounds)
}

#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    uploads: u64,
    sockets: u64,
    frames: u64,
    slowest: Duration,
    failures: BTreeMap<String, u64>,
}

impl Seen {
    fn note<T>(&mut self, outcome: Result<T>) -> Option<T> {
        outcome.inspect_err(|error| self.fail(format!("{error:#}"))).ok()
    }

    fn fail(&mut self, problem: String) {
        let known = self.failures.len() < KINDS || self.failures.contains_key(&problem);
        *self.failures.entry(if known { problem } else { "something else".into() }).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.uploads += other.uploads;
        self.sockets += other.sockets;
        self.frames += other.frames;
        self.slowest = self.slowest.max(other.slowest);
        for (problem, count) in other.failures {
            *self.failures.entry(problem).or_default() += count;
        }
    }
}

/// Everybody who visits, each in a thread, until they are told to stop.
struct Crowd {
    stop: Arc<AtomicBool>,
    visitors: Vec<JoinHandle<Seen>>,
}

impl Crowd {
    fn start(address: SocketAddr) -> Self {
        let mut crowd = Self { stop: Arc::default(), visitors: Vec::new() };
        for _ in 0..STEADY {
            crowd.add(address, ask);
        }
        for _ in 0..UPLOADS {
            crowd.add(address, upload);
        }
        crowd.add(address, |visitor, seen| talk(visitor.address(), seen));
        crowd
    }

    /// Does something again and again.
    fn add(&mut self, address: SocketAddr, visit: fn(&mut Visitor, &mut Seen)) {
        let stop = self.stop.clone();
        self.visitors.push(std::thread::spawn(move || {
            let (mut visitor, mut seen) = (Visitor::new(address), Seen::default());
            while !stop.load(Ordering::Relaxed) {
                visit(&mut visitor, &mut seen);
            }
            seen
        }));
    }

    fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for visitor in self.visitors {
            all.add(visitor.join().ok().context("a visitor broke")?);
        }
        Ok(all)
    }
}

fn ask(visitor: &mut Visitor, seen: &mut Seen) {
    let begun = Instant::now();
    let outcome = visitor.get("/").and_then(|answer| {
        ensure!(answer.status == 200, "answered {}: {}", answer.status, answer.body);
        ensure!(answer.body.starts_with("release v"), "another answer than the service's: {}", answer.body);
        Ok(())
    });
    seen.slowest = seen.slowest.max(begun.elapsed());
    seen.answered += u64::from(seen.note(outcome).is_some());
    std::thread::sleep(PAUSE);
}

fn upload(visitor: &mut Visitor, seen: &mut Seen) {
    let outcome = visitor.post_slowly("/upload", &[b'x'; PIECE_BYTES], PIECES, BEFORE_PIECE).and_then(|answer| {
        let wanted = format!("took {} bytes", PIECE_BYTES * PIECES);
        ensure!(answer.status == 200 && answer.body.ends_with(&wanted), "an upload: {answer:?}");
        Ok(())
    });
    seen.uploads += u64::from(seen.note(outcome).is_some());
}

fn talk(address: SocketAddr, seen: &mut Seen) {
    let outcome = open(address).and_then(|mut socket| {
        for number in 0..FRAMES {
            std::thread::sleep(BEFORE_FRAME);
            let frame = WebSocketFrame::text(&format!("frame {number}"));
            exchange(&mut socket, &frame).with_context(|| format!("a WebSocket after {number} frames"))?;
            seen.frames += 1;
        }
        exchange(&mut socket, &WebSocketFrame::close()).context("close a WebSocket")
    });
    seen.sockets += u64::from(seen.note(outcome).is_some());
}

fn open(address: SocketAddr) -> Result<BufReader<std::net::TcpStream>> {
    let mut socket = BufReader::new(connect(address)?);
    write!(
        socket.get_mut(),
        "GET /websocket HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .context("ask for a WebSocket")?;
    let mut first = String::new();
    socket.read_line(&mut first).context("ask for a WebSocket")?;
    ensure!(first.starts_with("HTTP/1.1 101"), "a WebSocket was answered with {first:?}");
    let mut line = first;
    while !line.trim().is_empty() {
        line.clear();
        socket.read_line(&mut line).context("ask for a WebSocket")?;
    }
    Ok(socket)
}

/// Sends a frame and reads it back.
fn exchange(socket: &mut BufReader<std::net::TcpStream>, frame: &WebSocketFrame) -> Result<()> {
    frame.write(socket.get_mut(), Some([7, 1, 5, 3]))?;
    let back = WebSocketFrame::read(socket)?;
    ensure!(&back == frame, "another frame came back: {back:?}");
    Ok(())
}
