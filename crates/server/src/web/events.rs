//! The event timeline: what happened, in order, each with its cause.

use super::frame::{Fragment, Frame, Live, page};
use super::names::{Names, server_path};
use super::{times, words};
use api::events::{EventLevel, EventRecord};
use maud::{Markup, html};

/// How many events one page holds.
pub const PAGE_SIZE: usize = 40;

/// What the timeline is narrowed to, as the query of the page says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub struct EventFilter {
    #[serde(default)]
    pub stack: String,
    #[serde(default)]
    pub service: String,
    #[serde(default)]
    pub server: String,
    /// Lowest level: `info`, `warning` or `error`.
    #[serde(default)]
    pub level: String,
    /// Only events older than this sequence number: the next page.
    #[serde(default)]
    pub before: Option<i64>,
}

impl EventFilter {
    pub fn lowest_level(&self) -> EventLevel {
        match self.level.as_str() {
            "warning" => EventLevel::Warning,
            "error" => EventLevel::Error,
            _ => EventLevel::Info,
        }
    }

    /// The query of a page with the same filter.
    pub fn query(&self, before: Option<i64>) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in
            [("stack", &self.stack), ("service", &self.service), ("server", &self.server), ("level", &self.level)]
        {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        if let Some(before) = before {
            query.append_pair("before", &before.to_string());
        }
        query.finish()
    }
}

/// What the page shows.
pub struct EventsPage {
    pub filter: EventFilter,
    /// Newest first.
    pub events: Vec<EventRecord>,
    /// Whether there are older ones.
    pub more: bool,
    pub names: Names,
    /// For the choices of the filter.
    pub stacks: Vec<String>,
    pub servers: Vec<String>,
}

impl EventsPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        if self.filter.before.is_some() { Vec::new() } else { vec![Fragment::new("events", self.timeline(frame))] }
    }

    fn timeline(&self, frame: &Frame) -> Markup {
        html! {
            section.card #events aria-label="Timeline" {
                @if self.events.is_empty() {
                    p.empty { "No event fits this filter." }
                } @else {
                    (list(&self.events, &self.names, Detail::Whole, frame))
                }
                nav.paging aria-label="Pages" {
                    @if self.filter.before.is_some() { a.button.quiet href={ "/events?" (self.filter.query(None)) } { "Newest" } }
                    @if self.more && let Some(last) = self.events.last() {
                        a.button.quiet href={ "/events?" (self.filter.query(Some(last.sequence))) } rel="next" { "Older" }
                    }
                }
            }
        }
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        let query = self.filter.query(None);
        let live = format!("/live/events/stream?{query}");
        let live = if self.filter.before.is_some() { Live::No } else { Live::From(&live) };
        page(
            frame,
            "Events",
            live,
            html! {
                div.title { h1 { "Events" } p.lead { "Everything that happened, newest first, with what led to it." } }
                (self.form())
                (self.timeline(frame))
            },
        )
    }

    fn form(&self) -> Markup {
        let levels = [("", "All"), ("warning", "Warnings and errors"), ("error", "Errors")];
        html! {
            form.card.filters method="get" action="/events" {
                (choice("stack", "Stack", &self.filter.stack, self.stacks.iter().map(|s| (s.as_str(), s.as_str()))))
                label { span { "Service" } input type="text" name="service" value=(self.filter.service) placeholder="any" maxlength="40"; }
                (choice("server", "Server", &self.filter.server, self.servers.iter().map(|s| (s.as_str(), s.as_str()))))
                label { span { "Level" } select name="level" { @for (value, name) in levels { option value=(value) selected[self.filter.level == value] { (name) } } } }
                button type="submit" { "Show" }
                @if self.filter != EventFilter::default() { a.button.quiet href="/events" { "Clear" } }
            }
        }
    }
}

fn choice<'a>(field: &str, label: &str, chosen: &str, values: impl Iterator<Item = (&'a str, &'a str)>) -> Markup {
    html! {
        label { span { (label) } select name=(field) {
            option value="" { "All" }
            @for (value, name) in values { option value=(value) selected[chosen == value] { (name) } }
        } }
    }
}

/// How much is told of each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What happened, when, where and why.
    Brief,
    /// On the page of its deployment: not which deployment.
    OfDeployment,
    /// Also its kind, its deployment and its request.
    Whole,
}

/// Events as a timeline, wherever a page shows some.
pub fn list(events: &[EventRecord], names: &Names, detail: Detail, frame: &Frame) -> Markup {
    html! { ol.timeline { @for record in events { (entry(record, names, detail, frame)) } } }
}

fn entry(record: &EventRecord, names: &Names, detail: Detail, frame: &Frame) -> Markup {
    let event = &record.event;
    let (tone, level) = words::event_level(event.level);
    let place = names.service_of(event.service_id.as_ref());
    html! {
        li.(tone.class()) {
            span.symbol title=(level) { span aria-hidden="true" { @if event.level == EventLevel::Info { "•" } @else { (tone.symbol()) } } span.hidden-label { (level) ": " } }
            div.body {
                p.what { (words::prose(&event.message)) }
                p.why {
                    (times::relative(event.at_ms, frame.now_ms))
                    @if detail != Detail::Brief { " · " (event.kind.as_str().replace('_', " ")) }
                    " · because " (event.cause.actor.label())
                    @if detail != Detail::Brief || !event.message.contains(&event.cause.action) { ": " (words::prose(&event.cause.action)) }
                    @if let Some((label, path)) = place { " · " a href=(path) { (label) } }
                    @if let Some(server) = event.server_id.as_ref().and_then(|id| names.server(id)) { " · on " a href=(server_path(server)) { (server) } }
                    @if let Some(id) = event.deployment_id.as_ref().filter(|_| detail != Detail::OfDeployment) { " · " a href={ "/deployments/" (id) } { "deployment " (id.short()) } }
                    @if let Some(id) = event.cause.request_id.as_ref().filter(|_| detail != Detail::Brief) { " · " span title=(id) { "request " (id.short()) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn events_page(filter: EventFilter) -> EventsPage {
        EventsPage {
            filter,
            events: vec![
                samples::event(9, EventLevel::Error, "web broke: <script>alert(1)</script>"),
                samples::event(4, EventLevel::Info, "web is healthy"),
            ],
            more: true,
            names: Names::of(&[samples::stack()], &[]),
            stacks: vec!["shop".into()],
            servers: vec!["harbour".into()],
        }
    }

    #[test]
    fn an_event_says_what_happened_and_what_led_to_it() {
        let page = events_page(EventFilter::default()).render(&samples::frame("/events")).into_string();
        assert!(page.contains("web broke: &lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
        assert!(page.contains("because agent harbour: process exited with code 1"), "{page}");
        assert!(page.contains("href=\"/deployments/dep_"), "{page}");
        assert!(page.contains("href=\"/stacks/shop/services/"), "{page}");
    }

    #[test]
    fn the_filter_is_kept_from_page_to_page() {
        let filter = EventFilter { stack: "shop".into(), level: "error".into(), ..EventFilter::default() };
        let page = events_page(filter).render(&samples::frame("/events")).into_string();
        assert!(page.contains("href=\"/events?stack=shop&amp;level=error&amp;before=4\""), "{page}");
        assert!(page.contains("<option value=\"error\" selected>"), "{page}");
        assert!(page.contains("data-live=\"/live/events/stream?stack=shop&amp;level=error\""), "{page}");
    }

    #[test]
    fn an_older_page_stands_still() {
        let filter = EventFilter { before: Some(50), ..EventFilter::default() };
        let page = events_page(filter).render(&samples::frame("/events")).into_string();
        assert!(!page.contains("data-live"), "{page}");
    }

    #[test]
    fn a_filter_cannot_break_out_of_its_field() {
        let filter = EventFilter { service: "\"><script>".into(), ..EventFilter::default() };
        let page = events_page(filter).render(&samples::frame("/events")).into_string();
        assert!(!page.contains("\"><script>\""), "{page}");
    }
}
