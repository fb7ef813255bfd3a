//! The overview: what runs, where, and what happened last. Where nothing runs yet, it teaches.

use super::events;
use super::frame::{Fragment, Frame, Live, copyable, page};
use super::names::{Names, server_path, service_path, stack_path};
use super::{times, words};
use api::events::EventRecord;
use api::servers::{ServerCondition, ServerView};
use api::services::{ServiceCondition, ServiceView};
use api::stacks::StackView;
use maud::{Markup, html};

/// How many events the overview shows.
pub const EVENTS_SHOWN: usize = 8;

pub struct OverviewPage {
    pub stacks: Vec<StackView>,
    pub servers: Vec<ServerView>,
    /// Newest first.
    pub events: Vec<EventRecord>,
}

impl OverviewPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![
            Fragment::new("summary", self.summary()),
            Fragment::new("stacks", self.stacks(frame)),
            Fragment::new("servers", self.servers(frame)),
            Fragment::new("latest-events", self.latest(frame)),
        ]
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        page(
            frame,
            "Overview",
            Live::From("/live/overview/stream"),
            html! {
                (self.summary())
                div.columns {
                    div.main-column { (self.stacks(frame)) }
                    div.side-column { (self.servers(frame)) (self.latest(frame)) }
                }
            },
        )
    }

    /// The state of everything in one sentence.
    fn summary(&self) -> Markup {
        let services = || self.stacks.iter().flat_map(|stack| &stack.services);
        let number_of = |wanted: &[ServiceCondition]| services().filter(|s| wanted.contains(&s.condition)).count();
        let troubled: Vec<_> = services()
            .filter(|s| {
                matches!(s.condition, ServiceCondition::Down | ServiceCondition::Degraded | ServiceCondition::Unknown)
            })
            .collect();
        let broken = troubled.len();
        let deploying = number_of(&[ServiceCondition::Deploying]);
        let running = number_of(&[ServiceCondition::Running]);
        let offline = self.servers.iter().filter(|s| s.condition == ServerCondition::Offline).count();
        let (tone, sentence) = if broken > 0 {
            let verb = if broken == 1 { "needs" } else { "need" };
            (words::Tone::Bad, format!("{} {verb} attention", words::count(broken, "service", "services")))
        } else if offline > 0 {
            let verb = if offline == 1 { "does" } else { "do" };
            (words::Tone::Bad, format!("{} {verb} not report", words::count(offline, "server", "servers")))
        } else if deploying > 0 {
            let verb = if deploying == 1 { "is" } else { "are" };
            (words::Tone::Busy, format!("{} {verb} being deployed", words::count(deploying, "service", "services")))
        } else if running > 0 {
            (words::Tone::Good, "Everything runs as it should".to_owned())
        } else {
            (words::Tone::Off, "Nothing runs here yet".to_owned())
        };
        html! {
            section.summary.(tone.class()) #summary aria-labelledby="summary-title" {
                span.symbol aria-hidden="true" { (tone.symbol()) }
                div {
                    h1 #summary-title { (sentence) }
                    p.lead {
                        (words::count(services().count(), "service", "services")) " in " (words::count(self.stacks.len(), "stack", "stacks"))
                        " on " (words::count(self.servers.len(), "server", "servers")) "."
                    }
                    @if !troubled.is_empty() {
                        ul { @for service in troubled.iter().take(8) {
                            @let (tone, word) = words::service_condition(service.condition);
                            li { a href=(service_path(&service.stack, &service.name)) { (service.stack) " / " (service.name) } " " (words::fact(tone, word)) }
                        } }
                    }
                }
            }
        }
    }

    fn stacks(&self, frame: &Frame) -> Markup {
        html! {
            div.stacks #stacks {
                @if self.stacks.is_empty() { (self.first_steps(frame)) }
                @for stack in &self.stacks { (stack_card(stack, frame)) }
            }
        }
    }

    /// The empty state: the exact commands, in order.
    fn first_steps(&self, frame: &Frame) -> Markup {
        html! {
            section.card.teach aria-labelledby="first-steps" {
                h2 #first-steps { "Deploy your first service" }
                ol.steps {
                    @if self.servers.is_empty() {
                        li {
                            h3 { "Let a machine join" }
                            p { "Services run on servers: machines with Mainstay's agent. None has joined yet." }
                            p { a.button href="/servers/new" { "Add a server" } }
                        }
                    }
                    li {
                        h3 { "Go to a git repository" }
                        p { "A Node, Python, Rust, Go, PHP or static project, or one with a Procfile, works as it is." }
                        (copyable("cd your-project"))
                    }
                    li {
                        h3 { "See what would happen, then let it happen" }
                        (copyable("mainstay plan"))
                        (copyable("mainstay deploy"))
                        p.soft { "On another machine than this one, sign in first:" }
                        (copyable(&format!("mainstay login --server {}", frame.address)))
                    }
                    li {
                        h3 { "Keep the settings in the repository, if you like" }
                        p { "This writes what was detected into " code { "mainstay.toml" } ", ready to be changed:" }
                        (copyable("mainstay init"))
                    }
                }
                p.soft { "This page shows the deployment the moment it begins." }
            }
        }
    }

    fn servers(&self, frame: &Frame) -> Markup {
        html! {
            section.card #servers aria-labelledby="servers-title" {
                div.card-head { h2 #servers-title { "Servers" } a.button.quiet href="/servers/new" { "Add a server" } }
                @if self.servers.is_empty() { p.empty { "No machine has joined yet." } }
                ul.rows {
                    @for server in &self.servers {
                        @let (tone, word) = words::server_condition(server.condition);
                        li {
                            div { a.name href=(server_path(&server.name)) { (server.name) } p.soft { (server.facts.operating_system) } }
                            div.end {
                                (words::badge(tone, word))
                                @if let Some(seen) = server.last_seen_at_ms { p.soft { "seen " (times::relative(seen, frame.now_ms)) } }
                            }
                        }
                    }
                }
            }
        }
    }

    fn latest(&self, frame: &Frame) -> Markup {
        let names = Names::of(&self.stacks, &self.servers);
        html! {
            section.card #latest-events aria-labelledby="events-title" {
                div.card-head { h2 #events-title { "Latest events" } a.button.quiet href="/events" { "All events" } }
                @if self.events.is_empty() { p.empty { "Nothing has happened yet." } } @else { (events::list(&self.events, &names, events::Detail::Brief, frame)) }
            }
        }
    }
}

fn stack_card(stack: &StackView, frame: &Frame) -> Markup {
    let (tone, word) = words::stack_condition(stack.condition);
    html! {
        section.card aria-label={ "Stack " (stack.name) } {
            div.card-head {
                h2 { a href=(stack_path(&stack.name)) { (stack.name) } }
                (words::badge(tone, word))
            }
            ul.rows { @for service in &stack.services { (service_row(service, frame)) } }
            @if stack.services.is_empty() { p.empty { "This stack has no services." } }
        }
    }
}

fn service_row(service: &ServiceView, frame: &Frame) -> Markup {
    let (tone, word) = words::service_condition(service.condition);
    html! {
        li {
            div {
                a.name href=(service_path(&service.stack, &service.name)) { (service.name) }
                @if let Some(url) = service.urls.first() { p.soft.clip { a href=(url) rel="noreferrer" { (url) } } }
            }
            div.end {
                (words::badge(tone, word))
                p.soft {
                    @match (&service.deployment, &service.current) {
                        (Some(deployment), _) if deployment.stage.in_flight() => {
                            a href={ "/deployments/" (deployment.id) } { (words::stage(deployment.stage).1) }
                            " for " (times::since(deployment.created_at_ms, frame.now_ms))
                        }
                        (_, Some(revision)) => { "revision " (revision.number) ", " (times::relative(revision.created_at_ms, frame.now_ms)) }
                        _ => "never ran"
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::events::EventLevel;

    fn overview() -> OverviewPage {
        OverviewPage {
            stacks: vec![samples::stack()],
            servers: vec![samples::server(ServerCondition::Online)],
            events: vec![samples::event(1, EventLevel::Info, "web is <healthy>")],
        }
    }

    fn shown(page: &OverviewPage) -> String {
        page.render(&samples::frame("/")).into_string()
    }

    #[test]
    fn the_overview_says_first_what_needs_attention() {
        let page = shown(&overview());
        assert!(page.contains("1 service needs attention"), "{page}");
        assert!(page.contains("4 services in 1 stack on 1 server."), "{page}");
        assert!(page.contains("web is &lt;healthy&gt;"), "{page}");
    }

    #[test]
    fn a_server_that_is_silent_is_said_even_if_its_services_look_well() {
        let mut overview = overview();
        overview.stacks[0].services.retain(|s| s.condition == ServiceCondition::Running);
        assert!(shown(&overview).contains("Everything runs as it should"));
        overview.servers[0].condition = ServerCondition::Offline;
        assert!(shown(&overview).contains("1 server does not report"));
    }

    #[test]
    fn where_nothing_runs_the_page_teaches_the_exact_commands() {
        let page = shown(&OverviewPage { stacks: vec![], servers: vec![], events: vec![] });
        for wanted in [
            "Nothing runs here yet",
            "mainstay plan",
            "mainstay deploy",
            "mainstay init",
            "href=\"/servers/new\"",
            "mainstay login --server http://127.0.0.1:4600",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing");
        }
    }

    #[test]
    fn every_fragment_is_a_part_of_the_page_with_its_id() {
        let page = shown(&overview());
        for fragment in overview().fragments(&samples::frame("/")) {
            assert!(page.contains(&fragment.markup.into_string()), "{} is not in the page", fragment.id);
            assert!(page.contains(&format!("id=\"{}\"", fragment.id)));
        }
    }

    #[test]
    fn the_page_is_small() {
        assert!(shown(&overview()).len() < 50_000);
    }
}
