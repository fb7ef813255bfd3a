//! The event timeline: what happened, in order, each with its cause.

use super::frame::{Fragment, Frame, Live, page};
use super::names::{Names, Place, query, server_path};
use super::{times, words};
use api::cause::{Actor, Cause};
use api::deployments::Deployment;
use api::events::{EventLevel, EventRecord, EventTopic};
use api::ids::{DeploymentId, RequestId};
use maud::{Markup, html};
use std::collections::BTreeMap;

/// How many events one page holds.
pub const PAGE_SIZE: usize = 30;

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
    /// What it is about: the key of an [`EventTopic`].
    #[serde(default)]
    pub topic: String,
    /// Who asked for it: a name, or the label of an actor.
    #[serde(default)]
    pub by: String,
    /// Id of the request that led to it.
    #[serde(default)]
    pub request: String,
    /// Words that the message holds.
    #[serde(default)]
    pub text: String,
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
        let fields = [
            ("stack", &self.stack),
            ("service", &self.service),
            ("server", &self.server),
            ("level", &self.level),
            ("topic", &self.topic),
            ("by", &self.by),
            ("request", &self.request),
            ("text", &self.text),
        ];
        query(&fields, before.map(Place::Before))
    }
}

fn topic_name(topic: EventTopic) -> &'static str {
    match topic {
        EventTopic::Deployments => "Deployments and changes",
        EventTopic::Builds => "Builds",
        EventTopic::Instances => "Instances and health",
        EventTopic::Servers => "Servers and gateways",
        EventTopic::Certificates => "Certificates",
        EventTopic::Access => "Sign-ins and tokens",
    }
}

/// What the page shows.
pub struct EventsPage {
    pub filter: EventFilter,
    /// Newest first.
    pub events: Vec<EventRecord>,
    /// Where older ones begin, if there may be some.
    pub older_than: Option<i64>,
    pub names: Names,
    /// What the events were part of.
    pub deployments: BTreeMap<DeploymentId, Deployment>,
    /// To choose from, for the filter.
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
                    p.empty { @if self.older_than.is_some() { "None of the newest events fits this filter." } @else { "No event fits this filter." } }
                } @else {
                    (list_with_chain(&self.events, &self.names, &self.deployments, frame))
                }
                nav.paging aria-label="Pages" {
                    @if self.filter.before.is_some() { a.button.quiet href={ "/events?" (self.filter.query(None)) } { "Newest" } }
                    @if let Some(before) = self.older_than {
                        a.button.quiet href={ "/events?" (self.filter.query(Some(before))) } rel="next" { "Older" }
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
            form.card.filters method="get" action="/events" role="search" aria-label="Filter events" {
                label { span { "Text" } input type="search" name="text" value=(self.filter.text) placeholder="any" maxlength="100"; }
                label { span { "About" } select name="topic" {
                    option value="" { "Everything" }
                    @for topic in EventTopic::ALL { option value=(topic.key()) selected[self.filter.topic == topic.key()] { (topic_name(topic)) } }
                } }
                (words::suggested("stack", "Stack", &self.filter.stack, &self.stacks))
                label { span { "Service" } input type="text" name="service" value=(self.filter.service) placeholder="any" maxlength="81"; }
                (words::suggested("server", "Server", &self.filter.server, &self.servers))
                label { span { "Person or token" } input type="text" name="by" value=(self.filter.by) placeholder="any" maxlength="100" autocomplete="off"; }
                @if !self.filter.request.is_empty() { label { span { "Request" } input type="text" name="request" value=(self.filter.request) maxlength="40" autocomplete="off"; } }
                label { span { "Level" } select name="level" { @for (value, name) in levels { option value=(value) selected[self.filter.level == value] { (name) } } } }
                button type="submit" { "Show" }
                @if self.filter != EventFilter::default() { a.button.quiet href="/events" { "Clear" } }
            }
        }
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

/// The timeline with all that led to each event: the deployment that it was part of, and who asked for that.
fn list_with_chain(
    events: &[EventRecord],
    names: &Names,
    deployments: &BTreeMap<DeploymentId, Deployment>,
    frame: &Frame,
) -> Markup {
    html! {
        ol.timeline { @for record in events {
            @let deployment = record.event.deployment_id.as_ref().and_then(|id| deployments.get(id));
            (entry(record, names, Detail::Whole, deployment, frame))
        } }
    }
}

/// `← the deployment, its commit ← who asked for it`, as far as it is not said already. The arrows, and what they
/// mean for a screen reader, are in the style sheet: a page of events has a hundred of them.
fn chain(cause: &Cause, deployment: &Deployment) -> Markup {
    let asked = &deployment.cause;
    html! {
        " " a.part-of href={ "/deployments/" (deployment.id) } { (words::deployment_kind(deployment.kind)) " of " (deployment.service) ", revision " (deployment.revision_number) }
        @if !deployment.source_subject.is_empty() {
            " " span.made-from title=(deployment.source_version) { (deployment.source_version.short()) " “" (deployment.source_subject) "”" }
        }
        @if (&asked.actor, &asked.action) != (&cause.actor, &cause.action) {
            " " span.asked-by { (asker(&asked.actor, Detail::Whole)) ": " (words::prose(&asked.action)) }
        }
    }
}

/// Who asked, with all that they ever did behind it.
fn asker(actor: &Actor, detail: Detail) -> Markup {
    let label = actor.label();
    html! {
        @match actor {
            Actor::User { .. } | Actor::Token { .. } if detail != Detail::Brief => {
                a href={ "/events?" (EventFilter { by: label.clone(), ..EventFilter::default() }.query(None)) } title={ "Everything that " (label) " did" } { (label) }
            }
            _ => (label),
        }
    }
}

/// The page of all that a request caused.
pub fn request_path(id: &RequestId) -> String {
    format!("/events?request={id}")
}

/// Events as a timeline, wherever a page shows some.
pub fn list(events: &[EventRecord], names: &Names, detail: Detail, frame: &Frame) -> Markup {
    html! { ol.timeline { @for record in events { (entry(record, names, detail, None, frame)) } } }
}

fn entry(
    record: &EventRecord,
    names: &Names,
    detail: Detail,
    deployment: Option<&Deployment>,
    frame: &Frame,
) -> Markup {
    let event = &record.event;
    let (tone, level) = words::event_level(event.level);
    let place = names.service_of(event.service_id.as_ref());
    // Where room is short, a word such as `deploy` is left out, too.
    let reason = event.untold_reason().filter(|reason| detail != Detail::Brief || !event.message.contains(reason));
    html! {
        li.(tone.class()) id={ "e" (record.sequence) } {
            @if event.level > EventLevel::Info { span.symbol title=(level) { span aria-hidden="true" { (tone.symbol()) } span.hidden-label { (level) ": " } } }
            p.what { (words::prose(&event.message)) }
            p.why {
                (times::relative(event.at_ms, frame.now_ms))
                @if detail != Detail::Brief { " · " (event.kind.as_str().replace('_', " ")) }
                " · because " (asker(&event.cause.actor, detail))
                @if let Some(reason) = reason { ": " (words::prose(reason)) }
                @if let Some(deployment) = deployment { (chain(&event.cause, deployment)) }
                @if let Some((label, path)) = place { " · " a href=(path) { (label) } }
                @if let Some(server) = event.server_id.as_ref().and_then(|id| names.server(id)) { " · on " a href=(server_path(server)) { (server) } }
                @if let Some(id) = event.deployment_id.as_ref().filter(|_| detail != Detail::OfDeployment && deployment.is_none()) { " · " a href={ "/deployments/" (id) } { "deployment " (id.short()) } }
                @if let Some(id) = event.cause.request_id.as_ref().filter(|_| detail != Detail::Brief) { " · " a href=(request_path(id)) title={ "Everything that request " (id) " caused" } { "request " (id.short()) } }
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
            older_than: Some(4),
            names: Names::of(&[samples::stack()], &[]),
            deployments: [samples::deployment(api::deployments::Stage::Running)].map(|d| (d.id.clone(), d)).into(),
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
    fn the_chain_goes_from_what_happened_to_the_commit_and_the_person() {
        let page = events_page(EventFilter::default()).render(&samples::frame("/events")).into_string();
        let links = [
            "agent harbour: process exited",
            ">Deploy of web, revision 7</a>",
            "“Show the delivery date in the cart”",
            "href=\"/events?by=token+cli\"",
            ">token cli</a>: deploy",
        ];
        let places: Vec<_> =
            links.iter().map(|link| page.find(link).unwrap_or_else(|| panic!("{link} is missing in {page}"))).collect();
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn what_the_person_asked_for_is_not_said_twice() {
        let deployment = samples::deployment(api::deployments::Stage::Running);
        let said = chain(&deployment.cause, &deployment).into_string();
        assert!(!said.contains("token cli"), "{said}");
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
    fn who_asked_and_which_request_lead_to_all_that_came_of_them() {
        let mut page = events_page(EventFilter::default());
        let id = RequestId::from_uuid(uuid::Uuid::from_u128(7));
        page.events[0].event.cause.actor = Actor::User { name: "a&b".into() };
        page.events[0].event.cause.request_id = Some(id.clone());
        let page = page.render(&samples::frame("/events")).into_string();
        assert!(page.contains("href=\"/events?by=user+a%26b\""), "{page}");
        assert!(page.contains(&format!("href=\"/events?request={id}\"")), "{page}");
        assert!(!page.contains("by=agent"), "a machine is no person: {page}");
        let kept = EventFilter { request: id.to_string(), ..EventFilter::default() };
        let page = events_page(kept).render(&samples::frame("/events")).into_string();
        assert!(page.contains(&format!("name=\"request\" value=\"{id}\"")), "{page}");
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
