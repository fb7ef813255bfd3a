//! Many connections that each ask again as soon as they were answered.

use super::body;
use super::histogram::Histogram;
use super::poller::{Interest, Poller};
use super::sockets::begin_connection;
use super::tls::Line;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const HEAD_LIMIT_BYTES: usize = 16 * 1024;
/// Nobody is kept waiting longer for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// After a connection that failed, so that a server that is down is not asked in a circle.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadSpec {
    pub address: SocketAddr,
    pub connections: usize,
    /// Otherwise each request comes on a connection of its own.
    pub keep_alive: bool,
    /// Over TLS.
    pub tls: bool,
    /// `h0.bench.test` to `hN.bench.test`, in an order without a pattern.
    pub hosts: usize,
    pub body_bytes: usize,
    /// Not counted: caches and connection pools fill.
    pub warm_up: Duration,
    pub duration: Duration,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LoadReport {
    pub answered: u64,
    pub seconds: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    pub most_micros: f64,
    pub failed: u64,
    /// Kept-alive connections that the server closed after an answer: allowed, and said.
    pub reconnected: u64,
    /// What went wrong, and how often; at most twenty kinds.
    pub failures: BTreeMap<String, u64>,
}

impl LoadReport {
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }
}

/// The host of route number `number`.
pub fn host(number: usize) -> String {
    format!("h{number}.bench.test")
}

/// Runs to the end of its time; errors are those of this machine, not of what is asked.
pub fn run(spec: &LoadSpec) -> Result<LoadReport> {
    let mut load = Load::new(spec)?;
    let begun = Instant::now();
    for number in 0..spec.connections {
        load.ask(number)?;
    }
    let counts_from = begun + spec.warm_up;
    let end = counts_from + spec.duration;
    let mut ready = Vec::new();
    let mut looked = begun;
    loop {
        load.poller.wait(Duration::from_millis(50), &mut ready)?;
        let now = Instant::now();
        if now >= end {
            break;
        }
        load.counting = now >= counts_from;
        for number in ready.iter().copied() {
            load.attend(number)?;
        }
        if now - looked > Duration::from_millis(100) {
            looked = now;
            load.look_after_silent_ones(now)?;
        }
    }
    let mut report = load.report;
    report.seconds = spec.duration.as_secs_f64();
    report.p50_micros = load.times.quantile_micros(0.5);
    report.p99_micros = load.times.quantile_micros(0.99);
    report.most_micros = load.times.most_micros();
    Ok(report)
}

struct Load<'a> {
    spec: &'a LoadSpec,
    poller: Poller,
    requests: Vec<Vec<u8>>,
    expected: Vec<u8>,
    scratch: Vec<u8>,
    visitors: Vec<Visitor>,
    times: Histogram,
    report: LoadReport,
    counting: bool,
    random: fastrand::Rng,
}

/// One connection and the request that is open on it.
#[derive(Default)]
struct Visitor {
    stream: Option<Line>,
    asked: Option<Instant>,
    /// The request could not be written yet: the connection does not stand.
    unsent: Option<usize>,
    head: Vec<u8>,
    /// How much of the body has come, once the head was read.
    body: Option<usize>,
    /// The answer is complete; without keep-alive the server closes now.
    complete: bool,
    /// Not to be tried again before.
    not_before: Option<Instant>,
}

impl<'a> Load<'a> {
    fn new(spec: &'a LoadSpec) -> Result<Self> {
        let connection = if spec.keep_alive { "" } else { "Connection: close\r\n" };
        let request = |number| {
            format!(
                "GET /{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: mainstay-bench\r\nAccept: */*\r\n{connection}\r\n",
                spec.body_bytes,
                host(number)
            )
            .into_bytes()
        };
        Ok(Self {
            spec,
            poller: Poller::new()?,
            requests: (0..spec.hosts.max(1)).map(request).collect(),
            expected: body(spec.body_bytes),
            scratch: vec![0; 256 * 1024],
            visitors: (0..spec.connections).map(|_| Visitor::default()).collect(),
            times: Histogram::default(),
            report: LoadReport::default(),
            counting: false,
            random: fastrand::Rng::with_seed(7),
        })
    }

    /// The next request, on the connection that is there or on a new one.
    fn ask(&mut self, number: usize) -> Result<()> {
        let request = self.random.usize(..self.requests.len());
        let visitor = &mut self.visitors[number];
        visitor.asked = Some(Instant::now());
        (visitor.body, visitor.complete, visitor.unsent) = (None, false, Some(request));
        visitor.head.clear();
        if visitor.stream.is_none() {
            match begin_connection(self.spec.address) {
                Ok(stream) => {
                    self.poller.add(&stream, number, Interest::Reading)?;
                    let line = match self.spec.tls {
                        true => Line::secure(stream, &host(request)),
                        false => Ok(Line::Plain(stream)),
                    };
                    match line {
                        Ok(line) => visitor.stream = Some(line),
                        Err(error) => return self.fail(number, format!("connect: {error}")),
                    }
                }
                Err(error) => return self.fail(number, format!("connect: {error}")),
            }
        }
        self.send(number)
    }

    fn send(&mut self, number: usize) -> Result<()> {
        let visitor = &mut self.visitors[number];
        let (Some(stream), Some(request)) = (&mut visitor.stream, visitor.unsent) else { return Ok(()) };
        match stream.write(&self.requests[request]) {
            Ok(length) if length == self.requests[request].len() => {
                visitor.unsent = None;
                Ok(())
            }
            Ok(_) => self.fail(number, "a request was taken in part".into()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                let interest = stream.waits_for();
                self.poller.change(&*stream, number, interest)
            }
            Err(error) => self.fail(number, format!("send: {error}")),
        }
    }

    fn attend(&mut self, number: usize) -> Result<()> {
        let visitor = &mut self.visitors[number];
        let Some(stream) = &mut visitor.stream else { return Ok(()) };
        if visitor.unsent.is_some() {
            self.poller.change(&*stream, number, Interest::Reading)?;
            return self.send(number);
        }
        loop {
            let visitor = &mut self.visitors[number];
            let Some(stream) = &mut visitor.stream else { return Ok(()) };
            let may_hold_more = stream.may_hold_more();
            let length = match stream.read(&mut self.scratch) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return self.fail(number, format!("receive: {error}")),
            };
            if length == 0 {
                return self.closed(number);
            }
            match visitor.take(&self.scratch[..length], &self.expected) {
                Err(problem) => return self.fail(number, problem),
                Ok(false) if length < self.scratch.len() && !may_hold_more => return Ok(()),
                Ok(false) => {}
                Ok(true) => return self.answered(number),
            }
        }
    }

    fn answered(&mut self, number: usize) -> Result<()> {
        let visitor = &mut self.visitors[number];
        visitor.complete = true;
        if let Some(asked) = visitor.asked.take().filter(|_| self.counting) {
            self.times.add(asked.elapsed().as_nanos() as u64);
            self.report.answered += 1;
        }
        if self.spec.keep_alive { self.ask(number) } else { Ok(()) }
    }

    fn closed(&mut self, number: usize) -> Result<()> {
        let visitor = &mut self.visitors[number];
        visitor.stream = None;
        if visitor.complete {
            return self.ask(number);
        }
        if self.spec.keep_alive && visitor.body.is_none() && visitor.head.is_empty() {
            // It was closed while the request was on its way, which a server may do that has answered
            // as many as it wants on one connection. A browser asks again, and so does this.
            self.report.reconnected += u64::from(self.counting);
            return self.ask(number);
        }
        self.fail(number, "closed in the middle of an answer".into())
    }

    fn fail(&mut self, number: usize, problem: String) -> Result<()> {
        let visitor = &mut self.visitors[number];
        *visitor = Visitor { not_before: Some(Instant::now() + PAUSE_AFTER_FAILURE), ..Visitor::default() };
        self.report.failed += 1;
        if self.report.failures.len() < 20 || self.report.failures.contains_key(&problem) {
            *self.report.failures.entry(problem).or_default() += 1;
        }
        Ok(())
    }

    fn look_after_silent_ones(&mut self, now: Instant) -> Result<()> {
        for number in 0..self.visitors.len() {
            let visitor = &self.visitors[number];
            if visitor.asked.is_some_and(|asked| now - asked > ANSWER_LIMIT) {
                self.fail(number, format!("no answer within {} s", ANSWER_LIMIT.as_secs()))?;
            } else if visitor.not_before.is_some_and(|at| now >= at) {
                self.visitors[number].not_before = None;
                self.ask(number)?;
            }
        }
        Ok(())
    }
}

impl Visitor {
    /// Takes bytes of an answer; true when it is complete and as it should be.
    fn take(&mut self, bytes: &[u8], expected: &[u8]) -> Result<bool, String> {
        if self.complete {
            return Err("bytes after the end of an answer".into());
        }
        let (mut come, fresh) = match self.body {
            Some(come) => (come, bytes),
            None if self.head.is_empty() => match head_end(bytes) {
                Some(end) => {
                    check_head(&bytes[..end], expected.len())?;
                    (0, &bytes[end..])
                }
                None => {
                    self.head.extend_from_slice(bytes);
                    return Ok(false);
                }
            },
            None => {
                self.head.extend_from_slice(bytes);
                if self.head.len() > HEAD_LIMIT_BYTES {
                    return Err("the head of an answer is too long".into());
                }
                let Some(end) = head_end(&self.head) else { return Ok(false) };
                check_head(&self.head[..end], expected.len())?;
                let in_body = self.head.len() - end;
                (0, &bytes[bytes.len() - in_body..])
            }
        };
        if expected.get(come..come + fresh.len()) != Some(fresh) {
            return Err("a body that is not the origin's".into());
        }
        come += fresh.len();
        self.body = Some(come);
        Ok(come == expected.len())
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    // Answers of one kilobyte end far behind their head: looked for from the front.
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn check_head(head: &[u8], body_bytes: usize) -> Result<(), String> {
    if head.get(..12) != Some(b"HTTP/1.1 200") {
        return Err(format!("answered {}", String::from_utf8_lossy(&head[..head.len().min(15)]).trim()));
    }
    let mut lines = head.split(|byte| *byte == b'\n');
    let length = lines.find_map(|line| {
        let value = line.get(..15).filter(|name| name.eq_ignore_ascii_case(b"content-length:")).map(|_| &line[15..])?;
        std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok()
    });
    match length {
        Some(length) if length == body_bytes => Ok(()),
        Some(length) => Err(format!("a body of {length} bytes instead of {body_bytes}")),
        None => Err("an answer without Content-Length".into()),
    }
}

/// Runs a load in a process of its own, pinned to the core of the load.
pub fn run_apart(spec: &LoadSpec, core: usize) -> Result<LoadReport> {
    let spec_text = serde_json::to_string(spec)?;
    let text = crate::process::output_of_self(&["load", &core.to_string(), &spec_text], spec.warm_up + spec.duration)?;
    serde_json::from_str(&text).with_context(|| format!("the load said: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn an_answer_is_taken_in_pieces_of_any_size_and_only_if_every_byte_is_right() {
        let whole = answer("hello");
        for cut in 1..whole.len() {
            let mut visitor = Visitor::default();
            assert_eq!(visitor.take(&whole[..cut], b"hello"), Ok(false), "cut at {cut}");
            assert_eq!(visitor.take(&whole[cut..], b"hello"), Ok(true), "cut at {cut}");
        }
        for wrong in ["hallo", "hell", "hello!"] {
            assert!(Visitor::default().take(&answer(wrong), b"hello").is_err(), "{wrong}");
        }
        let refused = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(Visitor::default().take(refused, b"hello"), Err("answered HTTP/1.1 502 Ba".into()));
    }
}
