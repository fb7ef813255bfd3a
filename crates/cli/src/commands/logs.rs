//! `mainstay logs`: what services and builds wrote.

use crate::address;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, Tone};
use crate::progress::plain_text;
use crate::times::{clock, now_ms};
use api::deployments::DeploymentKind;
use api::ids::DeploymentId;
use api::logs::{LogRecord, LogSource, LogStream};
use client::{LogKind, LogQuery};

/// With --since the newest so many lines are looked through.
const SINCE_TAIL: u32 = 10_000;

/// Show what services wrote to stdout and stderr
///
/// Without SERVICE: of all services. Lines of one deployment's build: --build, or --deployment ID --build.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Service, or stack/service
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,
    /// Go on with new lines as they come
    #[arg(long, short)]
    pub follow: bool,
    /// What the build wrote instead of what runs
    #[arg(long)]
    pub build: bool,
    /// So many of the newest lines to begin with
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub tail: u32,
    /// Only lines of the last while, as in 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = crate::times::parse_length)]
    pub since: Option<u64>,
    /// Only lines of this deployment (its build, and the instances it made)
    #[arg(long, value_name = "ID")]
    pub deployment: Option<DeploymentId>,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let service = match &options.service {
        Some(text) => Some(address::service(&client, text).await?),
        None => None,
    };
    let kind = match (options.build, &options.deployment) {
        (true, _) => Some(LogKind::Build),
        (false, Some(_)) => None,
        (false, None) => Some(LogKind::Run),
    };
    let mut query = LogQuery {
        stack: service.as_ref().map(|service| service.stack_id.to_string()),
        service: service.as_ref().map(|service| service.id.to_string()),
        deployment: options.deployment.clone(),
        kind,
        tail: Some(if options.since.is_some() { SINCE_TAIL.max(options.tail) } else { options.tail }),
        ..LogQuery::default()
    };
    if let Some(service) = service.as_ref().filter(|_| options.build && options.deployment.is_none()) {
        // The last build, not all that ever were; a restart or a rollback builds nothing.
        let recent = client.deployments(service.stack_id.as_str(), service.id.as_str(), 50).await?;
        query.deployment = recent
            .into_iter()
            .find(|deployment| deployment.kind == DeploymentKind::Deploy)
            .map(|deployment| deployment.id);
    }
    let from_ms = options.since.map(|since| now_ms() - i64::try_from(since).unwrap_or(i64::MAX));
    let wanted = |record: &LogRecord| from_ms.is_none_or(|from| record.line.at_ms >= from);
    let many = service.is_none();
    if options.follow {
        let mut lines = client.follow_logs(&query);
        loop {
            let record = lines.next().await?;
            if wanted(&record) {
                show(&record, &context.printer, many);
            }
        }
    }
    let mut records = client.logs(&query).await?;
    records.retain(wanted);
    if context.printer.json() {
        context.printer.data_json(&records, true);
        return Ok(Exit::Ok);
    }
    if records.is_empty() {
        return nothing(context, &options);
    }
    records.iter().for_each(|record| show(record, &context.printer, many));
    Ok(Exit::Ok)
}

fn nothing(context: &Context, options: &Options) -> Result<Exit, Failure> {
    context.printer.note("No lines yet.");
    if !options.build {
        context.printer.hint("Go on watching with -f, or look at the build with --build.");
    }
    Ok(Exit::Ok)
}

/// One line: JSON for programs that follow, else the text with its time; the time stands first so that it sorts.
fn show(record: &LogRecord, printer: &Printer, many: bool) {
    if printer.json() {
        printer.data_json(record, false);
        return;
    }
    let paint = printer.paint();
    let time = paint.dim(&clock(record.line.at_ms, now_ms()));
    let instance = match &record.source {
        LogSource::Run { instance_id } => format!("[{}]", instance_id.short()),
        LogSource::Build { .. } => "[build]".to_owned(),
    };
    let origin = if many { format!("{}{instance}", record.service) } else { instance };
    let text = plain_text(&record.line.text);
    let text = match record.line.stream {
        LogStream::Stdout => text,
        LogStream::Stderr => paint.tone(Tone::Warning, &text),
        LogStream::Mainstay => paint.tone(Tone::Busy, &format!("-- {text}")),
    };
    printer.data(&format!("{time} {} {text}", paint.dim(&origin)));
}
