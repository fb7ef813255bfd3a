//! `mainstay events`: what happened, in order, each with its cause.

use crate::address;
use crate::context::Context;
use crate::exit::{Exit, Outcome};
use crate::printer::{Printer, Tone};
use crate::times::{clock, now_ms};
use api::events::{EventLevel, EventRecord};
use client::EventQuery;

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
        ..EventQuery::default()
    };
    let mut past = client.events(&query).await?;
    past.sort_by_key(|record| record.sequence);
    if context.printer.json() && !options.follow {
        context.printer.data_json(&past, true);
        return Ok(Exit::Ok);
    }
    past.iter().for_each(|record| show(record, &context.printer));
    if options.follow {
        query.after = past.last().map(|record| record.sequence);
        let mut coming = client.follow_events(&query);
        loop {
            show(&coming.next().await?, &context.printer);
        }
    }
    if past.is_empty() {
        context.printer.note("Nothing happened yet.");
    }
    Ok(Exit::Ok)
}

/// One event as a line.
pub fn show(record: &EventRecord, printer: &Printer) {
    if printer.json() {
        printer.data_json(record, false);
        return;
    }
    printer.data(&line(record, printer));
}

pub fn line(record: &EventRecord, printer: &Printer) -> String {
    let paint = printer.paint();
    let event = &record.event;
    let (level, tone) = match event.level {
        EventLevel::Info => ("info   ", Tone::Faint),
        EventLevel::Warning => ("warning", Tone::Warning),
        EventLevel::Error => ("error  ", Tone::Bad),
    };
    let cause = format!("({}: {})", event.cause.actor.label(), event.cause.action);
    let message = crate::progress::plain_text(&event.message);
    format!("{} {} {message} {}", paint.dim(&clock(event.at_ms, now_ms())), paint.tone(tone, level), paint.dim(&cause))
}
