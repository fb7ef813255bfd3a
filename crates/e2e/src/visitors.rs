//! Visitors that never stop asking, and a record of every request: who answered it, or how and when
//! it failed.
//!
//! Half of them keep their connection, as browsers do; the others come anew each time. Their rate is
//! bounded, because the machine that a test runs on has other work. None asks twice. What they saw is judged
//! afterwards by [`judge`], which knows when a gateway was killed: a request on a connection to it, or one
//! that found nobody listening until the next one did, is excused, and no other failure is.

use crate::connection::{Connection, Reply};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Longer than anything that a visitor should have to wait for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Every so many requests one takes a while, so that some are open at every moment.
const SLOW_EVERY: u64 = 4;
const SLOW_PATH: &str = "slow/150";
/// What some ask for every time. So an instance that is to stop has something to finish first, and the stage
/// in which it does lasts long enough to be met.
const SLOWEST_PATH: &str = "slow/2000";
const SLOWEST_OF_EACH_KIND: usize = 1;

#[derive(Debug, Clone)]
pub struct Visit {
    pub sent: Instant,
    pub ended: Instant,
    /// Since when its connection may exist: the same as `sent`, or earlier if it was kept.
    pub connected: Instant,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Answered(Answered),
    /// Nobody listened.
    NotConnected(String),
    /// The connection ended, or time was over, before the answer was whole.
    Broken(String),
    /// A whole answer, but another status than 200 or not the app's.
    Wrong(String),
}

impl Visit {
    /// One that ends now.
    fn new(sent: Instant, connected: Instant, outcome: Outcome) -> Self {
        Self { sent, ended: Instant::now(), connected, outcome }
    }
}

/// What the tests' app says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub version: String,
    pub pid: u32,
    pub instance: String,
    pub count: u64,
}

impl Answered {
    pub fn parse(body: &str) -> Option<Self> {
        let words: Vec<&str> = body.split(' ').collect();
        let ["version", version, "pid", pid, "instance", instance, "count", count] = words[..] else { return None };
        let (pid, count) = (pid.parse().ok()?, count.parse().ok()?);
        Some(Self { version: version.to_owned(), pid, instance: instance.to_owned(), count })
    }
}

pub struct Visitors {
    stop: Arc<AtomicBool>,
    visitors: Vec<JoinHandle<Vec<Visit>>>,
}

impl Visitors {
    /// As many visitors of each kind, each pausing between two requests.
    pub fn start(url: &str, of_each_kind: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let visitor = |number: usize| {
            let habits =
                Habits { keeps_alive: number.is_multiple_of(2), slowest: number < SLOWEST_OF_EACH_KIND * 2, pause };
            tokio::spawn(visit_on_and_on(url.to_owned(), habits, stop.clone()))
        };
        let visitors = (0..of_each_kind * 2).map(visitor).collect();
        Self { stop, visitors }
    }

    /// Every request, in no order.
    pub async fn finish(self) -> Vec<Visit> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for visitor in self.visitors {
            all.extend(visitor.await.expect("a visitor does not panic"));
        }
        all
    }
}

#[derive(Debug, Clone, Copy)]
struct Habits {
    keeps_alive: bool,
    slowest: bool,
    pause: Duration,
}

async fn visit_on_and_on(url: String, habits: Habits, stop: Arc<AtomicBool>) -> Vec<Visit> {
    let address = url.trim_start_matches("http://");
    let mut kept = None;
    let mut visits = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let path = match habits.slowest {
            true => SLOWEST_PATH,
            false if number % SLOW_EVERY == 0 => SLOW_PATH,
            false => "",
        };
        visits.push(visit(address, path, &mut kept, habits.keeps_alive).await);
        tokio::time::sleep(habits.pause).await;
    }
    visits
}

/// One request, over the kept connection if there is one and it still stands.
async fn visit(address: &str, path: &str, kept: &mut Option<Connection>, keeps_alive: bool) -> Visit {
    let sent = Instant::now();
    let mut connection = match kept.take().filter(|connection| !connection.is_over()) {
        Some(connection) => connection,
        None => match tokio::time::timeout(PATIENCE, Connection::open(address)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Visit::new(sent, sent, Outcome::NotConnected(error.to_string())),
            Err(_) => return Visit::new(sent, sent, Outcome::Broken(format!("not connected within {PATIENCE:?}"))),
        },
    };
    let connected = connection.begun();
    let reply = connection.get(path, !keeps_alive, PATIENCE).await;
    if keeps_alive && reply.as_ref().is_ok_and(|reply| !reply.closes) {
        *kept = Some(connection);
    }
    Visit::new(sent, connected, outcome(reply))
}

fn outcome(reply: anyhow::Result<Reply>) -> Outcome {
    match reply {
        Ok(reply) if reply.status == 200 => match Answered::parse(&reply.body) {
            Some(answered) => Outcome::Answered(answered),
            None => Outcome::Wrong(format!("not the app's answer: {}", reply.body)),
        },
        Ok(reply) => Outcome::Wrong(format!("{}: {}", reply.status, reply.body)),
        Err(error) => Outcome::Broken(format!("{error:#}")),
    }
}

/// One death of a gateway.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    /// When the signal was sent.
    pub killed: Instant,
    /// When the process was gone and its sockets closed.
    pub gone: Instant,
    /// When the next one accepted a connection.
    pub accepting: Instant,
    /// When a request was answered again.
    pub answering: Instant,
}

impl Outage {
    /// Whether the request went over a connection to this very gateway and had not ended when it was killed:
    /// no other listened before this one was gone, and a connection does not outlive its gateway.
    fn cut(&self, visit: &Visit) -> bool {
        visit.connected <= self.gone && visit.ended >= self.killed
    }

    /// Whether the request came while nobody listened.
    fn kept_out(&self, visit: &Visit) -> bool {
        visit.sent <= self.accepting && visit.ended >= self.killed
    }
}

#[derive(Debug, Default)]
pub struct Judgement {
    pub sent: u64,
    pub answered: u64,
    /// On a connection to a gateway that was killed before they had an answer.
    pub excused_in_flight: u64,
    /// Came when no gateway listened.
    pub excused_not_connected: u64,
    /// Failures that nothing excuses, and answers that cannot be right. At most fifty.
    pub lost: Vec<String>,
    pub slowest: Duration,
}

/// What the visitors may hold against Mainstay.
pub fn judge(visits: &[Visit], outages: &[Outage], begun: Instant) -> Judgement {
    let mut judgement = Judgement { sent: visits.len() as u64, ..Judgement::default() };
    let mut answers = HashSet::new();
    let mut complain = |complaint: String| {
        if judgement.lost.len() < 50 {
            judgement.lost.push(complaint);
        }
    };
    for visit in visits {
        match &visit.outcome {
            Outcome::Answered(answered) => {
                judgement.answered += 1;
                judgement.slowest = judgement.slowest.max(visit.ended - visit.sent);
                if !answers.insert((answered.pid, answered.instance.as_str(), answered.count)) {
                    complain(format!("two requests got the same answer: {answered:?}"));
                }
            }
            Outcome::NotConnected(_) if outages.iter().any(|outage| outage.kept_out(visit)) => {
                judgement.excused_not_connected += 1;
            }
            Outcome::Broken(_) if outages.iter().any(|outage| outage.cut(visit)) => judgement.excused_in_flight += 1,
            Outcome::NotConnected(problem) | Outcome::Broken(problem) | Outcome::Wrong(problem) => {
                let [connected, sent, ended] = [visit.connected, visit.sent, visit.ended].map(|at| at - begun);
                let last = outages.iter().rev().find(|outage| outage.killed <= visit.ended);
                let last = last.map(|outage| [outage.killed, outage.gone, outage.accepting].map(|at| at - begun));
                complain(format!(
                    "connected {connected:.4?}, sent {sent:.4?}, ended {ended:.4?}: {problem}; the last gateway before \
                     was killed, was gone, and the next listened: {last:.4?}"
                ));
            }
        }
    }
    two_at_once(visits).into_iter().for_each(complain);
    judgement
}

/// Instances that two processes answered for in turns: the later one must begin after the earlier one
/// took its last request.
fn two_at_once(visits: &[Visit]) -> Vec<String> {
    // Per instance and pid: the end of the first answer, the beginning of the last.
    let mut spans: BTreeMap<(&str, u32), (Instant, Instant)> = BTreeMap::new();
    for visit in visits {
        let Outcome::Answered(answered) = &visit.outcome else { continue };
        let span = spans.entry((&answered.instance, answered.pid)).or_insert((visit.ended, visit.sent));
        *span = (span.0.min(visit.ended), span.1.max(visit.sent));
    }
    let spans: Vec<_> = spans.into_iter().collect();
    let mut complaints = Vec::new();
    for (index, ((instance, pid), (first, last))) in spans.iter().enumerate() {
        for ((other_instance, other_pid), (other_first, other_last)) in &spans[index + 1..] {
            if instance == other_instance && first < other_last && other_first < last {
                complaints.push(format!("instance {instance} answered from {pid} and {other_pid} at the same time"));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(begun: Instant, from_ms: u64, to_ms: u64, outcome: Outcome) -> Visit {
        kept(begun, from_ms, from_ms, to_ms, outcome)
    }

    fn kept(begun: Instant, connected_ms: u64, from_ms: u64, to_ms: u64, outcome: Outcome) -> Visit {
        let at = |ms| begun + Duration::from_millis(ms);
        Visit { sent: at(from_ms), ended: at(to_ms), connected: at(connected_ms), outcome }
    }

    fn answer(pid: u32, count: u64) -> Outcome {
        Outcome::Answered(Answered { version: "v1".into(), pid, instance: "ins_1".into(), count })
    }

    #[test]
    fn only_what_a_killed_gateway_explains_is_excused() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let outage = Outage { killed: at(100), gone: at(110), accepting: at(200), answering: at(205) };
        let broken = || Outcome::Broken("x".into());
        let refused = || Outcome::NotConnected("x".into());
        let excused = [
            visit(begun, 90, 120, broken()),
            // On a connection to the killed gateway, sent before the visitor could know.
            kept(begun, 20, 111, 112, broken()),
            visit(begun, 120, 130, refused()),
        ];
        let judgement = judge(&excused, &[outage], begun);
        assert_eq!((judgement.excused_in_flight, judgement.excused_not_connected), (2, 1));
        assert_eq!(judgement.lost, Vec::<String>::new());
        let lost = [
            visit(begun, 0, 99, broken()),
            kept(begun, 0, 90, 99, broken()),
            visit(begun, 120, 130, broken()),
            kept(begun, 201, 290, 291, broken()),
            visit(begun, 201, 202, refused()),
            visit(begun, 90, 120, Outcome::Wrong("502".into())),
        ];
        let judgement = judge(&lost, &[outage], begun);
        assert_eq!((judgement.sent, judgement.answered), (6, 0));
        assert_eq!(judgement.lost.len(), 6, "{judgement:#?}");
    }

    #[test]
    fn an_answer_given_twice_and_two_processes_of_one_instance_are_noticed() {
        let begun = Instant::now();
        let twice = [visit(begun, 0, 1, answer(1, 7)), visit(begun, 2, 3, answer(1, 7))];
        assert_eq!(judge(&twice, &[], begun).lost.len(), 1);
        let in_turn = [visit(begun, 0, 1, answer(1, 1)), visit(begun, 2, 3, answer(2, 1))];
        assert!(judge(&in_turn, &[], begun).lost.is_empty());
        let mixed =
            [visit(begun, 0, 1, answer(1, 1)), visit(begun, 2, 3, answer(2, 1)), visit(begun, 4, 5, answer(1, 2))];
        assert_eq!(judge(&mixed, &[], begun).lost.len(), 1);
    }
}
