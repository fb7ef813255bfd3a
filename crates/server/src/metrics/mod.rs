//! How much services and servers used when, kept in bounded space.
//!
//! Reports say sums since a start. What two reports of a machine differ by is what was used between them
//! ([`between`]); it is spread over the half minutes that lie between them and added up here, in memory, over all
//! machines of a service. A report costs a comparison and some additions; nothing is written because of it, and
//! nothing is sent because of it either.
//!
//! ```text
//! reports ──► between ──► Recorder: half minutes, in memory ──► rings in the store ──► history ──► API, pages
//!                                                     tasks/metrics, every five minutes
//! ```
//!
//! **Rings.** A subject has three of them ([`rings`]): half minutes for an hour, five minutes for a day, hours for a
//! week. A row of one is a point of the next, so that rolling up is adding up a row, and doing it again changes
//! nothing. What comes round is written over: the space per subject is bounded, docs/operations.md says by how much.
//!
//! **Everything is a sum** ([`sums::Sums`]): milliseconds of a processor, kibibytes times seconds of memory, answers
//! per span of latency. Sums of machines, of minutes and of hours are added in any order and give the same; averages
//! and percentiles are made at the very end. With each sum goes of how much time something was known, so that a
//! half-known minute reads as what was seen of it, and a minute of which nothing is known is a gap, not a zero.
//!
//! **What is lost.** A control plane that is killed forgets what it has not written: up to eight minutes. One that is
//! stopped writes it. Between two reports across a start nothing is known, as between two that are too far apart.

pub mod between;
mod history;
mod rings;
pub mod sums;

pub use history::{server, server_by_id, service, service_by_id};

use crate::error::Result;
use crate::state::AppState;
use api::UnixMillis;
use api::ids::{OrganizationId, ServerId};
use api::observed::ObservedState;
use between::{Interval, Piece, Used};
use rings::FINE;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::Scope;
use sums::Sums;

/// After a row of half minutes is over, reports about it may still be on their way.
const GRACE_MS: i64 = 40_000;
/// Not everything is written in the same moment.
const SPREAD_MS: i64 = 120_000;
/// Half minutes that wait to be written when writing fails: half an hour. Older ones are given up.
const POINTS_WAITING: usize = 60;
/// Subjects that are written in one transaction, which nobody else writes beside on SQLite.
const SUBJECTS_AT_ONCE: usize = 100;

/// Whose points, and of what: the id of a service or a server.
type Subject = (OrganizationId, String);
/// By when they begin.
type Points = BTreeMap<UnixMillis, Sums>;

/// What was used lately and is not written yet.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    waiting: HashMap<Subject, Points>,
    /// Up to which report, by its own time, each machine is recorded.
    recorded: HashMap<ServerId, UnixMillis>,
}

impl Kept {
    /// More of the point that this piece lies in; answers of how much of it something is known.
    fn add(&mut self, subject: Subject, used: &Sums, piece: Piece) -> u64 {
        let points = self.waiting.entry(subject).or_default();
        let point = points.entry(piece.point_at_ms).or_default();
        point.add(&used.share(piece.from, piece.to, piece.whole));
        let covered_ms = point.covered_ms;
        bound(points);
        covered_ms
    }

    /// Machines of one service cover the same time, not more time.
    fn add_beside(&mut self, subject: Subject, used: &Sums, piece: Piece, covered_ms: u64) {
        self.add(subject.clone(), used, piece);
        let points = self.waiting.get_mut(&subject);
        if let Some(point) = points.and_then(|points| points.get_mut(&piece.point_at_ms)) {
            point.covered_ms = point.covered_ms.max(covered_ms);
        }
    }
}

fn bound(points: &mut Points) {
    while points.len() > POINTS_WAITING {
        points.pop_first();
    }
}

impl Recorder {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a machine used between its last report and this one, which came now.
    pub fn record(
        &self,
        organization: &OrganizationId,
        server_id: &ServerId,
        (before, after): (&ObservedState, &ObservedState),
        now_ms: UnixMillis,
        longest_ms: i64,
    ) {
        let recorded = self.kept().recorded.insert(server_id.clone(), after.observed_at_ms);
        // The first report since a start only says from where on: what came after the one that the store kept may be
        // recorded already.
        if recorded != Some(before.observed_at_ms) {
            return;
        }
        let Some(interval) = Interval::of(before, after, now_ms, longest_ms) else { return };
        // Compared before the others have to wait: in which order reports are added up makes no difference.
        let Used { server, services } = between::used(before, after, interval.length_ms());
        let mut kept = self.kept();
        let subject = |id: &str| (organization.clone(), id.to_owned());
        for piece in interval.pieces(FINE.step_ms) {
            let covered_ms = kept.add(subject(server_id.as_str()), &server, piece);
            for (service_id, used) in &services {
                kept.add_beside(subject(service_id.as_str()), used, piece, covered_ms);
            }
        }
    }

    /// What of one subject is not written yet.
    fn of(&self, organization: &OrganizationId, subject: &str) -> Points {
        self.kept().waiting.get(&(organization.clone(), subject.to_owned())).cloned().unwrap_or_default()
    }

    /// Who has points of rows that are over; everybody, if `all`. In portions of one organization each, as many as
    /// are written at once.
    fn due(&self, now_ms: UnixMillis, all: bool) -> Vec<(OrganizationId, Vec<String>)> {
        let mut due: BTreeMap<OrganizationId, Vec<String>> = BTreeMap::new();
        self.kept().waiting.retain(|(organization, subject), points| {
            if points.range(..over_ms(subject, now_ms, all)).next().is_some() {
                due.entry(organization.clone()).or_default().push(subject.clone());
            }
            !points.is_empty()
        });
        let portions = due.into_iter().flat_map(|(organization, subjects)| {
            let portions: Vec<_> = subjects.chunks(SUBJECTS_AT_ONCE).map(<[String]>::to_vec).collect();
            portions.into_iter().map(move |portion| (organization.clone(), portion))
        });
        portions.collect()
    }

    /// Takes the points of rows that are over out.
    fn take(
        &self,
        organization: &OrganizationId,
        subjects: Vec<String>,
        now_ms: UnixMillis,
        all: bool,
    ) -> BTreeMap<String, Points> {
        let mut kept = self.kept();
        let taken = subjects.into_iter().filter_map(|subject| {
            let end_ms = over_ms(&subject, now_ms, all);
            let points = kept.waiting.get_mut(&(organization.clone(), subject.clone()))?;
            let later = points.split_off(&end_ms);
            Some((subject, std::mem::replace(points, later)))
        });
        taken.collect()
    }

    /// They could not be written and are tried again.
    fn give_back(&self, organization: &OrganizationId, taken: BTreeMap<String, Points>) {
        let mut kept = self.kept();
        for (subject, earlier) in taken {
            let points = kept.waiting.entry((organization.clone(), subject)).or_default();
            for (at_ms, sums) in earlier {
                points.entry(at_ms).or_default().add(&sums);
            }
            bound(points);
        }
    }
}

/// Between reports that are farther apart, nothing is known: a machine counts as silent, or close to it.
pub fn longest_ms(poll_interval_ms: u64) -> i64 {
    i64::try_from(poll_interval_ms).unwrap_or(i64::MAX / 4).saturating_mul(3).max(60_000)
}

/// What of a subject lies before is told of by nobody any more.
fn over_ms(subject: &str, now_ms: UnixMillis, all: bool) -> UnixMillis {
    if all { i64::MAX } else { FINE.chunk_begin(now_ms - GRACE_MS - spread_ms(subject)) }
}

/// By the subject, so that a subject is always written at the same moment of its five minutes.
fn spread_ms(subject: &str) -> i64 {
    let sum = subject.bytes().fold(0_i64, |sum, byte| (sum * 31 + i64::from(byte)) % SPREAD_MS);
    sum % SPREAD_MS
}

/// Writes what is due, or everything; answers for how many subjects.
pub async fn write(state: &AppState, now_ms: UnixMillis, all: bool) -> Result<usize> {
    let mut written = 0;
    for (organization, subjects) in state.metrics.due(now_ms, all) {
        let mut taken = state.metrics.take(&organization, subjects, now_ms, all);
        written += taken.len();
        let scope = Scope::system(organization.clone(), "metrics");
        if let Err(error) = rings::write(state.store(), &scope, &mut taken).await {
            state.metrics.give_back(&organization, taken);
            return Err(error.into());
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
