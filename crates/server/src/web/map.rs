//! The picture of where requests go: visitors, the gateway of each server, services, instances.
//!
//! Drawn on the server, column by column, with plain arithmetic, so it is the same markup for the same state and
//! the live stream sends it only when something moved. A condition is said by a symbol's shape and a word; the
//! colour only repeats it. Every box is a link. The picture is bounded: what does not fit is one box that says
//! how many there are and leads to the list.
//!
//! Lines mean "sends requests to": a gateway sends to a service if an instance on its own server gets traffic.
//! A service without an address (a worker) has no line, because nobody sends it anything.

use super::names::{server_path, service_path};
use super::words::{self, Tone};
use api::desired::Traffic;
use api::observed::InstanceState;
use api::servers::{ServerCondition, ServerView};
use api::services::{InstanceView, ServiceCondition, ServiceView};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// More are one box.
pub const SERVERS_SHOWN: usize = 12;
pub const SERVICES_SHOWN: usize = 24;
/// Groups of instances drawn per service.
const GROUPS_SHOWN: usize = 2;

const WIDTH: i32 = 1000;
const VISITORS_X: i32 = 52;
const GATEWAY_X: i32 = 130;
const GATEWAY_WIDTH: i32 = 190;
const SERVICE_X: i32 = 420;
const SERVICE_WIDTH: i32 = 250;
const INSTANCE_X: i32 = 740;
const BOX_HEIGHT: i32 = 50;
const LINE_HEIGHT: i32 = 26;
const GAP: i32 = 12;
const TOP: i32 = 34;

/// What the picture shows.
pub struct Picture<'a> {
    pub servers: &'a [ServerView],
    pub services: Vec<&'a ServiceView>,
    /// How many there are besides.
    pub more_servers: usize,
    pub more_services: usize,
}

/// Instances of a service on one server in one state.
struct Group<'a> {
    server: &'a str,
    tone: Tone,
    word: &'static str,
    count: usize,
}

struct Placed<'a> {
    service: &'a ServiceView,
    groups: Vec<Group<'a>>,
    top: i32,
    height: i32,
}

impl Placed<'_> {
    fn middle(&self) -> i32 {
        self.top + self.height / 2
    }
}

impl Picture<'_> {
    pub fn draw(&self) -> Markup {
        let services = self.place_services();
        let below = services.last().map_or(TOP, |last| last.top + last.height + GAP);
        let services_end = if self.more_services > 0 { below + BOX_HEIGHT + GAP } else { below };
        let gateways = self.servers.len() as i32 + i32::from(self.more_servers > 0);
        let gateways_height = gateways * (BOX_HEIGHT + GAP);
        let height = services_end.max(TOP + gateways_height) + 4;
        let first_gateway = TOP + ((services_end - TOP - gateways_height) / 2).max(0);
        let gateway_top = |number: usize| first_gateway + number as i32 * (BOX_HEIGHT + GAP);
        let visitors_y = first_gateway + (gateways_height - GAP) / 2;
        html! {
            section.card #map aria-labelledby="map-title" {
                h2 #map-title { "Where requests go" }
                div.map-scroll data-keep-scroll {
                    svg.map viewBox={ "0 0 " (WIDTH) " " (height) } role="group" aria-labelledby="map-title" {
                        (head(VISITORS_X, "middle", "Visitors"))
                        (head(GATEWAY_X, "start", "Gateways"))
                        (head(SERVICE_X, "start", "Services"))
                        (head(INSTANCE_X, "start", "Instances"))
                        (self.lines(&services, visitors_y, gateway_top))
                        g.visitors { circle cx=(VISITORS_X) cy=(visitors_y) r="24" {} path d=(person(VISITORS_X, visitors_y)) {} }
                        @for (number, server) in self.servers.iter().enumerate() { (gateway(server, gateway_top(number))) }
                        @if self.more_servers > 0 { (more(Kind::Gateway, gateway_top(self.servers.len()), "/servers", &words::count(self.more_servers, "more server", "more servers"))) }
                        @for placed in &services { (service(placed)) }
                        @if self.more_services > 0 { (more(Kind::Service, below, "/services", &words::count(self.more_services, "more service", "more services"))) }
                    }
                }
            }
        }
    }

    fn place_services(&self) -> Vec<Placed<'_>> {
        let mut top = TOP;
        let mut placed = Vec::new();
        for service in &self.services {
            let groups = groups(&service.instances);
            let lines = groups.len().min(GROUPS_SHOWN) as i32 + i32::from(groups.len() > GROUPS_SHOWN);
            let height = BOX_HEIGHT.max(lines * LINE_HEIGHT);
            placed.push(Placed { service, groups, top, height });
            top += height + GAP;
        }
        placed
    }

    fn lines(&self, services: &[Placed<'_>], visitors_y: i32, gateway_top: impl Fn(usize) -> i32) -> Markup {
        // One path per kind of line keeps the picture small.
        let (mut on, mut off, mut busy) = (String::new(), String::new(), String::new());
        for (number, server) in self.servers.iter().enumerate() {
            let y = gateway_top(number) + BOX_HEIGHT / 2;
            let line = curve(VISITORS_X + 25, visitors_y, GATEWAY_X, y);
            (if gateway_state(server).0 == Tone::Good { &mut on } else { &mut off }).push_str(&line);
            for placed in services {
                let Some(well) = sends_to(server, placed.service) else { continue };
                let line = curve(GATEWAY_X + GATEWAY_WIDTH, y, SERVICE_X, placed.middle());
                let moves = placed.service.condition == ServiceCondition::Deploying;
                (if moves {
                    &mut busy
                } else if well {
                    &mut on
                } else {
                    &mut off
                })
                .push_str(&line);
            }
        }
        for placed in services {
            for (number, group) in placed.groups.iter().take(GROUPS_SHOWN).enumerate() {
                let y = group_y(placed, number);
                let line = curve(SERVICE_X + SERVICE_WIDTH, placed.middle(), INSTANCE_X, y);
                (if group.tone == Tone::Good { &mut on } else { &mut off }).push_str(&line);
            }
        }
        html! {
            @for (class, path) in [("line off", off), ("line on", on), ("line busy", busy)] { @if !path.is_empty() { path class=(class) d=(path) {} } }
        }
    }
}

/// Whether a gateway sends requests to a service, and whether somebody well gets them.
fn sends_to(server: &ServerView, service: &ServiceView) -> Option<bool> {
    if service.urls.is_empty() {
        return None;
    }
    let mut here = service.instances.iter().filter(|i| i.server_id == server.id && i.traffic == Traffic::Active);
    let healthy = |i: &InstanceView| i.observed.as_ref().is_some_and(|seen| seen.state == InstanceState::Healthy);
    let first = here.next()?;
    Some(server.condition == ServerCondition::Online && (healthy(first) || here.any(healthy)))
}

fn gateway_state(server: &ServerView) -> (Tone, &'static str) {
    match (&server.observed, server.condition) {
        (_, ServerCondition::Offline) => (Tone::Bad, "Offline"),
        (None, _) => (Tone::Unknown, "Not reported yet"),
        (Some(observed), _) if observed.gateway.running => (Tone::Good, "Running"),
        _ => (Tone::Bad, "Not running"),
    }
}

fn groups(instances: &[InstanceView]) -> Vec<Group<'_>> {
    let mut found: BTreeMap<(&str, &'static str), Group<'_>> = BTreeMap::new();
    for instance in instances {
        let (tone, word) = match (instance.traffic, &instance.observed) {
            (_, None) => (Tone::Unknown, "Not reported yet"),
            (Traffic::Out, Some(seen)) if seen.state == InstanceState::Healthy => (Tone::Off, "Kept warm"),
            (_, Some(seen)) if seen.crash_looping => (Tone::Bad, "Crash loop"),
            (_, Some(seen)) => words::instance_state(seen.state),
        };
        let server = instance.server.as_str();
        found.entry((server, word)).or_insert(Group { server, tone, word, count: 0 }).count += 1;
    }
    found.into_values().collect()
}

fn group_y(placed: &Placed<'_>, number: usize) -> i32 {
    let shown = placed.groups.len().min(GROUPS_SHOWN) as i32 + i32::from(placed.groups.len() > GROUPS_SHOWN);
    placed.middle() - shown * LINE_HEIGHT / 2 + number as i32 * LINE_HEIGHT + LINE_HEIGHT / 2
}

fn head(x: i32, anchor: &str, text: &str) -> Markup {
    html! { text.head x=(x) y="16" text-anchor=(anchor) { (text) } }
}

fn gateway(server: &ServerView, top: i32) -> Markup {
    let (tone, word) = gateway_state(server);
    let listening = server.observed.iter().flat_map(|observed| &observed.gateway.listening);
    let ports: BTreeSet<u16> = listening.map(|address| address.port()).collect();
    let ports: Vec<String> = ports.into_iter().take(2).map(|port| format!(":{port}")).collect();
    let detail = if ports.is_empty() { word.to_owned() } else { format!("{word} on {}", ports.join(" and ")) };
    node(Node {
        kind: Kind::Gateway,
        top,
        path: &server_path(&server.name),
        name: server.name.as_str(),
        tone,
        detail: &detail,
        label: &format!("Gateway of {}: {detail}", server.name),
    })
}

fn service(placed: &Placed<'_>) -> Markup {
    let service = placed.service;
    let (tone, word) = words::service_condition(service.condition);
    let way = match service.routes.first() {
        Some(route) if service.routes.len() == 1 => route.label(),
        Some(route) => format!("{} +{}", route.label(), service.routes.len() - 1),
        None if service.urls.is_empty() => "no address".into(),
        None => "internal".into(),
    };
    let name = format!("{}/{}", service.stack, service.name);
    html! {
        (node(Node {
            kind: Kind::Service,
            top: placed.top + (placed.height - BOX_HEIGHT) / 2,
            path: &service_path(&service.stack, &service.name),
            name: &name,
            tone,
            detail: &format!("{word} · {way}"),
            label: &format!("Service {name}: {word}, {way}"),
        }))
        @for (number, group) in placed.groups.iter().take(GROUPS_SHOWN).enumerate() {
            @let y = group_y(placed, number);
            g.chip.(group.tone.class()) transform=(at(INSTANCE_X, y)) {
                rect {}
                text.symbol { (group.tone.symbol()) }
                text.name { @if group.count > 1 { (group.count) " × " } (group.word) " on " (cut(group.server, 16)) }
            }
        }
        @let last = group_y(placed, GROUPS_SHOWN);
        @if placed.groups.len() > GROUPS_SHOWN { g.chip.rest transform=(at(INSTANCE_X, last)) { text.symbol { "and " (placed.groups.len() - GROUPS_SHOWN) " more" } } }
        @if placed.groups.is_empty() { g.chip.rest transform=(at(INSTANCE_X, placed.middle())) { text.symbol { "none" } } }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Gateway,
    Service,
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Service => "service",
        }
    }

    fn x(self) -> i32 {
        match self {
            Self::Gateway => GATEWAY_X,
            Self::Service => SERVICE_X,
        }
    }

    fn width(self) -> i32 {
        match self {
            Self::Gateway => GATEWAY_WIDTH,
            Self::Service => SERVICE_WIDTH,
        }
    }
}

/// Sizes and places inside a box are in the style sheet, by its kind, so that a box is little markup.
struct Node<'a> {
    kind: Kind,
    top: i32,
    path: &'a str,
    name: &'a str,
    tone: Tone,
    detail: &'a str,
    /// For who does not see it.
    label: &'a str,
}

fn node(node: Node<'_>) -> Markup {
    let letters = usize::try_from((node.kind.width() - 44) / 8).unwrap_or(8);
    html! {
        a.(node.kind.class()).(node.tone.class()) href=(node.path) aria-label=(node.label) transform=(at(node.kind.x(), node.top)) {
            rect {}
            text.symbol { (node.tone.symbol()) }
            // Spaces, for who hears the words one after the other.
            " " text.name { (cut(node.name, letters)) }
            " " text.detail { (cut(node.detail, letters + 4)) }
        }
    }
}

fn more(kind: Kind, top: i32, path: &str, text: &str) -> Markup {
    html! { a.(kind.class()).more href=(path) transform=(at(kind.x(), top)) { rect {} text.name { (text) } } }
}

fn at(x: i32, y: i32) -> String {
    format!("translate({x} {y})")
}

/// At most so many letters, with a sign that some are missing.
fn cut(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    text.chars().take(letters.saturating_sub(1)).chain(['…']).collect()
}

fn curve(x1: i32, y1: i32, x2: i32, y2: i32) -> String {
    let (half, across, down) = ((x2 - x1) / 2, x2 - x1, y2 - y1);
    format!("M{x1} {y1}c{half} 0 {half} {down} {across} {down}")
}

fn person(x: i32, y: i32) -> String {
    format!("M{} {}a8 8 0 1 1 16 0M{} {}a6 6 0 1 1 .1 0", x - 8, y + 10, x, y - 1)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn picture<'a>(servers: &'a [ServerView], services: &'a [ServiceView]) -> Picture<'a> {
        Picture { servers, services: services.iter().collect(), more_servers: 0, more_services: 0 }
    }

    #[test]
    fn a_condition_is_said_in_a_word_and_a_symbol_and_each_box_is_a_link() {
        let servers = [samples::server(ServerCondition::Online)];
        let services =
            [samples::service("web", ServiceCondition::Running), samples::service("api", ServiceCondition::Down)];
        let drawn = picture(&servers, &services).draw().into_string();
        for wanted in [
            "href=\"/servers/harbour\" aria-label=\"Gateway of harbour: Running on :8080\"",
            "href=\"/stacks/shop/services/web\" aria-label=\"Service shop/web: Running, shop.example.com/\"",
            "Down · shop.example.com/",
            "2 × Healthy on harbour",
            "Crash loop on harbour",
            "✕",
        ] {
            assert!(drawn.contains(wanted), "{wanted} is missing in {drawn}");
        }
    }

    #[test]
    fn a_worker_and_a_server_without_its_instances_have_no_line() {
        let servers = [samples::server(ServerCondition::Online)];
        let web = samples::service("web", ServiceCondition::Running);
        assert_eq!(sends_to(&servers[0], &web), Some(true));
        let worker = ServiceView { urls: vec![], ..web.clone() };
        assert_eq!(sends_to(&servers[0], &worker), None);
        let elsewhere =
            ServerView { id: api::ids::ServerId::from_uuid(uuid::Uuid::from_u128(7)), ..servers[0].clone() };
        assert_eq!(sends_to(&elsewhere, &web), None);
        let silent = samples::server(ServerCondition::Offline);
        assert_eq!(sends_to(&silent, &web), Some(false));
    }

    #[test]
    fn the_fullest_picture_is_bounded_and_says_how_many_are_not_in_it() {
        let servers = vec![samples::server(ServerCondition::Online); SERVERS_SHOWN];
        let mut service = samples::service("a-name-that-is-as-long-as-names-may-be-1", ServiceCondition::Degraded);
        service.instances = (0..9)
            .map(|n| InstanceView {
                server: format!("server-with-a-long-name-{n}").parse().unwrap(),
                ..samples::instance(n, InstanceState::Healthy)
            })
            .collect();
        let services = vec![service; SERVICES_SHOWN];
        let picture = Picture { more_servers: 988, more_services: 9_976, ..picture(&servers, &services) };
        let drawn = picture.draw().into_string();
        assert!(drawn.contains("988 more servers") && drawn.contains("9976 more services"), "{drawn}");
        assert!(drawn.contains("and 7 more") && drawn.contains("…"));
        assert!(drawn.len() < 34_000, "{} bytes", drawn.len());
    }
}
