//! Where points are kept: three rings per subject, each place of which is a row of the store.
//!
//! ```text
//! half minutes   13 rows of 10   over an hour     a row is 5 minutes, which is one point of
//! five minutes   25 rows of 12   over a day       a row is an hour, which is one point of
//! hours          15 rows of 12   over a week
//! ```
//!
//! Writing a row of half minutes writes the row of five minutes that it is a point of, and that writes its row of
//! hours. Each is made of the whole row below it and not of what was new in it, so that writing again, after a start
//! or a failure, makes no sum twice as large.

use super::Points;
use super::sums::Sums;
use api::UnixMillis;
use std::collections::{BTreeMap, HashMap};
use store::{ChunkTime, MetricChunk, Scope, Store};

/// One length of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    pub step_ms: i64,
    /// In one row.
    pub points: i64,
    /// Rows until it comes round.
    pub places: i64,
}

pub const FINE: Ring = Ring { step_ms: 30_000, points: 10, places: 13 };
pub const MIDDLE: Ring = Ring { step_ms: 300_000, points: 12, places: 25 };
pub const COARSE: Ring = Ring { step_ms: 3_600_000, points: 12, places: 15 };

const _: () = assert!(FINE.chunk_ms() == MIDDLE.step_ms && MIDDLE.chunk_ms() == COARSE.step_ms);

impl Ring {
    const fn chunk_ms(self) -> i64 {
        self.step_ms * self.points
    }

    /// When the row begins that holds this moment.
    pub fn chunk_begin(self, at_ms: UnixMillis) -> UnixMillis {
        at_ms - at_ms.rem_euclid(self.chunk_ms())
    }

    /// When the point begins that holds this moment.
    pub fn point_begin(self, at_ms: UnixMillis) -> UnixMillis {
        at_ms - at_ms.rem_euclid(self.step_ms)
    }

    pub fn time(self, begins_at_ms: UnixMillis) -> ChunkTime {
        let place = begins_at_ms.div_euclid(self.chunk_ms()).rem_euclid(self.places);
        ChunkTime { step_ms: self.step_ms, place, begins_at_ms }
    }

    pub fn encode(self, begins_at_ms: UnixMillis, points: &Points) -> String {
        let offset = |at_ms: &UnixMillis| ((at_ms - begins_at_ms) / self.step_ms).unsigned_abs();
        let rows: Vec<Vec<u64>> = points.iter().map(|(at_ms, sums)| sums.to_numbers(offset(at_ms))).collect();
        // Numbers in lists cannot fail.
        serde_json::to_string(&rows).unwrap_or_else(|_| "[]".into())
    }

    /// What is not of this row's form is not shown; it will be written over.
    pub fn decode(self, begins_at_ms: UnixMillis, text: &str) -> Points {
        let rows: Vec<Vec<u64>> = serde_json::from_str(text).unwrap_or_else(|error| {
            tracing::warn!(%error, begins_at_ms, "a row of metrics cannot be read and is left out");
            Vec::new()
        });
        let points = rows.iter().filter_map(|row| Sums::of_numbers(row)).filter_map(|(offset, sums)| {
            let offset = i64::try_from(offset).ok().filter(|offset| *offset < self.points)?;
            Some((begins_at_ms + offset * self.step_ms, sums))
        });
        points.collect()
    }
}

/// Keeps points of one organization's subjects. What is kept is taken out of `taken`, so that after a failure only
/// the rest is there.
pub async fn write(store: &Store, scope: &Scope, taken: &mut BTreeMap<String, Points>) -> store::Result<()> {
    while let Some(begins_at_ms) = taken.values().filter_map(|points| points.first_key_value()).map(|(at, _)| *at).min()
    {
        let begins_at_ms = FINE.chunk_begin(begins_at_ms);
        let end_ms = begins_at_ms + FINE.chunk_ms();
        let row: Vec<(&String, Points)> = taken
            .iter()
            .map(|(subject, points)| (subject, points.range(..end_ms).map(|(at, sums)| (*at, sums.clone())).collect()))
            .filter(|(_, points): &(_, Points)| !points.is_empty())
            .collect();
        write_row(store, scope, begins_at_ms, row).await?;
        for points in taken.values_mut() {
            *points = points.split_off(&end_ms);
        }
        taken.retain(|_, points| !points.is_empty());
    }
    Ok(())
}

/// One row of half minutes of each subject, and the points of the other rings that follow from it.
async fn write_row(
    store: &Store,
    scope: &Scope,
    begins_at_ms: UnixMillis,
    subjects: Vec<(&String, Points)>,
) -> store::Result<()> {
    let ids: Vec<&str> = subjects.iter().map(|(subject, _)| subject.as_str()).collect();
    let hour_ms = MIDDLE.chunk_begin(begins_at_ms);
    let half_day_ms = COARSE.chunk_begin(begins_at_ms);
    let mut fine = read(store, scope, FINE, begins_at_ms, &ids).await?;
    let mut middle = read(store, scope, MIDDLE, hour_ms, &ids).await?;
    let mut coarse = read(store, scope, COARSE, half_day_ms, &ids).await?;
    let mut chunks = Vec::with_capacity(subjects.len() * 3);
    for (subject, fresh) in subjects {
        let mut points = fine.remove(subject).unwrap_or_default();
        for (at_ms, sums) in fresh {
            points.entry(at_ms).or_default().add(&sums);
        }
        let mut hour = middle.remove(subject).unwrap_or_default();
        hour.insert(begins_at_ms, total(&points));
        let mut half_day = coarse.remove(subject).unwrap_or_default();
        half_day.insert(hour_ms, total(&hour));
        for (ring, begins_at_ms, points) in
            [(FINE, begins_at_ms, points), (MIDDLE, hour_ms, hour), (COARSE, half_day_ms, half_day)]
        {
            let points = ring.encode(begins_at_ms, &points);
            chunks.push(MetricChunk { subject: subject.clone(), time: ring.time(begins_at_ms), points });
        }
    }
    store.metric_chunk_put(scope, &chunks).await?;
    Ok(())
}

async fn read(
    store: &Store,
    scope: &Scope,
    ring: Ring,
    begins_at_ms: UnixMillis,
    subjects: &[&str],
) -> store::Result<HashMap<String, Points>> {
    let found = store.metric_chunk_list(scope, ring.time(begins_at_ms), subjects).await?;
    Ok(found.into_iter().map(|(subject, text)| (subject, ring.decode(begins_at_ms, &text))).collect())
}

fn total(points: &Points) -> Sums {
    let mut total = Sums::default();
    for sums in points.values() {
        total.add(sums);
    }
    total
}

/// The points of one subject since then: what is written, and what waits to be.
pub async fn history(
    store: &Store,
    scope: &Scope,
    ring: Ring,
    subject: &str,
    from_ms: UnixMillis,
    waiting: Points,
) -> store::Result<Points> {
    let mut points = Points::new();
    for (begins_at_ms, text) in store.metric_history(scope, subject, ring.step_ms, ring.chunk_begin(from_ms)).await? {
        points.append(&mut ring.decode(begins_at_ms, &text));
    }
    for (at_ms, sums) in waiting {
        points.entry(ring.point_begin(at_ms)).or_default().add(&sums);
    }
    Ok(points.split_off(&ring.point_begin(from_ms)))
}
