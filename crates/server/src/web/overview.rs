//! The overview: what runs, where, and what happened last. Where nothing runs yet, it teaches.

use super::events;
use super::frame::{Fragment, Frame, Live, copyable, page};
use super::map::{self, Picture};
use super::names::{Names, server_path, service_path, stack_path};
use super::{times, words};
use crate::views::{SomeServers, Tally};
use api::events::EventRecord;
use api::observed::StackCondition;
use api::services::{ServiceCondition, ServiceView};
use api::stacks::StackView;
use maud::{Markup, html};

/// How many events the overview shows.
pub const EVENTS_SHOWN: usize = 8;
/// Stacks are shown whole up to so many services; where there are more, the most urgent services are.
pub const SERVICES_SHOWN: usize = map::SERVICES_SHOWN;

pub struct OverviewPage {
    pub tally: Tally,
    /// All stacks, where they are few; none, where they are not.
    pub stacks: Vec<StackView>,
    pub servers: SomeServers,
    /// Newest first.
    pub events: Vec<EventRecord>,
    pub names: Names,
}

impl OverviewPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![
            Fragment::new("summary", self.summary()),
            Fragment::new("map", self.picture()),
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
                (self.picture())
                div.columns {
                    div.main-column { (self.stacks(frame)) }
                    div.side-column { (self.servers(frame)) (self.latest(frame)) }
                }
            },
        )
    }

    /// Nothing runs here, and the page teaches instead.
    fn is_empty(&self) -> bool {
        self.tally.services == 0
    }

    /// The services that are in the picture.
    fn shown(&self) -> Vec<&ServiceView> {
        if self.stacks.is_empty() {
            return self.tally.first.iter().collect();
        }
        self.stacks.iter().flat_map(|stack| &stack.services).collect()
    }

    fn picture(&self) -> Markup {
        if self.is_empty() {
            return html! { section #map hidden {} };
        }
        let services = self.shown();
        let more_services = self.tally.services.saturating_sub(services.len());
        let servers = self.servers.shown.get(..map::SERVERS_SHOWN).unwrap_or(&self.servers.shown);
        Picture { servers, more_servers: self.servers.total - servers.len(), services, more_services }.draw()
    }

    /// The state of everything in one sentence.
    fn summary(&self) -> Markup {
        let tally = &self.tally;
        let (broken, offline) = (tally.troubled(), self.servers.offline);
        let (tone, sentence) = if broken > 0 {
            let verb = if broken == 1 { "needs" } else { "need" };
            (words::Tone::Bad, format!("{} {verb} attention", words::count(broken, "service", "services")))
        } else if offline > 0 {
            let verb = if offline == 1 { "does" } else { "do" };
            (words::Tone::Bad, format!("{} {verb} not report", words::count(offline, "server", "servers")))
        } else if tally.deploying > 0 {
            let verb = if tally.deploying == 1 { "is" } else { "are" };
            let what = words::count(tally.deploying, "service", "services");
            (words::Tone::Busy, format!("{what} {verb} being deployed"))
        } else if let Some(sentence) = self.behind().filter(|_| tally.running > 0) {
            (words::Tone::Warn, sentence)
        } else if tally.running > 0 {
            (words::Tone::Good, "Everything runs as it should".to_owned())
        } else {
            (words::Tone::Off, "Nothing runs here yet".to_owned())
        };
        let troubled = |service: &&&ServiceView| {
            use ServiceCondition::{Degraded, Down, Unknown};
            matches!(service.condition, Down | Degraded | Unknown)
        };
        let shown = self.shown();
        let troubled: Vec<_> = shown.iter().filter(troubled).collect();
        html! {
            section.summary.(tone.class()) #summary aria-labelledby="summary-title" {
                span.symbol aria-hidden="true" { (tone.symbol()) }
                div {
                    h1 #summary-title { (sentence) }
                    p.lead {
                        a href="/services" { (words::count(tally.services, "service", "services")) }
                        " in " (words::count(usize::try_from(tally.stacks).unwrap_or(usize::MAX), "stack", "stacks"))
                        " on " a href="/servers" { (words::count(self.servers.total, "server", "servers")) } "."
                    }
                    @if troubled.is_empty() && broken == 0 {
                        @for stack in self.stacks.iter().filter(degraded).take(8) {
                            @for problem in stack.problems.iter().take(2) { p { a href=(stack_path(&stack.name)) { (stack.name) } ": " (words::prose(problem)) } }
                        }
                    }
                    @if !troubled.is_empty() {
                        ul { @for service in troubled.iter().take(8) {
                            @let (tone, word) = words::service_condition(service.condition);
                            li { a href=(service_path(&service.stack, &service.name)) { (service.stack) " / " (service.name) } " " (words::fact(tone, word)) }
                        }
                        @if broken > 8 { li { "and " (broken - troubled.len().min(8)) " more" } } }
                    }
                }
            }
        }
    }

    /// All that runs is well, but not all is as it was asked for: a deployment failed.
    fn behind(&self) -> Option<String> {
        let behind: Vec<_> = self.stacks.iter().filter(degraded).collect();
        match behind.as_slice() {
            [] => None,
            [one] => Some(format!("Everything runs, but {} is not as it was asked for", one.name)),
            several => Some(format!("Everything runs, but {} stacks are not as they were asked for", several.len())),
        }
    }

    fn stacks(&self, frame: &Frame) -> Markup {
        html! {
            div.stacks #stacks {
                @if self.is_empty() { (self.first_steps(frame)) }
                @for stack in &self.stacks { (stack_card(stack, frame)) }
                @if self.stacks.is_empty() && !self.is_empty() { (self.urgent(frame)) }
            }
        }
    }

    /// Where there are too many for a card per stack: the most urgent ones, and the way to all.
    fn urgent(&self, frame: &Frame) -> Markup {
        let tally = &self.tally;
        let conditions = [
            (ServiceCondition::Down, "down", tally.down),
            (ServiceCondition::Unknown, "unknown", tally.unknown),
            (ServiceCondition::Degraded, "degraded", tally.degraded),
            (ServiceCondition::Deploying, "deploying", tally.deploying),
            (ServiceCondition::Running, "running", tally.running),
            (ServiceCondition::Stopped, "stopped", tally.stopped),
        ];
        html! {
            section.card aria-labelledby="urgent-title" {
                div.card-head { h2 #urgent-title { "Services" } a.button.quiet href="/services" { "All services" } }
                ul.tally aria-label="Services by condition" {
                    @for (condition, key, number) in conditions { @if number > 0 {
                        @let (tone, word) = words::service_condition(condition);
                        li { a href={ "/services?condition=" (key) } { strong { (number) } " " (words::fact(tone, word)) } }
                    } }
                }
                ul.rows { @for service in tally.first.iter().take(12) { (service_row(service, true, frame)) } }
            }
        }
    }

    /// The empty state: the exact commands, in order.
    fn first_steps(&self, frame: &Frame) -> Markup {
        html! {
            section.card.teach aria-labelledby="first-steps" {
                h2 #first-steps { "Deploy your first service" }
                ol.steps {
                    @if self.servers.total == 0 {
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
                @if self.servers.total == 0 { p.empty { "No machine has joined yet." } }
                ul.rows {
                    @for server in self.servers.shown.iter().take(6) {
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
                @if self.servers.total > 6 { p { a href="/servers" { "All " (self.servers.total) " servers" } } }
            }
        }
    }

    fn latest(&self, frame: &Frame) -> Markup {
        html! {
            section.card #latest-events aria-labelledby="events-title" {
                div.card-head { h2 #events-title { "Latest events" } a.button.quiet href="/events" { "All events" } }
                @if self.events.is_empty() { p.empty { "Nothing has happened yet." } } @else { (events::list(&self.events, &self.names, events::Detail::Brief, frame)) }
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
            ul.rows { @for service in &stack.services { (service_row(service, false, frame)) } }
            @if stack.services.is_empty() { p.empty { "This stack has no services." } }
        }
    }
}

/// `whole`: with the name of its stack.
fn service_row(service: &ServiceView, whole: bool, frame: &Frame) -> Markup {
    let (tone, word) = words::service_condition(service.condition);
    html! {
        li {
            div {
                a.name href=(service_path(&service.stack, &service.name)) { @if whole { (service.stack) " / " } (service.name) }
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

/// Whether not all of it is as it was asked for.
fn degraded(stack: &&StackView) -> bool {
    stack.condition == StackCondition::Degraded
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::events::EventLevel;
    use api::servers::{ServerCondition, ServerView};

    fn some(servers: Vec<ServerView>) -> SomeServers {
        let offline = servers.iter().filter(|s| s.condition == ServerCondition::Offline).count();
        SomeServers { total: servers.len(), offline, shown: servers }
    }

    fn tally(services: &[ServiceView]) -> Tally {
        let number_of = |wanted| services.iter().filter(|s| s.condition == wanted).count();
        Tally {
            services: services.len(),
            stacks: 1,
            running: number_of(ServiceCondition::Running),
            deploying: number_of(ServiceCondition::Deploying),
            down: number_of(ServiceCondition::Down),
            stopped: number_of(ServiceCondition::Stopped),
            ..Tally::default()
        }
    }

    fn overview() -> OverviewPage {
        let stack = samples::stack();
        OverviewPage {
            tally: tally(&stack.services),
            names: Names::of(std::slice::from_ref(&stack), &[]),
            stacks: vec![stack],
            servers: some(vec![samples::server(ServerCondition::Online)]),
            events: vec![samples::event(1, EventLevel::Info, "web is <healthy>")],
        }
    }

    /// The largest that the page gets: long names, everything in trouble.
    fn large() -> OverviewPage {
        let service = samples::service("a-name-that-is-as-long-as-names-may-be-1", ServiceCondition::Down);
        OverviewPage {
            tally: Tally {
                services: 10_000,
                stacks: 700,
                down: 30,
                running: 9_000,
                deploying: 70,
                degraded: 50,
                stopped: 840,
                unknown: 10,
                first: vec![service; SERVICES_SHOWN],
            },
            stacks: vec![],
            servers: SomeServers {
                shown: vec![samples::server(ServerCondition::Offline); map::SERVERS_SHOWN],
                total: 1_000,
                offline: 40,
            },
            events: (0..EVENTS_SHOWN as i64).map(|n| samples::event(n, EventLevel::Error, "web is <broken>")).collect(),
            names: Names::default(),
        }
    }

    fn shown(page: &OverviewPage) -> String {
        page.render(&samples::frame("/")).into_string()
    }

    #[test]
    fn the_overview_says_first_what_needs_attention() {
        let page = shown(&overview());
        assert!(page.contains("1 service needs attention"), "{page}");
        assert!(page.contains("4 services</a> in 1 stack on <a href=\"/servers\">1 server</a>."), "{page}");
        assert!(page.contains("web is &lt;healthy&gt;"), "{page}");
    }

    #[test]
    fn a_server_that_is_silent_is_said_even_if_its_services_look_well() {
        let mut overview = overview();
        overview.stacks[0].services.retain(|s| s.condition == ServiceCondition::Running);
        overview.tally = tally(&overview.stacks[0].services);
        overview.stacks[0].condition = StackCondition::Degraded;
        overview.stacks[0].problems = vec!["web was not deployed: <it> crashed".into()];
        let behind = shown(&overview);
        assert!(behind.contains("Everything runs, but shop is not as it was asked for"), "{behind}");
        assert!(behind.contains("web was not deployed: &lt;it&gt; crashed"), "{behind}");
        overview.stacks[0].condition = StackCondition::Applied;
        assert!(shown(&overview).contains("Everything runs as it should"));
        overview.servers = some(vec![samples::server(ServerCondition::Offline)]);
        assert!(shown(&overview).contains("1 server does not report"));
    }

    #[test]
    fn where_nothing_runs_the_page_teaches_the_exact_commands() {
        let page = shown(&OverviewPage {
            tally: Tally::default(),
            stacks: vec![],
            servers: some(vec![]),
            events: vec![],
            names: Names::default(),
        });
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
    fn ten_thousand_services_are_counted_and_the_most_urgent_ones_shown() {
        let page = shown(&large());
        for wanted in [
            "90 services need attention",
            "href=\"/services\">10000 services</a> in 700 stacks on",
            "and 82 more",
            "href=\"/services?condition=down\"",
            "9976 more services",
            "988 more servers",
            "All 1000 servers",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
        assert!(page.len() < 50_000, "{} bytes", page.len());
    }
}
