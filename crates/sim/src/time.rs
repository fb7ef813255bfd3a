//! Simulated surroundings: what `ambient` answers within a machine or within the control plane.

use crate::chance::Chance;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// When every simulation begins: 1 January 2026.
pub const BEGIN_MS: i64 = 1_767_225_600_000;

/// A lock that a panic elsewhere does not spoil: the panic itself is what is reported.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Virtual time since the beginning, on the thread of the simulation.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    begin: Instant,
}

impl Time {
    pub fn begin() -> Self {
        Self { begin: Instant::now() }
    }

    pub fn passed_ms(self) -> i64 {
        i64::try_from(self.begin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    pub fn true_ms(self) -> i64 {
        BEGIN_MS + self.passed_ms()
    }
}

/// The clock, the ids and the chance of one machine.
pub struct Surroundings {
    /// Read on the thread of the simulation; elsewhere time stands still between steps.
    time: Option<Time>,
    standing_ms: AtomicI64,
    /// How wrong the clock is.
    skew_ms: AtomicI64,
    chance: Mutex<Chance>,
    last_id: Mutex<(i64, u16)>,
    /// What `instant` counts from.
    begin: std::time::Instant,
}

impl Surroundings {
    /// Of a machine, on the thread of the simulation.
    pub fn of_machine(time: Time, chance: Chance) -> Self {
        Self { time: Some(time), ..Self::standing(chance) }
    }

    /// Of the control plane, whose clock is set before each of its steps.
    pub fn standing(chance: Chance) -> Self {
        Self {
            time: None,
            standing_ms: AtomicI64::new(BEGIN_MS),
            skew_ms: AtomicI64::new(0),
            chance: Mutex::new(chance),
            last_id: Mutex::new((0, 0)),
            begin: std::time::Instant::now(),
        }
    }

    pub fn set(&self, true_ms: i64) {
        self.standing_ms.store(true_ms, Ordering::SeqCst);
    }

    fn true_ms(&self) -> i64 {
        self.time.map_or_else(|| self.standing_ms.load(Ordering::SeqCst), Time::true_ms)
    }

    pub fn skew(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::SeqCst);
    }
}

impl ambient::Source for Surroundings {
    fn now_ms(&self) -> i64 {
        self.true_ms() + self.skew_ms.load(Ordering::SeqCst)
    }

    fn instant(&self) -> std::time::Instant {
        self.begin + Duration::from_millis((self.true_ms() - BEGIN_MS).unsigned_abs())
    }

    fn fresh_id(&self) -> Uuid {
        let now_ms = self.now_ms();
        let random = locked(&self.chance).any();
        let mut last = locked(&self.last_id);
        // Ids rise, also when the clock falls.
        *last = if now_ms > last.0 { (now_ms, 0) } else { (last.0 + i64::from(last.1 == 0xfff), (last.1 + 1) & 0xfff) };
        let mut rest = [0; 10];
        rest[..2].copy_from_slice(&last.1.to_be_bytes());
        rest[2..].copy_from_slice(&random.to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(last.0.unsigned_abs(), &rest).into_uuid()
    }

    fn random(&self) -> u64 {
        locked(&self.chance).any()
    }
}
