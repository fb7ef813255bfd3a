//! Visitors that never stop asking, and a record of every request: who answered it, or how and when
//! it failed.
//!
//! Half of them keep their connection, as browsers do; the others come anew each time. Their rate is
//! bounded, because the machine that a test runs on has other work. What they saw is judged afterwards
//! by [`judge`], which knows when a gateway was killed: a request that was on its way through it, or
//! that found nobody listening until the next one did, is excused, and no other failure is.

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

#[derive(Debug, Clone)]
pub struct Visit {
    pub sent: Instant,
    pub ended: Instant,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Answered(Answered),
    /// Nobody listened.
    NotConnected(String),
    /// Anything else: a connection that broke, another status than 200, an answer that is not the app's.
    Broken(String),
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
        let visitors = (0..of_each_kind * 2)
            .map(|number| tokio::spawn(visit_on_and_on(url.to_owned(), number % 2 == 0, pause, stop.clone())))
            .collect();
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

async fn visit_on_and_on(url: String, keeps_alive: bool, pause: Duration, stop: Arc<AtomicBool>) -> Vec<Visit> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .pool_max_idle_per_host(if keeps_alive { 1 } else { 0 })
        .build()
        .expect("a client can be built");
    let mut visits = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let path = if number % SLOW_EVERY == 0 { SLOW_PATH } else { "" };
        let sent = Instant::now();
        let outcome = visit(&client, &format!("{url}/{path}")).await;
        visits.push(Visit { sent, ended: Instant::now(), outcome });
        tokio::time::sleep(pause).await;
    }
    visits
}

async fn visit(client: &reqwest::Client, url: &str) -> Outcome {
    let response = match client.get(url).send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Outcome::NotConnected(chain(&error)),
        Err(error) => return Outcome::Broken(chain(&error)),
    };
    let status = response.status();
    match response.text().await {
        Ok(body) if status == 200 => match Answered::parse(&body) {
            Some(answered) => Outcome::Answered(answered),
            None => Outcome::Broken(format!("not the app's answer: {body}")),
        },
        Ok(body) => Outcome::Broken(format!("{status}: {}", body.chars().take(300).collect::<String>())),
        Err(error) => Outcome::Broken(chain(&error)),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
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
    /// Whether the request was open at any moment of the gateway's dying.
    fn cut(&self, visit: &Visit) -> bool {
        visit.sent <= self.gone && visit.ended >= self.killed
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
    /// Open in a gateway at the moment it was killed.
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
            Outcome::NotConnected(problem) | Outcome::Broken(problem) => {
                let (from, to) = (visit.sent - begun, visit.ended - begun);
                complain(format!("from {from:.3?} to {to:.3?}: {problem}"));
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
        let at = |ms| begun + Duration::from_millis(ms);
        Visit { sent: at(from_ms), ended: at(to_ms), outcome }
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
        let visits = [
            visit(begun, 0, 99, broken()),
            visit(begun, 90, 120, broken()),
            visit(begun, 120, 130, broken()),
            visit(begun, 120, 130, refused()),
            visit(begun, 201, 202, refused()),
            visit(begun, 300, 301, answer(1, 1)),
        ];
        let judgement = judge(&visits, &[outage], begun);
        assert_eq!((judgement.sent, judgement.answered), (6, 1));
        assert_eq!((judgement.excused_in_flight, judgement.excused_not_connected), (1, 1));
        assert_eq!(judgement.lost.len(), 3, "{judgement:#?}");
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
