//! Questions to a DNS server: many sockets, one open question on each, every answer looked at.

use crate::http::histogram::Histogram;
use crate::http::load::LoadReport;
use crate::http::poller::{Interest, Poller};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// A question that is not answered by then is lost, and the next is asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QuestionSpec {
    pub address: SocketAddr,
    /// Questions that are open at the same time.
    pub open: usize,
    /// `web-0.svc.internal` to `web-N.svc.internal`, in an order without a pattern.
    pub names: usize,
    pub warm_up: Duration,
    pub duration: Duration,
}

struct Asker {
    socket: UdpSocket,
    id: u16,
    asked: Instant,
}

/// The first label of name number `number`.
pub fn label(number: usize) -> String {
    format!("web-{number}")
}

pub fn run(spec: &QuestionSpec) -> Result<LoadReport> {
    let questions: Vec<Vec<u8>> = (0..spec.names).map(question).collect();
    let mut poller = Poller::new()?;
    let mut random = fastrand::Rng::with_seed(7);
    let mut askers = Vec::new();
    for number in 0..spec.open {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a socket")?;
        socket.connect(spec.address).context("make a socket")?;
        socket.set_nonblocking(true).context("make a socket")?;
        poller.add(&socket, number, Interest::Reading)?;
        let mut asker = Asker { socket, id: 0, asked: Instant::now() };
        asker.ask(&questions, &mut random)?;
        askers.push(asker);
    }
    let (mut times, mut report) = (Histogram::default(), LoadReport::default());
    let begun = Instant::now();
    let (counts_from, end) = (begun + spec.warm_up, begun + spec.warm_up + spec.duration);
    let (mut ready, mut answer, mut looked) = (Vec::new(), [0; 1500], begun);
    loop {
        poller.wait(Duration::from_millis(50), &mut ready)?;
        let now = Instant::now();
        if now >= end {
            break;
        }
        for number in ready.iter().copied() {
            let asker = &mut askers[number];
            let length = match asker.socket.recv(&mut answer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => {
                    note(&mut report, error.to_string());
                    0
                }
            };
            match check(&answer[..length], asker.id) {
                // An answer that came after its time was over.
                Ok(false) => continue,
                Ok(true) if now >= counts_from => {
                    times.add(asker.asked.elapsed().as_nanos() as u64);
                    report.answered += 1;
                }
                Ok(true) => {}
                Err(problem) => note(&mut report, problem.into()),
            }
            asker.ask(&questions, &mut random)?;
        }
        if now - looked > Duration::from_millis(100) {
            looked = now;
            for asker in askers.iter_mut().filter(|asker| now.saturating_duration_since(asker.asked) > ANSWER_LIMIT) {
                note(&mut report, "no answer within a second".into());
                asker.ask(&questions, &mut random)?;
            }
        }
    }
    report.seconds = spec.duration.as_secs_f64();
    report.p50_micros = times.quantile_micros(0.5);
    report.p99_micros = times.quantile_micros(0.99);
    report.most_micros = times.most_micros();
    Ok(report)
}

fn note(report: &mut LoadReport, problem: String) {
    report.failed += 1;
    *report.failures.entry(problem).or_default() += 1;
}

impl Asker {
    fn ask(&mut self, questions: &[Vec<u8>], random: &mut fastrand::Rng) -> Result<()> {
        self.id = self.id.wrapping_add(1);
        let mut question = [0; 512];
        let text = &questions[random.usize(..questions.len())];
        question[..text.len()].copy_from_slice(text);
        question[..2].copy_from_slice(&self.id.to_be_bytes());
        self.asked = Instant::now();
        match self.socket.send(&question[..text.len()]) {
            Ok(_) => Ok(()),
            // The server is not there, which its silence says as well.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => Ok(()),
            Err(error) => Err(error).context("ask a question"),
        }
    }
}

/// A question of type A with recursion desired, as a resolver of a C library asks.
fn question(number: usize) -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [label(number).as_str(), "svc", "internal"] {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// Whether it is the answer to this question; an error if that is not one address on loopback.
fn check(message: &[u8], id: u16) -> Result<bool, &'static str> {
    let header = message.get(..12).ok_or("an answer without a header")?;
    if header[..2] != id.to_be_bytes() {
        return Ok(false);
    }
    if header[2] & 0x80 == 0 || header[3] & 0x0f != 0 {
        return Err("an answer with an error code");
    }
    if header[6..8] != [0, 1] {
        return Err("not one address");
    }
    // What may follow the one record is no more than the additional section.
    let address = [0, 4, 127, 0, 0, 1];
    if message.windows(address.len()).any(|bytes| bytes == address) { Ok(true) } else { Err("another address") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_only_with_its_number_no_error_and_the_one_address() {
        let answer = |id: u8, flags: u8, last: u8| {
            let mut message = question(7);
            (message[1], message[2], message[3], message[7]) = (id, 0x84, flags, 1);
            message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 0, 0, last]);
            message
        };
        assert_eq!(check(&answer(9, 0, 1), 9), Ok(true));
        assert_eq!(check(&answer(8, 0, 1), 9), Ok(false));
        assert!(check(&answer(9, 3, 1), 9).is_err());
        assert!(check(&answer(9, 0, 2), 9).is_err());
        assert!(check(&question(7)[..5], 0).is_err());
    }
}
