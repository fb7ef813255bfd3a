//! Watching deployments until they have ended: stages with their times, and the build's own words.
//!
//! On a terminal the running stage turns and the last build lines move below it; what is over stays
//! as a line. Piped, every stage and every build line is one plain line on stderr. Truth comes from
//! asking the control plane for the deployment, once a second and whenever an event says that
//! something moved; a lost stream therefore slows the display down and never makes it wrong.

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::times::{length, now_ms};
use api::deployments::{Deployment, DeploymentKind, Stage};
use api::ids::DeploymentId;
use api::logs::plain_text;
use client::{Client, ClientError, EventQuery, LogKind, LogQuery};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Build lines shown live below a stage.
const LIVE_LINES: usize = 5;
/// A stage that took less is passed through: not worth a line.
const WORTH_A_LINE_MS: i64 = 50;
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Every stage waits for a moment; after this time a person asks why.
const WORTH_A_REASON: Duration = Duration::from_secs(3);
/// The control plane may be away for this long (a restart) while it is waited for.
const ABSENCE_LIMIT: Duration = Duration::from_secs(60);

/// Options of every command that starts a deployment.
#[derive(Debug, Clone, clap::Args)]
pub struct WaitOptions {
    /// Wait for the result (what is done without a word, too)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Return as soon as it is accepted, without waiting for the result
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
    /// Give up waiting after this time; the deployment itself goes on
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = crate::times::parse_length)]
    pub timeout: u64,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self { wait: true, no_wait: false, timeout: 30 * 60_000 }
    }
}

enum Moved {
    Something,
    BuildLine(DeploymentId, String),
}

/// Watches for a command that does nothing else: Ctrl-C ends the watching, and says that it ends
/// nothing else.
pub async fn or_leave<T>(watching: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // Dropping the watching loses nothing: the control plane does not know that anybody watches.
    tokio::select! {
        ended = watching => ended,
        Ok(()) = tokio::signal::ctrl_c() => {
            let failure = Failure::new(Exit::TimedOut, "stopped watching; the deployment goes on");
            Err(failure.help("look with `mainstay status`; `mainstay cancel SERVICE` stops it"))
        }
    }
}

/// Waits until every deployment has ended, or the time is over. Gives them back as they are then.
pub async fn watch(
    context: &Context,
    client: &Client,
    deployments: Vec<Deployment>,
    timeout_ms: u64,
) -> Result<Vec<Deployment>, Failure> {
    let (sender, mut receiver) = mpsc::channel(1024);
    let ids: Vec<DeploymentId> = deployments.iter().map(|deployment| deployment.id.clone()).collect();
    let mut followers = tokio::task::JoinSet::new();
    for id in &ids {
        followers.spawn(follow_build(client.clone(), id.clone(), sender.clone()));
        followers.spawn(follow_events(client.clone(), id.clone(), sender.clone()));
    }
    let mut display = Display::new(&context.printer, &deployments);
    let mut known: BTreeMap<DeploymentId, Deployment> = deployments.into_iter().map(|d| (d.id.clone(), d)).collect();
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let mut absent_since: Option<Instant> = None;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut look_at = Instant::now();
    loop {
        if Instant::now() >= look_at {
            match look(client, &mut known).await {
                Ok(()) => absent_since = None,
                Err(error)
                    if error.is_unreachable()
                        && absent_since.get_or_insert_with(Instant::now).elapsed() < ABSENCE_LIMIT => {}
                Err(error) => return Err(error.into()),
            }
            look_at = Instant::now() + POLL_INTERVAL;
            display.show(&known);
        }
        if known.values().all(|deployment| !deployment.stage.in_flight()) {
            drain_lines(&mut receiver, &mut display);
            display.finish(&known);
            return Ok(ids.iter().filter_map(|id| known.remove(id)).collect());
        }
        if Instant::now() >= deadline {
            display.finish(&known);
            return Err(timed_out(&known, timeout_ms));
        }
        // Both arms only take what is ready: cancelling either loses nothing.
        tokio::select! {
            Some(moved) = receiver.recv() => match moved {
                Moved::Something => look_at = Instant::now(),
                Moved::BuildLine(id, text) => display.build_line(&id, &text),
            },
            _ = tick.tick() => display.tick(&known),
        }
    }
}

fn drain_lines(receiver: &mut mpsc::Receiver<Moved>, display: &mut Display) {
    while let Ok(moved) = receiver.try_recv() {
        if let Moved::BuildLine(id, text) = moved {
            display.build_line(&id, &text);
        }
    }
}

async fn look(client: &Client, known: &mut BTreeMap<DeploymentId, Deployment>) -> Result<(), ClientError> {
    for deployment in known.values_mut().filter(|deployment| deployment.stage.in_flight()) {
        *deployment = client.deployment(&deployment.id).await?;
    }
    Ok(())
}

async fn follow_build(client: Client, id: DeploymentId, sender: mpsc::Sender<Moved>) {
    let query =
        LogQuery { deployment: Some(id.clone()), kind: Some(LogKind::Build), after: Some(0), ..LogQuery::default() };
    let mut lines = client.follow_logs(&query);
    while let Ok(record) = lines.next().await {
        if sender.send(Moved::BuildLine(id.clone(), record.line.text)).await.is_err() {
            return;
        }
    }
}

async fn follow_events(client: Client, id: DeploymentId, sender: mpsc::Sender<Moved>) {
    let mut events = client.follow_events(&EventQuery { deployment: Some(id), ..EventQuery::default() });
    while events.next().await.is_ok() {
        if sender.send(Moved::Something).await.is_err() {
            return;
        }
    }
}

fn timed_out(known: &BTreeMap<DeploymentId, Deployment>, timeout_ms: u64) -> Failure {
    let open: Vec<String> = known
        .values()
        .filter(|d| d.stage.in_flight())
        .map(|d| {
            format!(
                "{} is {}{}",
                d.service,
                stage_words(d.stage),
                waits(d).map_or(String::new(), |w| format!(" ({w})"))
            )
        })
        .collect();
    let time = manifest::duration_text(timeout_ms);
    let failure = Failure::new(Exit::TimedOut, format!("not finished after {time}: {}", open.join(", ")));
    failure.help("it goes on by itself; look with `mainstay status`, or wait longer with --timeout")
}

/// The stage as words: `dns updating`.
pub fn stage_words(stage: Stage) -> String {
    stage.as_str().replace('_', " ")
}

/// What it waits for, if it does not move: `waits: its release is being prepared`.
pub fn waits(deployment: &Deployment) -> Option<String> {
    let reasons = deployment.waits_for.join("; ");
    (!reasons.is_empty()).then(|| format!("waits: {}", plain_text(&reasons)))
}

/// Whether a deployment ended the way it was meant to.
pub fn succeeded(deployment: &Deployment) -> bool {
    matches!((deployment.stage, deployment.kind), (Stage::Running, _) | (Stage::Stopped, DeploymentKind::Stop))
}

/// Something that turns while one waits, on a terminal; elsewhere nothing.
pub fn spinner(printer: &Printer) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if !printer.live() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

struct Display {
    printer: Printer,
    live: Option<MultiProgress>,
    rows: BTreeMap<DeploymentId, Row>,
}

struct Row {
    name: String,
    stages_told: usize,
    bar: Option<ProgressBar>,
    lines: VecDeque<String>,
    /// What it waits for, since when, and whether that has been said.
    waits: Option<String>,
    waits_since: Instant,
    waits_told: bool,
    ended: bool,
}

impl Row {
    /// What it has waited for so long that it is worth saying.
    fn long_wait(&self) -> Option<&str> {
        self.waits.as_deref().filter(|_| self.waits_since.elapsed() >= WORTH_A_REASON)
    }
}

impl Display {
    fn new(printer: &Printer, deployments: &[Deployment]) -> Self {
        let live = printer.live().then(MultiProgress::new);
        let width = deployments.iter().map(|d| d.service.as_str().len()).max().unwrap_or(0);
        let row = |deployment: &Deployment| {
            let bar = live.as_ref().map(|live| {
                let bar = live.add(ProgressBar::new_spinner());
                bar.set_style(ProgressStyle::with_template("{spinner:.cyan} {msg}").expect("the template is valid"));
                bar
            });
            let name = format!("{:width$}", deployment.service.as_str());
            let (waits, waits_since, waits_told) = (None, Instant::now(), false);
            let lines = VecDeque::new();
            (
                deployment.id.clone(),
                Row { name, stages_told: 0, bar, lines, waits, waits_since, waits_told, ended: false },
            )
        };
        let rows = deployments.iter().map(row).collect();
        Self { printer: printer.clone(), live, rows }
    }

    fn say(&self, text: &str) {
        match &self.live {
            // Printing above the bars cannot fail in a way that a person could act on.
            Some(live) => drop(live.println(text)),
            None => self.printer.note(text),
        }
    }

    fn show(&mut self, known: &BTreeMap<DeploymentId, Deployment>) {
        for (id, deployment) in known {
            let Some(row) = self.rows.get(id).filter(|row| !row.ended) else { continue };
            let mut told = Vec::new();
            for (index, entry) in deployment.stages.iter().enumerate().skip(row.stages_told) {
                match (&self.live, deployment.stages.get(index + 1)) {
                    // A stage that is over, with its time.
                    (Some(_), Some(next)) if next.at_ms - entry.at_ms >= WORTH_A_LINE_MS => {
                        told.push(self.stage_line(row, entry.stage, next.at_ms - entry.at_ms))
                    }
                    (Some(_), Some(_)) => {}
                    (Some(_), None) => break,
                    (None, _) if entry.stage == deployment.stage || !entry.stage.in_flight() => {
                        told.push(self.plain_line(row, deployment, entry.stage))
                    }
                    (None, next) if next.is_some_and(|next| next.at_ms - entry.at_ms >= WORTH_A_LINE_MS) => {
                        told.push(self.plain_line(row, deployment, entry.stage))
                    }
                    (None, _) => {}
                }
            }
            let live = self.live.is_some();
            told.iter().for_each(|line| self.say(line));
            let Some(row) = self.rows.get_mut(id) else { continue };
            row.stages_told = if live { deployment.stages.len().saturating_sub(1) } else { deployment.stages.len() };
            let waits = waits(deployment);
            if row.waits != waits {
                (row.waits, row.waits_since, row.waits_told) = (waits, Instant::now(), false);
            }
            if !live
                && !row.waits_told
                && let Some(waits) = row.long_wait()
            {
                let line = format!("{}  {waits}", row.name);
                row.waits_told = true;
                self.printer.note(&line);
            }
            let Some(row) = self.rows.get_mut(id) else { continue };
            if !deployment.stage.in_flight() {
                row.ended = true;
                if let Some(bar) = row.bar.take() {
                    bar.finish_and_clear();
                }
                if live {
                    self.say(&self.final_line(id, deployment));
                }
            }
        }
        self.tick(known);
    }

    fn stage_line(&self, row: &Row, stage: Stage, took_ms: i64) -> String {
        let paint = self.printer.paint_err();
        format!("{} {}  {:<16} {}", paint.green("✓"), row.name, stage_words(stage), paint.dim(&length(took_ms)))
    }

    fn plain_line(&self, row: &Row, deployment: &Deployment, stage: Stage) -> String {
        let since = deployment
            .stages
            .iter()
            .find(|entry| entry.stage == stage)
            .map_or(0, |entry| entry.at_ms - deployment.created_at_ms);
        format!("{}  {} ({})", row.name, stage_words(stage), length(since))
    }

    fn final_line(&self, id: &DeploymentId, deployment: &Deployment) -> String {
        let paint = self.printer.paint_err();
        let name = self.rows.get(id).map_or("", |row| row.name.as_str());
        let took = length(
            deployment.ended_at_ms.or(deployment.stages.last().map(|e| e.at_ms)).unwrap_or(deployment.created_at_ms)
                - deployment.created_at_ms,
        );
        let mark = if succeeded(deployment) { paint.green("✓") } else { paint.red("✗") };
        format!(
            "{mark} {name}  {} {}",
            paint.bold(&format!("{:<16}", stage_words(deployment.stage))),
            paint.dim(&format!("{took} in all"))
        )
    }

    fn build_line(&mut self, id: &DeploymentId, text: &str) {
        let text = plain_text(text);
        let Some(row) = self.rows.get_mut(id) else { return };
        if self.live.is_some() {
            row.lines.push_back(text);
            if row.lines.len() > LIVE_LINES {
                row.lines.pop_front();
            }
        } else {
            let line = format!("{} | {text}", row.name);
            self.printer.note(&line);
        }
    }

    fn tick(&mut self, known: &BTreeMap<DeploymentId, Deployment>) {
        let now = now_ms();
        let paint = self.printer.paint_err();
        let width =
            rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| usize::from(size.ws_col.max(20)));
        for (id, row) in &self.rows {
            let (Some(bar), Some(deployment)) = (&row.bar, known.get(id)) else { continue };
            let since = deployment.stages.last().map_or(deployment.created_at_ms, |entry| entry.at_ms);
            let mut message =
                format!("{}  {:<16} {}", row.name, stage_words(deployment.stage), paint.dim(&length(now - since)));
            if matches!(deployment.stage, Stage::Pending | Stage::Building | Stage::Pulling) {
                for line in &row.lines {
                    // A line that wraps would not be taken away again when it is redrawn.
                    let line: String = line.chars().take(width.saturating_sub(8)).collect();
                    message.push_str(&format!("\n    {}", paint.dim(&format!("│ {line}"))));
                }
            }
            if let Some(waits) = row.long_wait() {
                let line: String = waits.chars().take(width.saturating_sub(6)).collect();
                message.push_str(&format!("\n    {}", paint.dim(&line)));
            }
            bar.set_message(message);
            bar.tick();
        }
    }

    fn finish(&mut self, known: &BTreeMap<DeploymentId, Deployment>) {
        self.show(known);
        for bar in self.rows.values_mut().filter_map(|row| row.bar.take()) {
            bar.finish_and_clear();
        }
    }
}
