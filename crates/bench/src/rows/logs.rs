//! Lines on their way from a service to `mainstay logs --follow`: how late they come, and how many a second get
//! there when a service writes as fast as it can.
//!
//! For the delay each line holds the time at which it was written, and the real command is what reads it: from
//! `write` in the service through its supervisor, the agent, the control plane and its database to the
//! command's output. For the rate a service writes many lines at once, more than a machine keeps of a log; then all
//! that the control plane has is read back and counted by number.

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use crate::http::histogram::Histogram;
use crate::http::visitor::Visitor;
use crate::service::now_nanos;
use crate::system::{Releases, SERVICE};
use anyhow::{Context as _, Result, ensure};
use api::logs::LogRecord;
use client::{LogFileQuery, LogQuery};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

const STAMPS_EVERY_MS: &str = "env = { STAMP_EVERY_MS = \"20\" }";
/// A line that takes longer is lost.
const LINE_LIMIT: Duration = Duration::from_secs(20);
const BURST_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub fn measure(context: &Context) -> Result<Vec<Figure>> {
    let mut figures = delay(context)?;
    figures.extend(rate(context)?);
    Ok(figures)
}

fn delay(context: &Context) -> Result<Vec<Figure>> {
    let what = |name: &str| format!("from a service's write to `logs --follow`, a line each 20 ms, {name}");
    let mut p50 = Figure::new("logs", what("p50"), "ms", Better::Less);
    let mut p99 = Figure::new("logs", what("p99"), "ms", Better::Less).goal(50.0);
    let releases = Releases::begin(context, STAMPS_EVERY_MS)?;
    let window = Duration::from_secs(if context.quick { 2 } else { 10 });
    for _ in 0..context.runs() {
        let mut delays = Histogram::default();
        let lines = Following::start(&releases)?;
        // What was there before is not on its way.
        let begun = now_nanos();
        while u128::from(now_nanos() - begun) < window.as_nanos() {
            let (stamp, come) = lines.next_stamp()?;
            if stamp >= begun {
                delays.add(come.saturating_sub(stamp));
            }
        }
        p50.add(MAINSTAY, delays.quantile_micros(0.5) / 1000.0);
        p99.add(MAINSTAY, delays.quantile_micros(0.99) / 1000.0);
    }
    Ok(vec![p50, p99])
}

/// The command, and when each line that it prints was written and came.
struct Following {
    child: Child,
    stamps: Receiver<(u64, u64)>,
}

impl Following {
    fn start(releases: &Releases) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(releases.system.program());
        command.args(["logs", "--follow", "--lines", "0", SERVICE]);
        releases.system.prepare(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.context("start `mainstay logs`")?;
        let output = child.stdout.take().context("a command has an output")?;
        let (sender, stamps) = mpsc::channel();
        // Ends with the command's output.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(stamp) = number_after(&line, "stamp ") {
                    let _ = sender.send((stamp, now_nanos()));
                }
            }
        });
        Ok(Self { child, stamps })
    }

    fn next_stamp(&self) -> Result<(u64, u64)> {
        self.stamps.recv_timeout(LINE_LIMIT).context("no further line in `mainstay logs --follow`")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rate(context: &Context) -> Result<Vec<Figure>> {
    let count: u64 = if context.quick { 50_000 } else { 300_000 };
    let what = format!("of {count} lines of 100 bytes that a service writes as fast as it can");
    let mut rate = Figure::new("logs", format!("lines kept per second, {what}"), "1/s", Better::More).goal(50_000.0);
    let mut lost = Figure::new("logs", format!("lines lost, {what}"), "", Better::Less).goal(0.0);
    let mut written =
        Figure::new("logs", format!("lines taken from the service per second, {what}"), "1/s", Better::More);
    for _ in 0..context.runs() {
        // One of its own each time: what is kept of a log has a bound.
        let mut releases = Releases::begin(context, "")?;
        let begun = Instant::now();
        let answer = Visitor::new(releases.system.gateway).get(&format!("/write/{count}"))?;
        ensure!(answer.status == 200, "writing was answered with {answer:?}");
        written.add(MAINSTAY, count as f64 / begun.elapsed().as_secs_f64());
        let took = wait_for_line(&mut releases, count, begun)?;
        let kept = lines_kept(&releases)?;
        rate.add(MAINSTAY, kept as f64 / took.as_secs_f64());
        lost.add(MAINSTAY, count.saturating_sub(kept) as f64);
    }
    Ok(vec![rate, lost, written])
}

/// Until the last line is in the control plane's database, where nothing before it is still on its way.
fn wait_for_line(releases: &mut Releases, number: u64, begun: Instant) -> Result<Duration> {
    let query = LogQuery { service: Some(SERVICE.into()), tail: Some(1), ..LogQuery::default() };
    loop {
        let newest = releases.system.wait(releases.client.logs(&query))?;
        if newest.iter().any(|record| number_of(record) == Some(number)) {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < BURST_LIMIT, "the last line did not come; the newest one there is {newest:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Lines with different numbers that are kept.
fn lines_kept(releases: &Releases) -> Result<u64> {
    let of = LogQuery { service: Some(SERVICE.into()), ..LogQuery::default() };
    let query = LogFileQuery { of, ..LogFileQuery::default() };
    releases.system.block_on(async {
        let mut lines = releases.client.log_lines_back(&query).await?;
        let mut numbers = std::collections::BTreeSet::new();
        while let Some(record) = lines.next().await? {
            numbers.extend(number_of(&record));
        }
        Ok(numbers.len() as u64)
    })
}

fn number_of(record: &LogRecord) -> Option<u64> {
    number_after(&record.line.text, "line ")
}

fn number_after(line: &str, word: &str) -> Option<u64> {
    let (_, rest) = line.split_once(word)?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_known_by_its_number_whatever_stands_before_it() {
        assert_eq!(number_after("12:30:01 web | stamp 1763719200123456789", "stamp "), Some(1_763_719_200_123_456_789));
        assert_eq!(number_after("line 7 ----", "line "), Some(7));
        assert_eq!(number_after("started with pid 12", "line "), None);
        assert_eq!(number_after("line feed", "line "), None);
    }
}
