//! The stream behind a page: parts that changed, and log lines as they are written.
//!
//! ```text
//! clock   now, so that counters count by the server's clock
//! part    {id, html}  replaces the element with this id
//! lines   {html}      goes after the last log line
//! end     the session is over; the page loads again and leads to the sign-in
//! ```
//!
//! A stream takes no input but "look again": it reads the page that it belongs to, with the same
//! function as the page itself, and sends the parts whose markup differs from what it sent before.
//! It reads with the clock of its beginning, so that "3 s ago" turning into "4 s ago" is not a
//! change; the script tells the time. Wake-ups within a tenth of a second are one.

use super::builds::BuildFilter;
use super::events::EventFilter;
use super::frame::Frame;
use super::logs::{self, LineShape};
use super::reads::{self, LINES_AT_ONCE, LogQuery};
use super::servers::ServerFilter;
use super::service_list::ServiceListFilter;
use super::subject::Subject;
use super::visitor::Visitor;
use crate::auth::Caller;
use crate::clock;
use crate::error::{HttpError, Result};
use crate::extract::{Path, Query};
use crate::state::AppState;
use api::error::ErrorCode;
use api::ids::TokenId;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Wake-ups closer together than this are one.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// What no event announces (use of a machine, a probe's answer) is looked at this often.
const REFRESH: Duration = Duration::from_secs(5);
/// How often the caller's right to listen is looked at, besides whenever anybody's ends.
const SESSION_CHECK: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
pub struct After {
    /// Sequence of the last log line that the page holds.
    #[serde(default)]
    after: Option<i64>,
    /// Of the charts.
    #[serde(default)]
    range: String,
}

type Named<T> = Path<T>;

pub async fn overview(State(state): State<AppState>, visitor: Visitor) -> Result<Response> {
    follow(state, visitor, Subject::Overview, None).await
}

pub async fn services(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(filter): Query<ServiceListFilter>,
) -> Result<Response> {
    follow(state, visitor, Subject::Services(filter), None).await
}

pub async fn stack(State(state): State<AppState>, visitor: Visitor, Path(stack): Named<String>) -> Result<Response> {
    follow(state, visitor, Subject::Stack(stack), None).await
}

pub async fn service(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, service)): Named<(String, String)>,
    Query(query): Query<After>,
) -> Result<Response> {
    let range = query.range.parse().unwrap_or_default();
    follow(state, visitor, Subject::Service { stack, service, filter: String::new(), range }, query.after).await
}

pub async fn deployment(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(id): Named<String>,
    Query(query): Query<After>,
) -> Result<Response> {
    follow(state, visitor, Subject::Deployment { id, filter: String::new() }, query.after).await
}

pub async fn servers(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(filter): Query<ServerFilter>,
) -> Result<Response> {
    follow(state, visitor, Subject::Servers(filter), None).await
}

pub async fn server(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(server): Named<String>,
    Query(query): Query<After>,
) -> Result<Response> {
    let range = query.range.parse().unwrap_or_default();
    follow(state, visitor, Subject::Server { server, range }, None).await
}

pub async fn events(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(filter): Query<EventFilter>,
) -> Result<Response> {
    follow(state, visitor, Subject::Events(EventFilter { before: None, ..filter }), None).await
}

pub async fn builds(State(state): State<AppState>, visitor: Visitor) -> Result<Response> {
    follow(state, visitor, Subject::Builds(BuildFilter::default()), None).await
}

pub async fn join(State(state): State<AppState>, visitor: Visitor, Path(id): Named<String>) -> Result<Response> {
    let id: TokenId = id.parse().map_err(|_| HttpError::not_found("token", &id))?;
    follow(state, visitor, Subject::Join(id), None).await
}

/// One open stream.
struct Follower {
    state: AppState,
    caller: Caller,
    frame: Frame,
    subject: Subject,
    log: Option<(LogQuery, LineShape)>,
    after: i64,
    sent: HashMap<&'static str, String>,
    waiting: VecDeque<Event>,
    events: watch::Receiver<u64>,
    lines: watch::Receiver<u64>,
    revoked: watch::Receiver<u64>,
    checked_at: Instant,
    refresh_at: tokio::time::Instant,
    over: bool,
}

async fn follow(state: AppState, visitor: Visitor, subject: Subject, after: Option<i64>) -> Result<Response> {
    // Subscribed before the first read, so that what is stored in between is seen.
    let (events, mut lines) = (state.wakeups().events(), state.wakeups().logs());
    lines.mark_changed();
    let page = subject.read(&state, &visitor.caller, after.is_none()).await?;
    let log = page.log();
    let mut follower = Follower {
        // Without lines in the page, the stream begins with the first line that there is.
        after: after.unwrap_or(0),
        log,
        waiting: VecDeque::from([Event::default().event("clock").data(clock::now_ms().to_string())]),
        sent: HashMap::new(),
        checked_at: Instant::now(),
        refresh_at: tokio::time::Instant::now() + REFRESH,
        over: false,
        caller: visitor.caller,
        frame: Frame { message: None, ..visitor.frame },
        revoked: state.wakeups().credentials(),
        events,
        lines,
        subject,
        state,
    };
    follower.queue_parts(page.fragments(&follower.frame));
    let stream = stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response();
    // For proxies that would otherwise collect the stream before passing it on.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    Ok(response)
}

impl Follower {
    /// The next thing to send; `None` ends the stream. Cancelling loses nothing: what was read waits
    /// in `waiting`.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let looked = match self.wait().await {
                Woken::Stopping => return None,
                Woken::SessionOver => {
                    self.end();
                    continue;
                }
                Woken::Again => continue,
                Woken::Lines => self.look_at_lines().await,
                Woken::Parts => self.look_at_parts().await,
            };
            match looked {
                Ok(()) => {}
                // What the page is about is gone: loading it again says so.
                Err(HttpError::Answer(answer)) if answer.code == ErrorCode::NotFound => self.end(),
                Err(error) => {
                    // Logged there; the browser comes back with its last line.
                    let _ = error.to_answer();
                    return None;
                }
            }
        }
    }

    /// A browser drops an event without data, so this one has some.
    fn end(&mut self) {
        self.waiting.push_back(Event::default().event("end").data("over"));
        self.over = true;
    }

    async fn wait(&mut self) -> Woken {
        if self.revoked.has_changed().unwrap_or(true) || self.checked_at.elapsed() >= SESSION_CHECK {
            self.revoked.mark_unchanged();
            self.checked_at = Instant::now();
            if !self.caller.still_good(&self.state).await {
                return Woken::SessionOver;
            }
        }
        let has_log = self.log.is_some();
        tokio::select! {
            // All are safe to cancel: none takes anything out of anywhere.
            () = self.state.stopping().cancelled() => Woken::Stopping,
            Ok(()) = self.revoked.changed() => {
                self.revoked.mark_changed();
                Woken::Again
            }
            Ok(()) = self.lines.changed(), if has_log => {
                tokio::time::sleep(DEBOUNCE).await;
                self.lines.mark_unchanged();
                Woken::Lines
            }
            Ok(()) = self.events.changed() => {
                tokio::time::sleep(DEBOUNCE).await;
                self.events.mark_unchanged();
                Woken::Parts
            }
            // A point in time, so that a busy log does not put it off for ever.
            () = tokio::time::sleep_until(self.refresh_at) => Woken::Parts,
        }
    }

    async fn look_at_parts(&mut self) -> Result<()> {
        self.refresh_at = tokio::time::Instant::now() + REFRESH;
        let page = self.subject.read(&self.state, &self.caller, false).await?;
        let parts = page.fragments(&self.frame);
        self.queue_parts(parts);
        Ok(())
    }

    fn queue_parts(&mut self, parts: Vec<super::frame::Fragment>) {
        for part in parts {
            let html = part.markup.into_string();
            if self.sent.get(part.id) != Some(&html) {
                self.queue("part", &json!({ "id": part.id, "html": html }));
                self.sent.insert(part.id, html);
            }
        }
    }

    async fn look_at_lines(&mut self) -> Result<()> {
        let Some((query, shape)) = &self.log else { return Ok(()) };
        let lines = reads::log_after(&self.state, self.caller.scope(), query, self.after).await?;
        let Some(last) = lines.last() else { return Ok(()) };
        self.after = last.sequence;
        if lines.len() >= LINES_AT_ONCE as usize {
            // There may be more than one piece.
            self.lines.mark_changed();
        }
        let html: String = lines.iter().map(|line| logs::line(line, shape).into_string()).collect();
        self.queue("lines", &json!({ "html": html }));
        Ok(())
    }

    fn queue(&mut self, name: &str, data: &serde_json::Value) {
        self.waiting.push_back(Event::default().event(name).data(data.to_string()));
    }
}

enum Woken {
    /// Somebody's credential ended; perhaps it was ours.
    Again,
    Parts,
    Lines,
    SessionOver,
    Stopping,
}
