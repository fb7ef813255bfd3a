//! `mainstay logs`: what services and builds wrote.
//!
//! Several services are one stream: their last lines are put in the order of time, new ones are shown as
//! they come, each with the name of its service in a colour of its own.
//!
//! With `--since`, `--until` and `--search` all that is kept is looked through, from the newest line back, until
//! there are as many as were asked for: the control plane sends what fits, and stops when nobody reads on. What
//! exactly fits is decided here (capitals), of what it sends.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, Tone};
use crate::times::{clock, now_ms};
use crate::{address, log_search};
use api::UnixMillis;
use api::deployments::DeploymentKind;
use api::ids::{DeploymentId, ServiceId};
use api::logs::{LogRecord, LogSource, LogStream, plain_text};
use api::services::ServiceView;
use client::{Client, ClientError, LogFileQuery, LogKind, LogQuery};
use log_search::Search;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What one answer of the control plane holds at most; more is read as a stream.
const LINES_AT_ONCE: u32 = 10_000;
/// All that a control plane keeps, with room to spare.
const LINES_LIMIT: i64 = 10_000_000;
/// Each is a connection of its own while it is followed.
const TARGETS_LIMIT: usize = 32;

/// Show what services wrote to stdout and stderr
///
/// Of one service, of several, of all services of a stack, or without a name of all there are. --build shows what the
/// last build wrote instead. With --json, one line per record.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Service, stack/service, or stack; may be given several times
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Go on with new lines as they come
    #[arg(long, short)]
    pub follow: bool,
    /// What the build wrote instead of what runs
    #[arg(long)]
    pub build: bool,
    /// So many of the newest lines to begin with
    #[arg(long, short = 'n', alias = "tail", value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=LINES_LIMIT))]
    pub lines: u32,
    /// Only lines of the last while, as in 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = crate::times::parse_length)]
    pub since: Option<u64>,
    /// Only lines that are older than this, as in 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = crate::times::parse_length, conflicts_with = "follow")]
    pub until: Option<u64>,
    /// Only lines that contain this; capitals matter only if it has one
    #[arg(long, short, value_name = "TEXT")]
    pub search: Option<String>,
    /// Only lines of this deployment (its build, and the instances it made)
    #[arg(long, value_name = "ID")]
    pub deployment: Option<DeploymentId>,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let targets = targets(&client, &options).await?;
    let now_ms = now_ms();
    let before = |length: Option<u64>| length.map(|length| now_ms - i64::try_from(length).unwrap_or(now_ms));
    let wanted = Wanted {
        from_ms: before(options.since),
        until_ms: before(options.until),
        search: options.search.as_deref().map(Search::new),
    };
    let mut past = if wanted.all() && options.lines <= LINES_AT_ONCE {
        newest(&client, &targets.queries, options.lines.max(1)).await?
    } else {
        // Where to go on from is known before the reading begins.
        let Past { after, .. } = newest(&client, &targets.queries, 1).await?;
        Past { after, records: fitting(&client, &targets.queries, &wanted, options.lines).await? }
    };
    let mut shower = Shower::new(&context.printer, targets.many, wanted.search.clone());
    let shown = past.newest(options.lines);
    shown.iter().for_each(|record| shower.show(record));
    if options.follow {
        return follow(client, targets.queries, past.after, &wanted, shower).await;
    }
    if shown.is_empty() && !context.printer.json() {
        nothing(context, &options);
    }
    Ok(Exit::Ok)
}

/// Whose lines are shown: what the control plane is asked, and whether lines need a name.
struct Targets {
    queries: Vec<LogQuery>,
    many: bool,
}

async fn targets(client: &Client, options: &Options) -> Result<Targets, Failure> {
    let kind = match (options.build, &options.deployment) {
        (true, _) => Some(LogKind::Build),
        (false, Some(_)) => None,
        (false, None) => Some(LogKind::Run),
    };
    let all = LogQuery { deployment: options.deployment.clone(), kind, ..LogQuery::default() };
    if options.services.is_empty() {
        return Ok(Targets { queries: vec![all], many: true });
    }
    let named = address::services_of(client, &options.services).await?;
    if named.len() > TARGETS_LIMIT {
        let failure = Failure::usage(format!("{} services are more than can be read at once", named.len()));
        return Err(failure.help(format!("name {TARGETS_LIMIT} at most, or none at all for everything")));
    }
    let mut queries = Vec::new();
    for service in &named {
        let mut query = LogQuery {
            stack: Some(service.stack_id.to_string()),
            service: Some(service.id.to_string()),
            ..all.clone()
        };
        if options.build && options.deployment.is_none() {
            // The last build, not all that ever were; a restart or a rollback builds nothing.
            query.deployment = last_build(client, service).await?;
        }
        queries.push(query);
    }
    Ok(Targets { queries, many: named.len() != 1 })
}

async fn last_build(client: &Client, service: &ServiceView) -> Result<Option<DeploymentId>, Failure> {
    let recent = client.deployments(service.stack_id.as_str(), service.id.as_str(), 50).await?;
    let build = recent.into_iter().find(|deployment| deployment.kind == DeploymentKind::Deploy);
    Ok(build.map(|deployment| deployment.id))
}

/// Asks for each query, all at once, and answers in the order of the queries.
async fn of_each<T, F>(queries: &[LogQuery], ask: impl Fn(LogQuery) -> F) -> Result<Vec<T>, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for (index, query) in queries.iter().enumerate() {
        let answer = ask(query.clone());
        asked.spawn(async move { (index, answer.await) });
    }
    let mut answers = Vec::with_capacity(queries.len());
    while let Some(answer) = asked.join_next().await {
        let (index, found) = answer.map_err(|error| Failure::general(format!("cannot read logs: {error}")))?;
        answers.push((index, found?));
    }
    answers.sort_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, found)| found).collect())
}

/// The newest lines, whatever they hold.
async fn newest(client: &Client, queries: &[LogQuery], tail: u32) -> Result<Past, Failure> {
    let answers = of_each(queries, |query| {
        let (client, query) = (client.clone(), LogQuery { tail: Some(tail), ..query });
        async move { client.logs(&query).await }
    });
    let answers = answers.await?;
    let after = answers.iter().map(|found| found.iter().map(|record| record.sequence).max().unwrap_or(0)).collect();
    Ok(Past { after, records: answers.into_iter().flatten().collect() })
}

/// The newest lines that are wanted, so many of each query, however far back they are.
async fn fitting(
    client: &Client,
    queries: &[LogQuery],
    wanted: &Wanted,
    lines: u32,
) -> Result<Vec<LogRecord>, Failure> {
    let answers = of_each(queries, |of| {
        let (client, wanted) = (client.clone(), wanted.clone());
        async move {
            let search = wanted.search.as_ref().map(|search| search.text().to_owned());
            let query = LogFileQuery { of, since_ms: wanted.from_ms, until_ms: wanted.until_ms, search };
            let mut found = Vec::new();
            let mut back = client.log_lines_back(&query).await?;
            while found.len() < lines as usize {
                match back.next().await? {
                    Some(record) if wanted.holds(&record) => found.push(record),
                    Some(_) => {}
                    None => break,
                }
            }
            Ok(found)
        }
    });
    Ok(answers.await?.into_iter().flatten().collect())
}

/// Which lines are meant.
#[derive(Clone)]
struct Wanted {
    from_ms: Option<UnixMillis>,
    until_ms: Option<UnixMillis>,
    search: Option<Search>,
}

impl Wanted {
    fn all(&self) -> bool {
        self.from_ms.is_none() && self.until_ms.is_none() && self.search.is_none()
    }

    fn holds(&self, record: &LogRecord) -> bool {
        let at_ms = record.line.at_ms;
        self.from_ms.is_none_or(|from| at_ms >= from)
            && self.until_ms.is_none_or(|until| at_ms <= until)
            && self.search.as_ref().is_none_or(|search| search.is_in(&plain_text(&record.line.text)))
    }
}

/// What was written before now.
struct Past {
    records: Vec<LogRecord>,
    /// Per query: what is new comes after this.
    after: Vec<i64>,
}

impl Past {
    /// The newest lines of all services together, in the order of time.
    fn newest(&mut self, lines: u32) -> Vec<LogRecord> {
        self.records.sort_by_key(|record| (record.line.at_ms, record.sequence));
        let skipped = self.records.len().saturating_sub(lines as usize);
        self.records.drain(..).skip(skipped).collect()
    }
}

/// Goes on with what comes, of all queries at once, until a stream breaks for good.
async fn follow(
    client: Client,
    queries: Vec<LogQuery>,
    after: Vec<i64>,
    wanted: &Wanted,
    mut shower: Shower<'_>,
) -> Outcome {
    let (sender, mut receiver) = mpsc::channel::<Result<LogRecord, ClientError>>(1024);
    let mut streams = JoinSet::new();
    for (query, after) in queries.into_iter().zip(after) {
        let mut lines = client.follow_logs(&LogQuery { after: Some(after), ..query });
        let sender = sender.clone();
        streams.spawn(async move {
            loop {
                let line = lines.next().await;
                let ended = line.is_err();
                if sender.send(line).await.is_err() || ended {
                    return;
                }
            }
        });
    }
    drop(sender);
    while let Some(line) = receiver.recv().await {
        let record = line?;
        if wanted.holds(&record) {
            shower.show(&record);
        }
    }
    Ok(Exit::Ok)
}

fn nothing(context: &Context, options: &Options) {
    let printer = &context.printer;
    if let Some(text) = &options.search {
        printer.note(&format!("No line contains `{text}`."));
    } else if let Some(since) = options.since {
        printer.note(&format!("No lines in the last {}.", manifest::duration_text(since)));
    } else {
        printer.note("No lines yet.");
    }
    if !options.build {
        printer.hint("Go on watching with --follow, or look at the build with --build.");
    }
}

/// Shows lines, each service in its colour, with what was searched for standing out.
struct Shower<'a> {
    printer: &'a Printer,
    many: bool,
    search: Option<Search>,
    /// In the order in which they spoke first: that gives each its colour.
    services: Vec<ServiceId>,
    width: usize,
}

impl<'a> Shower<'a> {
    fn new(printer: &'a Printer, many: bool, search: Option<Search>) -> Self {
        Self { printer, many, search, services: Vec::new(), width: 0 }
    }

    /// One line: JSON for programs, else the text with its time, which stands first so that it sorts.
    fn show(&mut self, record: &LogRecord) {
        if self.printer.json() {
            self.printer.data_json(record, false);
            return;
        }
        let paint = self.printer.paint();
        let time = paint.dim(&clock(record.line.at_ms, now_ms()));
        let origin = self.origin(record);
        let (text, tone) = match (plain_text(&record.line.text), record.line.stream) {
            (text, LogStream::Stdout) => (text, Tone::Plain),
            (text, LogStream::Stderr) => (text, Tone::Warning),
            (text, LogStream::Mainstay) => (format!("-- {text}"), Tone::Busy),
        };
        let pieces = self.search.as_ref().map_or_else(|| vec![(text.as_str(), false)], |search| search.pieces(&text));
        let text: String = pieces
            .into_iter()
            .map(|(piece, found)| if found { paint.found(piece) } else { paint.tone(tone, piece) })
            .collect();
        self.printer.data(&format!("{time} {origin} {text}"));
    }

    fn origin(&mut self, record: &LogRecord) -> String {
        let paint = self.printer.paint();
        let instance = match &record.source {
            LogSource::Run { instance_id } => format!("[{}]", instance_id.short()),
            LogSource::Build { .. } => "[build]".to_owned(),
        };
        if !self.many {
            return paint.dim(&instance);
        }
        let known = self.services.iter().position(|id| *id == record.service_id);
        let colour = known.unwrap_or_else(|| {
            self.services.push(record.service_id.clone());
            self.services.len() - 1
        });
        let label = format!("{}{instance}", record.service);
        // Names stand below each other on a terminal; a program gets no padding.
        self.width = if self.printer.to_terminal() { self.width.max(label.len()) } else { 0 };
        let padding = " ".repeat(self.width.saturating_sub(label.len()));
        format!("{}{padding}", paint.of_many(colour, &label))
    }
}
