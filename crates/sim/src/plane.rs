//! The control plane, whole and real, on a thread of its own.
//!
//! Its database works on threads that virtual time does not see, and a connection finds its way back to
//! its pool by a task of its own. So the control plane lives in an ordinary runtime on another thread,
//! and the simulation hands it one step at a time (a request, a round of the rollout, a look at who is
//! there) and stands still until the step is done. A step takes no virtual time, no two overlap, and
//! what the threads of the database do meanwhile is nobody's business: that is what makes one seed one
//! story. What cannot be seen this way is two requests that interleave inside of the control plane.
//!
//! The thread can be let go between two steps ([`Plane::rest`]), because a process can be doubled only while
//! it has a single one.
//!
//! Between any two writes it can die ([`Door`]); what was committed stays in the file, the rest of it
//! is dropped and made anew from there.

use crate::time::{Surroundings, locked};
use api::ids::ServerId;
use axum::Router;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use server::tasks::rollout::Worker;
use server::{AppState, Edges, ServerOptions};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tower::ServiceExt;

pub const POLL_INTERVAL_MS: u64 = 10_000;

pub struct Running {
    state: AppState,
    router: Router,
    rollout: Worker,
}

type Step = Box<dyn FnOnce(&Runtime, &mut Option<Running>) + Send>;

struct Thread {
    steps: Sender<Step>,
    handle: JoinHandle<()>,
}

/// Serves many simulations, one after the other.
#[derive(Default)]
pub struct Plane {
    running: Arc<Mutex<Option<Running>>>,
    /// `None` while it rests.
    thread: Mutex<Option<Thread>>,
}

/// Stands before every write of the control plane.
#[derive(Debug, Default)]
pub struct Door(Mutex<DoorState>);

#[derive(Debug, Default)]
struct DoorState {
    /// Dies before this many writes more are done.
    dies_in: Option<u32>,
    dead: bool,
    /// So many writes find the database busy or the disk full.
    failing: u32,
    full: bool,
}

impl Door {
    pub fn die_before_write(&self, number: u32) {
        locked(&self.0).dies_in = Some(number);
    }

    pub fn fail_next(&self, writes: u32) {
        locked(&self.0).failing = writes;
    }

    /// Whether it has died since the last time; it is alive again for the next start.
    pub fn take_death(&self) -> bool {
        std::mem::take(&mut locked(&self.0).dead)
    }

    pub fn calm(&self) {
        let mut door = locked(&self.0);
        door.dies_in = None;
        door.failing = 0;
        door.full = false;
    }

    /// No write finds room while it is full.
    pub fn fill(&self, full: bool) {
        locked(&self.0).full = full;
    }
}

impl store::Gate for Door {
    fn before_write(&self) -> io::Result<()> {
        let mut door = locked(&self.0);
        if door.dead {
            return Err(io::Error::other("the control plane is dead"));
        }
        match &mut door.dies_in {
            Some(0) => {
                door.dies_in = None;
                door.dead = true;
                return Err(io::Error::other("the control plane dies here"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if door.failing > 0 {
            door.failing -= 1;
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the database is busy"));
        }
        if door.full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

/// Does it to the end. What is waited for is a task on this thread, mostly: it runs between two polls. Only
/// for what takes longer, as a password's hash, the thread gives way.
fn done<F: Future>(runtime: &Runtime, work: F) -> F::Output {
    const POLLS_BEFORE_YIELDING: u32 = 8;
    let mut work = std::pin::pin!(work);
    let mut in_vain = 0;
    runtime.block_on(std::future::poll_fn(move |context| {
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            in_vain += 1;
            if in_vain > POLLS_BEFORE_YIELDING {
                std::thread::yield_now();
            }
            context.waker().wake_by_ref();
        }
        polled
    }))
}

/// The newest generation of every server that waits for one, as the control plane tells those that wait.
pub type Heads = BTreeMap<ServerId, u64>;

impl Running {
    fn heads(&self, servers: &[ServerId]) -> Heads {
        servers.iter().map(|id| (id.clone(), *self.state.wakeups().server(id).borrow())).collect()
    }
}

/// A whole answer.
pub struct Answer {
    pub status: http::StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Plane {
    /// Ends its thread until the next step, and those that helped it (a password's hash, unpacking of logs); what
    /// runs stays as it is. Its pools lose the tasks that look for old connections, and have none for years.
    pub fn rest(&self) {
        if let Some(Thread { steps, handle }) = locked(&self.thread).take() {
            drop(steps);
            // A step that panicked was caught within it.
            let _ = handle.join();
        }
    }

    fn wake(&self) -> Thread {
        let (steps, inbox) = channel::<Step>();
        let running = self.running.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime of one thread needs nothing of the system");
        let work = move || {
            for step in inbox {
                step(&runtime, &mut locked(&running));
            }
        };
        let thread = std::thread::Builder::new().name("control-plane".into()).spawn(work);
        Thread { steps, handle: thread.expect("a process that could start threads can start one more") }
    }

    /// Does one step and waits for it, without letting virtual time pass.
    fn step<R: Send + 'static>(&self, work: impl FnOnce(&Runtime, &mut Option<Running>) -> R + Send + 'static) -> R {
        let (answer, answered) = channel();
        let step = move |runtime: &Runtime, running: &mut Option<Running>| {
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| work(runtime, running)));
            // Whoever asked waits for this.
            let _ = answer.send(done);
        };
        let mut thread = locked(&self.thread);
        let sent = thread.get_or_insert_with(|| self.wake()).steps.send(Box::new(step));
        sent.expect("the thread of the control plane lives as long as its handle");
        let done = answered.recv().expect("every step answers");
        match done {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    pub fn start(
        &self,
        options: ServerOptions,
        edges: Edges,
        around: Arc<Surroundings>,
        now: Instant,
    ) -> Result<(), String> {
        self.step(move |runtime, running| {
            let begin = server::prepare(options, SocketAddr::from(([127, 0, 0, 1], 4600)), edges);
            let begun = done(runtime, ambient::within(around, begin)).map_err(|error| format!("{error:#}"))?;
            let router = server::router::router(begun.state.clone());
            *running = Some(Running { state: begun.state, router, rollout: Worker::new(now) });
            Ok(())
        })
    }

    /// Ends it: what is not committed is lost.
    pub fn end(&self) {
        self.step(|runtime, running| {
            if let Some(running) = running.take() {
                done(runtime, running.state.store().close());
            }
        });
    }

    /// One request from outside.
    pub fn request(
        &self,
        request: http::Request<Bytes>,
        around: Arc<Surroundings>,
        servers: Vec<ServerId>,
    ) -> Option<(Answer, Heads)> {
        self.step(move |runtime, running| {
            let router = running.as_ref()?.router.clone();
            let mut request = request.map(|body| axum::body::Body::new(Full::new(body)));
            request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1))));
            let call = async move {
                let response = match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let (parts, body) = response.into_parts();
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                Answer { status: parts.status, headers: parts.headers, body }
            };
            let answer = done(runtime, ambient::within(around, call));
            Some((answer, running.as_ref()?.heads(&servers)))
        })
    }

    /// One round of the rollout; answers when the next is due.
    pub fn round(&self, now: Instant, around: Arc<Surroundings>, servers: Vec<ServerId>) -> Option<(Instant, Heads)> {
        self.step(move |runtime, running| {
            let running = running.as_mut()?;
            let due = done(runtime, ambient::within(around, running.rollout.round(&running.state, now)));
            Some((due, running.heads(&servers)))
        })
    }

    /// One look at who is there.
    pub fn presence(&self, around: Arc<Surroundings>, servers: Vec<ServerId>) -> Option<Heads> {
        self.step(move |runtime, running| {
            let running = running.as_ref()?;
            // A look that failed is repeated.
            let _ = done(runtime, ambient::within(around, server::tasks::presence::look(&running.state)));
            Some(running.heads(&servers))
        })
    }

    /// Reads what the referee wants to know. `None` while it is down.
    pub fn inspect<R: Send + 'static>(
        &self,
        question: impl for<'a> FnOnce(&'a AppState) -> BoxFuture<'a, R> + Send + 'static,
    ) -> Option<R> {
        self.step(move |runtime, running| running.as_ref().map(|running| done(runtime, question(&running.state))))
    }

    /// Makes an empty control plane in `directory`, to be copied for each simulation.
    pub fn make_template(&self, directory: &Path) -> Result<(), String> {
        self.start(
            options(directory),
            Edges::default(),
            Arc::new(Surroundings::standing(crate::chance::Chance::of(0, "template"))),
            Instant::now(),
        )?;
        self.end();
        Ok(())
    }
}

pub fn options(directory: &Path) -> ServerOptions {
    let dns = api::gateway::DnsSettings { enabled: false, ..Default::default() };
    ServerOptions {
        allow_local_sources: true,
        poll_interval_ms: POLL_INTERVAL_MS,
        dns,
        ..ServerOptions::new(directory)
    }
}
