//! `mainstay events`: what happened, in order, each with its cause.

use crate::address;
use crate::context::Context;
use crate::exit::{Exit, Outcome};
use crate::printer::{Printer, Tone};
use crate::times::{clock, now_ms};
use api::events::{EventKind, EventLevel, EventRecord, EventTopic};
use api::ids::{DeploymentId, RequestId};
use api::nearest::nearest;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use client::EventQuery;

/// Under the text of an event: `10:06:31 warning `.
const EVENT_INDENT: usize = 17;

/// Show what happened, and why
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only of this service (or stack/service)
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,
    /// Go on with new events as they come
    #[arg(long, short)]
    pub follow: bool,
    /// So many of the newest to begin with
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: u32,
    /// Only of this server
    #[arg(long = "on", value_name = "SERVER")]
    pub machine: Option<String>,
    /// Only of this deployment
    #[arg(long, value_name = "ID")]
    pub deployment: Option<DeploymentId>,
    /// Only about this
    #[arg(long, value_name = "WHAT", value_parser = about())]
    pub about: Option<EventTopic>,
    /// Only what happened in this way, as `--json` names it: build_failed, token_used, …
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Option<EventKind>,
    /// Only of this level and worse
    #[arg(long, value_name = "LEVEL", value_parser = level())]
    pub level: Option<EventLevel>,
    /// Only what this person or token asked for (a name, or "user NAME", "token NAME")
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
    /// Only what this request caused, also through a deployment
    #[arg(long, value_name = "ID")]
    pub request: Option<RequestId>,
}

fn about() -> impl TypedValueParser<Value = EventTopic> {
    one_of(EventTopic::ALL.to_vec(), EventTopic::key)
}

fn level() -> impl TypedValueParser<Value = EventLevel> {
    one_of(EventLevel::ALL.to_vec(), EventLevel::as_str)
}

/// Takes the word of one of these.
fn one_of<T>(all: Vec<T>, word: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let words: Vec<&'static str> = all.iter().map(|one| word(*one)).collect();
    PossibleValuesParser::new(words).try_map(move |text| {
        all.iter().copied().find(|one| word(*one) == text).ok_or_else(|| format!("`{text}` is not known"))
    })
}

/// They are many: an unknown one is answered with those that are like it.
fn kind(text: &str) -> Result<EventKind, String> {
    EventKind::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| {
        let like: Vec<String> =
            EventKind::ALL.iter().map(|kind| kind.as_str()).filter(|word| is_like(text, word)).collect();
        match like.is_empty() {
            true => "it is no kind of event; the field `kind` of `mainstay events --json` has them".to_owned(),
            false => format!("it is no kind of event; there is {}", like.join(", ")),
        }
    })
}

/// Whether somebody who wrote the one may mean the other: a word of it, all but a letter or two right.
fn is_like(text: &str, kind: &str) -> bool {
    let word = text.split(['_', '-', ' ']).next().unwrap_or(text);
    kind.contains(word) || nearest(word, kind.split('_')).is_some()
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let service = match &options.service {
        Some(text) => Some(address::service(&client, text).await?),
        None => None,
    };
    let mut query = EventQuery {
        limit: Some(options.limit),
        stack: service.as_ref().map(|service| service.stack_id.to_string()),
        service: service.as_ref().map(|service| service.id.to_string()),
        server: options.machine,
        deployment: options.deployment,
        about: options.about,
        kind: options.kind,
        level: options.level,
        by: options.by,
        request: options.request,
        ..EventQuery::default()
    };
    let narrowed = narrowed(&query);
    let past = client.newest_events(&query).await?;
    if context.printer.json() && !options.follow {
        context.printer.data_json(&past, true);
        return Ok(Exit::Ok);
    }
    past.iter().for_each(|record| show(record, &context.printer));
    if options.follow {
        query.limit = None;
        query.after = past.last().map(|record| record.sequence);
        let mut coming = client.follow_events(&query);
        loop {
            show(&coming.next().await?, &context.printer);
        }
    }
    if past.is_empty() {
        context.printer.note(if narrowed { "No event fits." } else { "Nothing happened yet." });
    }
    Ok(Exit::Ok)
}

/// Whether the query leaves something out.
fn narrowed(query: &EventQuery) -> bool {
    query.service.is_some()
        || query.server.is_some()
        || query.deployment.is_some()
        || query.about.is_some()
        || query.kind.is_some()
        || query.level.is_some()
        || query.by.is_some()
        || query.request.is_some()
}

/// One event as a line.
pub fn show(record: &EventRecord, printer: &Printer) {
    if printer.json() {
        printer.data_json(record, false);
        return;
    }
    printer.sentence(&line(record, printer), EVENT_INDENT);
}

pub fn line(record: &EventRecord, printer: &Printer) -> String {
    let paint = printer.paint();
    let event = &record.event;
    let (level, tone) = match event.level {
        EventLevel::Info => ("info   ", Tone::Faint),
        EventLevel::Warning => ("warning", Tone::Warning),
        EventLevel::Error => ("error  ", Tone::Bad),
    };
    let message = api::logs::plain_text(&event.message);
    let actor = event.cause.actor.label();
    let cause = match event.untold_reason() {
        None => format!("({actor})"),
        Some(reason) => format!("({actor}: {})", api::logs::plain_text(reason)),
    };
    format!("{} {} {message} {}", paint.dim(&clock(event.at_ms, now_ms())), paint.tone(tone, level), paint.dim(&cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_not_known_is_answered_with_those_that_are_like_it() {
        assert_eq!(kind("build_failed"), Ok(EventKind::BuildFailed));
        for (written, meant) in
            [("buld", "build_failed"), ("build", "build_started"), ("dployment", "deployment_created")]
        {
            let answer = kind(written).unwrap_err();
            assert!(answer.contains(meant) && !answer.contains("disk_low"), "{written}: {answer}");
        }
        assert!(kind("weather").unwrap_err().contains("--json"), "nothing is like it");
    }
}
