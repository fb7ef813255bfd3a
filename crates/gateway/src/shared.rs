//! What every connection can see: the live route table, and the phase of the process.

use crate::access_log::AccessLog;
use crate::limits::Limits;
use crate::routes::RouteTable;
use crate::tls::Tls;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where the process is in its life. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Another process has the listening sockets; connections that are here finish here.
    HandingOver,
    /// Open requests finish, then the process ends.
    Stopping,
}

#[derive(Debug)]
pub struct Shared {
    pub table: ArcSwap<RouteTable>,
    pub tls: Tls,
    pub limits: Arc<Limits>,
    pub access_log: AccessLog,
    pub phase: watch::Sender<Phase>,
    closing: AtomicBool,
    /// Woken when the process leaves its first phase.
    pub leaving: CancellationToken,
    /// Ends whatever is still open.
    pub abort: CancellationToken,
    pub connections: TaskTracker,
    /// One permit per connection of a client.
    pub permits: Arc<Semaphore>,
}

impl Shared {
    pub fn new(limits: Limits, access_log: AccessLog) -> Self {
        Self {
            table: ArcSwap::default(),
            tls: Tls::default(),
            permits: Arc::new(Semaphore::new(limits.connections)),
            limits: Arc::new(limits),
            access_log,
            phase: watch::Sender::new(Phase::Serving),
            closing: AtomicBool::new(false),
            leaving: CancellationToken::new(),
            abort: CancellationToken::new(),
            connections: TaskTracker::new(),
        }
    }

    /// Enters a later phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
        self.closing.store(true, Ordering::SeqCst);
        self.leaving.cancel();
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub fn for_test() -> Self {
        Self::new(Limits::default(), AccessLog::off())
    }
}
