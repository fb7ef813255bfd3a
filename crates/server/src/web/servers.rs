//! Machines: the list, one machine with all that it says of itself, and letting a new one join.

use super::frame::{Fragment, Frame, Live, breadcrumb, copyable, csrf_field, page};
use super::names::{Names, query, server_path};
use super::problems::sentence;
use super::{metrics, server_mesh, times, words};
use crate::views::SomeServers;
use api::ids::TokenId;
use api::metrics::ServerMetrics;
use api::name::Name;
use api::observed::{AgentState, InstanceState, ObservedState};
use api::secret::Secret;
use api::servers::{RecoveryState, ServerCondition, ServerRecovery, ServerView};
use api::tokens::{TokenState, TokenView};
use maud::{Markup, html};

/// Most servers that the list holds, and most instances that a server's page does.
pub const SERVERS_LISTED: usize = 40;
const INSTANCES_SHOWN: usize = 24;

/// What the list is narrowed to, as the query of the page says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub struct ServerFilter {
    /// A part of the name.
    #[serde(default)]
    pub search: String,
}

pub struct ServersPage {
    pub filter: ServerFilter,
    pub servers: SomeServers,
}

impl ServersPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![Fragment::new("servers", self.table(frame))]
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        let live = format!("/live/servers/stream?{}", query(&[("search", &self.filter.search)], None));
        page(
            frame,
            "Servers",
            Live::From(&live),
            html! {
                div.title { div.title-line { h1 { "Servers" } a.button href="/servers/new" { "Add a server" } } p.lead { "The machines that services run on. Each dials out to this control plane; nothing dials in to them." } }
                @if self.servers.total > SERVERS_LISTED || !self.filter.search.is_empty() {
                    form.card.filters method="get" action="/servers" role="search" aria-label="Filter servers" {
                        label { span { "Name" } input type="search" name="search" value=(self.filter.search) placeholder="part of the name" maxlength="40" autocomplete="off"; }
                        button type="submit" { "Show" }
                        @if !self.filter.search.is_empty() { a.button.quiet href="/servers" { "Clear" } }
                    }
                }
                (self.table(frame))
            },
        )
    }

    fn table(&self, frame: &Frame) -> Markup {
        let SomeServers { shown, total, .. } = &self.servers;
        html! {
            section.card #servers aria-label="Servers" {
                @if shown.is_empty() && !self.filter.search.is_empty() {
                    p.empty { "No server has “" (self.filter.search) "” in its name." }
                } @else if shown.is_empty() {
                    p.empty { "No machine has joined yet. " a href="/servers/new" { "Add a server" } " gives you the one line to run on it." }
                } @else {
                    table {
                        thead { tr { th scope="col" { "Server" } th scope="col" { "Condition" } th scope="col" { "State" } th scope="col" { "Instances" } th scope="col" { "Memory" } th scope="col" { "Agent" } } }
                        tbody { @for server in shown { (row(server, frame)) } }
                    }
                    @if shown.len() < *total { p.soft { "And " (total - shown.len()) " more; those that do not report come first." } }
                }
            }
        }
    }
}

fn row(server: &ServerView, frame: &Frame) -> Markup {
    let (tone, word) = words::server_condition(server.condition);
    html! {
        tr {
            th scope="row" data-label="Server" { a.name href=(server_path(&server.name)) { (server.name) } p.soft { (server.facts.operating_system) } }
            td data-label="Condition" { (words::badge(tone, word)) @if let Some(seen) = server.last_seen_at_ms { p.soft { "seen " (times::relative(seen, frame.now_ms)) } } @if let Some(wrong) = server.wrong_clock() { p.soft { (wrong) } } }
            td data-label="State" { (converged(server)) }
            td data-label="Instances" { @match &server.observed { Some(observed) => (observed.instances.len()), None => "–" } }
            td data-label="Memory" { @match &server.observed { Some(observed) => (memory_text(observed)), None => "–" } }
            td data-label="Agent" { (server.agent_version) }
        }
    }
}

/// Whether the machine is where it should be.
fn converged(server: &ServerView) -> Markup {
    let Some(observed) = &server.observed else {
        return words::fact(words::Tone::Unknown, "Not reported yet");
    };
    if let Some(recovery) = &server.recovery {
        return after_restore(recovery);
    }
    if observed.generation < server.desired_generation {
        return words::fact(words::Tone::Busy, &format!("At {} of {}", observed.generation, server.desired_generation));
    }
    if observed.blocked.is_empty() {
        words::fact(words::Tone::Good, &format!("At {}", observed.generation))
    } else {
        words::fact(words::Tone::Warn, &format!("At {}, {} held back", observed.generation, observed.blocked.len()))
    }
}

/// In a few words, how far the machine is after the control plane was restored.
fn after_restore(recovery: &ServerRecovery) -> Markup {
    match recovery.state {
        RecoveryState::Unheard => words::fact(words::Tone::Unknown, "Not heard since the restore"),
        RecoveryState::Ahead => words::fact(
            words::Tone::Bad,
            &format!("Ahead: holds {}, {} known here", recovery.held_generation, recovery.generation),
        ),
        RecoveryState::Replacing => words::fact(words::Tone::Busy, "Becoming what was restored"),
    }
}

fn memory_text(observed: &ObservedState) -> String {
    let resources = &observed.resources;
    let used = resources.memory_total_bytes.saturating_sub(resources.memory_available_bytes);
    format!("{} of {}", times::bytes_text(used), times::bytes_text(resources.memory_total_bytes))
}

pub struct ServerPage {
    pub server: ServerView,
    pub names: Names,
    pub metrics: ServerMetrics,
}

impl ServerPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![
            Fragment::new("server-head", self.head(frame)),
            Fragment::new("use", self.use_of_machine()),
            Fragment::new("metrics", metrics::server(&self.metrics, &server_path(&self.server.name))),
            Fragment::new("agent", self.agent(frame)),
            Fragment::new("data-path", self.data_path()),
            Fragment::new("instances", self.instances(frame)),
            Fragment::new("mesh", server_mesh::section(&self.server, frame)),
            Fragment::new("blocked", self.blocked(frame)),
        ]
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        let live = format!("/live{}/stream?range={}", server_path(&self.server.name), self.metrics.range);
        page(
            frame,
            self.server.name.as_str(),
            Live::From(&live),
            html! {
                (breadcrumb(&[("/servers", "Servers")]))
                (self.head(frame))
                (self.blocked(frame))
                (self.use_of_machine())
                (metrics::server(&self.metrics, &server_path(&self.server.name)))
                (self.instances(frame))
                (server_mesh::section(&self.server, frame))
                div.columns.even { (self.agent(frame)) (self.data_path()) (self.machine(frame)) (self.removal(frame)) }
            },
        )
    }

    fn head(&self, frame: &Frame) -> Markup {
        let (tone, word) = words::server_condition(self.server.condition);
        html! {
            div.title #server-head {
                div.title-line { h1 { span.kind { "Server" } " " (self.server.name) } (words::badge(tone, word)) }
                p.lead { @match self.server.last_seen_at_ms { Some(seen) => { "Last report " (times::relative(seen, frame.now_ms)) "." }, None => "It has not reported yet." } }
                @if let Some(recovery) = self.server.recovery.as_ref().filter(|r| r.state == RecoveryState::Ahead) {
                    p.note { "This control plane was set back, probably restored from a backup: the machine holds generation " (recovery.held_generation) ", and only " (recovery.generation) " is known here. What runs on it goes on, and it gets nothing new until you agree. " code { "mainstay servers accept-restore " (self.server.name) } " shows what would change, and asks." }
                }
                @if let Some(wrong) = self.server.wrong_clock() {
                    p.note { "Its requests are refused, because " (wrong) " of the control plane's by more than a minute. Its services go on as they were. Set the clock that is wrong, best by NTP: it is back some seconds later." }
                } @else if self.server.condition == ServerCondition::Offline {
                    p.note { "Its services go on as they were: they do not need this control plane. On the machine, see whether the agent runs and reaches " code { (frame.address) } "." }
                }
            }
        }
    }

    fn blocked(&self, frame: &Frame) -> Markup {
        let blocked = self.server.observed.as_ref().map(|o| o.blocked.as_slice()).unwrap_or_default();
        html! {
            div #blocked {
                @if !blocked.is_empty() {
                    section.card.warning aria-labelledby="blocked-title" {
                        h2 #blocked-title { span.symbol aria-hidden="true" { "▲" } " Held back" }
                        ul.notes { @for entry in blocked { li {
                            strong { (entry.subject) } ": " (words::prose(&entry.reason))
                            @if let Some(retry) = entry.retry_at_ms { " " span.soft { "Next try " (times::relative(retry, frame.now_ms)) "." } }
                        } } }
                    }
                }
            }
        }
    }

    fn use_of_machine(&self) -> Markup {
        html! {
            section.meters #use aria-label="Use of the machine" {
                @if let Some(observed) = &self.server.observed {
                    @let r = &observed.resources;
                    (meter("Load", &format!("{:.2} on {}", r.load_1m, words::count(r.cpu_count as usize, "core", "cores")), r.load_1m, f64::from(r.cpu_count.max(1))))
                    (meter("Memory", &memory_text(observed), r.memory_total_bytes.saturating_sub(r.memory_available_bytes) as f64, r.memory_total_bytes as f64))
                    (meter("Disk", &format!("{} free of {}", times::bytes_text(r.disk_available_bytes), times::bytes_text(r.disk_total_bytes)), r.disk_total_bytes.saturating_sub(r.disk_available_bytes) as f64, r.disk_total_bytes as f64))
                }
            }
        }
    }

    fn instances(&self, frame: &Frame) -> Markup {
        let all = self.server.observed.as_ref().map(|o| o.instances.as_slice()).unwrap_or_default();
        let mut instances: Vec<_> = all.iter().collect();
        if all.len() > INSTANCES_SHOWN {
            instances.sort_by_key(|instance| instance.state == InstanceState::Healthy);
            instances.truncate(INSTANCES_SHOWN);
        }
        html! {
            section.card #instances aria-labelledby="instances-title" {
                h2 #instances-title { "Instances" }
                @if instances.is_empty() { p.empty { "Nothing runs on it." } } @else {
                    table {
                        thead { tr { th scope="col" { "Service" } th scope="col" { "Observed" } th scope="col" { "Port" } th scope="col" { "Restarts" } th scope="col" { "Memory" } th scope="col" { "Runs for" } } }
                        tbody { @for instance in &instances {
                            @let (tone, word) = words::instance_state(instance.state);
                            tr {
                                th scope="row" data-label="Service" {
                                    @match self.names.service_of(Some(&instance.service_id)) { Some((label, path)) => a href=(path) { (label) }, None => code { (instance.service_id.short()) } }
                                    p.soft { code title=(instance.instance_id) { (instance.instance_id.short()) } }
                                }
                                td data-label="Observed" { (words::fact(tone, word)) @if let Some(problem) = &instance.problem { p.reason { (problem) } } }
                                td data-label="Port" { @match instance.port { Some(port) => (port), None => "–" } }
                                td data-label="Restarts" { (instance.restarts) }
                                td data-label="Memory" { @match instance.memory_bytes { Some(size) => (times::bytes_text(size)), None => "–" } }
                                td data-label="Runs for" { @match instance.started_at_ms { Some(started) => (times::since(started, frame.now_ms)), None => "–" } }
                            }
                        } }
                    }
                    @if instances.len() < all.len() { p.soft { "And " (all.len() - instances.len()) " more; those that are not healthy come first." } }
                }
            }
        }
    }

    fn agent(&self, frame: &Frame) -> Markup {
        html! {
            section.card #agent aria-labelledby="agent-title" {
                h2 #agent-title { "Agent" }
                dl.facts {
                    dt { "Version" } dd { (self.server.agent_version) }
                    dt { "Desired state" } dd { "generation " (self.server.desired_generation) }
                    @if let Some(observed) = &self.server.observed {
                        dt { "Applied" } dd { (converged(&self.server)) }
                        dt { "Doing" } dd { @match observed.agent.state { AgentState::Idle => (words::fact(words::Tone::Good, "Idle")), AgentState::Processing => (words::fact(words::Tone::Busy, "Processing")) } }
                        dt { "Runs for" } dd { (times::since(observed.agent.started_at_ms, frame.now_ms)) }
                        @if let Some(refused) = &observed.agent.refused { dt { "Refused" } dd { span.reason { (refused) } } }
                    }
                }
            }
        }
    }

    fn data_path(&self) -> Markup {
        html! {
            section.card #data-path aria-labelledby="data-path-title" {
                h2 #data-path-title { "Gateway and names" }
                dl.facts {
                    dt { "Security" } dd { (words::security_mode(self.server.security_mode)) }
                    @if let Some(observed) = &self.server.observed {
                        @let gateway = &observed.gateway;
                        dt { "Gateway" } dd {
                            @if gateway.running { (words::fact(words::Tone::Good, "Running")) } @else { (words::fact(words::Tone::Bad, "Not running")) }
                            @if let Some(version) = &gateway.version { " " span.soft { "version " (version) } }
                        }
                        dt { "Listens on" } dd { @if gateway.listening.is_empty() { "nothing" } @for address in &gateway.listening { code.block { (address) } } }
                        @if let Some(problem) = &gateway.problem { dt { "Problem" } dd { span.reason { (problem) } } }
                        dt { "Names" } dd {
                            @if let Some(consequence) = &observed.dns.switched_off { (words::prose(&sentence(consequence))) }
                            @else { "by " (if observed.dns.method.is_empty() { "none" } else { &observed.dns.method }) }
                            @for name in observed.dns.names.iter().take(20) { code.block { (name) } }
                            @if observed.dns.names.len() > 20 { span.soft { "and " (observed.dns.names.len() - 20) " more" } }
                        }
                        @if let Some(problem) = &observed.dns.problem { dt { "Problem" } dd { span.reason { (problem) } } }
                    } @else { dt { "Gateway" } dd { (words::fact(words::Tone::Unknown, "Not reported yet")) } }
                }
            }
        }
    }

    fn machine(&self, frame: &Frame) -> Markup {
        let facts = &self.server.facts;
        html! {
            section.card aria-labelledby="machine-title" {
                h2 #machine-title { "Machine" }
                dl.facts {
                    dt { "Host name" } dd { (facts.hostname) }
                    dt { "System" } dd { (facts.operating_system) }
                    dt { "Kernel" } dd { (facts.kernel) " on " (facts.architecture) }
                    dt { "Size" } dd { (words::count(facts.cpu_count as usize, "core", "cores")) ", " (times::bytes_text(facts.memory_bytes)) }
                    dt { "Rights" } dd { @if facts.root { "root" } @else { "an ordinary user" } }
                    dt { "Limits by" } dd { "cgroups " (facts.cgroups) }
                    dt { "Git" } dd { @match &facts.git_version { Some(version) => { (version) @if facts.git_lfs { ", with LFS" } @else { ", without LFS" } }, None => "not installed" } }
                    dt { "Number" } dd { (self.server.index) }
                    dt { "Joined" } dd { (times::relative(self.server.registered_at_ms, frame.now_ms)) }
                }
                @if !facts.limitations.is_empty() {
                    h3 { "What this machine cannot do" }
                    ul.notes { @for limitation in &facts.limitations { li { (words::prose(limitation)) } } }
                }
            }
        }
    }

    fn removal(&self, frame: &Frame) -> Markup {
        html! {
            section.card aria-labelledby="removal-title" {
                h2 #removal-title { "Remove" }
                details.danger {
                    summary { "Remove this server" }
                    p { "Its identity ends here and its agent is refused from then on. What runs on it is left alone; " code { "mainstay agent uninstall" } " on the machine removes that." }
                    form method="post" action={ (server_path(&self.server.name)) "/remove" } {
                        (csrf_field(frame))
                        label { span { "Write " strong { (self.server.name) } " to confirm" } input type="text" name="confirm" required autocomplete="off" maxlength="40"; }
                        button.bad type="submit" { "Remove the server" }
                    }
                }
            }
        }
    }
}

fn meter(label: &str, text: &str, value: f64, of: f64) -> Markup {
    let share = if of > 0.0 { (value / of).clamp(0.0, 1.0) } else { 0.0 };
    let (tone, word) = match share {
        s if s >= 0.95 => (words::Tone::Bad, ", at its limit"),
        s if s >= 0.85 => (words::Tone::Warn, ", high"),
        _ => (words::Tone::Good, ""),
    };
    html! {
        div.card.meter-card {
            h2 { (label) }
            p { (text) (word) }
            meter.(tone.class()) min="0" max="100" value=(format!("{:.0}", share * 100.0)) aria-label=(label) { (format!("{:.0} %", share * 100.0)) }
        }
    }
}

/// Letting a machine join: first the form, then the one line to run, then the machine arriving.
pub struct JoinPage {
    pub stacks: Vec<String>,
    /// Set after the form was sent; the only time that the token is shown.
    pub made: Option<JoinMade>,
}

pub struct JoinMade {
    /// What the machine is to be called, if not after its host name.
    pub name: Option<Name>,
    pub token: Secret,
    pub arrival: Arrival,
}

/// How far a machine is that was told to join.
pub struct Arrival {
    pub token: TokenView,
    /// The machine that joined since, if one did.
    pub server: Option<ServerView>,
}

impl Arrival {
    pub fn live_path(id: &TokenId) -> String {
        format!("/live/join/{id}/stream")
    }

    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![Fragment::new("arrival", self.state(frame))]
    }

    pub fn state(&self, frame: &Frame) -> Markup {
        html! {
            section.card.arrival #arrival aria-labelledby="arrival-title" aria-live="polite" {
                h2 #arrival-title { "3. See it arrive" }
                @match (&self.server, self.token.state) {
                    (Some(server), _) => {
                        p.big { (words::fact(words::Tone::Good, &format!("{} has joined", server.name))) }
                        p { (server.facts.operating_system) ", " (words::count(server.facts.cpu_count as usize, "core", "cores")) ", " (times::bytes_text(server.facts.memory_bytes)) }
                        @if !server.facts.limitations.is_empty() { ul.notes { @for limitation in &server.facts.limitations { li { (words::prose(limitation)) } } } }
                        p { a.button href=(server_path(&server.name)) { "Look at it" } }
                    }
                    (None, TokenState::Usable) => {
                        p.big { (words::fact(words::Tone::Busy, "Waiting for the machine")) }
                        @if let Some(expires) = self.token.expires_at_ms { p.soft { "The token is good for one machine and for another " (times::until(expires, frame.now_ms)) "." } }
                    }
                    (None, TokenState::Used) => { p.big { (words::fact(words::Tone::Good, "The token was used; the machine is registering")) } }
                    (None, TokenState::Expired) => { p.big { (words::fact(words::Tone::Bad, "The token has expired")) } p { "Make another one." } }
                    (None, TokenState::Revoked) => { p.big { (words::fact(words::Tone::Bad, "The token was revoked")) } }
                }
            }
        }
    }
}

impl JoinPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        let live = self.made.as_ref().map(|made| Arrival::live_path(&made.arrival.token.id));
        let live = live.as_deref().map_or(Live::No, Live::From);
        page(
            frame,
            "Add a server",
            live,
            html! {
                (breadcrumb(&[("/servers", "Servers")]))
                div.title { h1 { "Add a server" } p.lead { "A machine joins with a token that is good once. From then on it has keys of its own." } }
                @match &self.made { None => (self.form(frame)), Some(made) => (self.steps(made, frame)) }
            },
        )
    }

    fn form(&self, frame: &Frame) -> Markup {
        html! {
            form.card.stacked method="post" action="/servers/new" {
                (csrf_field(frame))
                label { span { "What is it called?" } input type="text" name="name" maxlength="40" pattern="[a-z]([a-z0-9\\-]*[a-z0-9])?" placeholder="its host name" autocomplete="off"; }
                label { span { "What may it run?" } select name="stack" {
                    option value="" { "Everything in the project" }
                    @for stack in &self.stacks { option value=(stack) { "Only the stack " (stack) } }
                } }
                p { button type="submit" { "Make a token" } }
            }
        }
    }

    fn steps(&self, made: &JoinMade, frame: &Frame) -> Markup {
        let name = made.name.as_ref().map(|name| format!(" --name {name}")).unwrap_or_default();
        let command = format!("mainstay agent --join {} --token {}{name}", frame.address, made.token.expose());
        html! {
            section.card aria-labelledby="step-1" { h2 #step-1 { "1. Put the binary on the machine" } p { "Copy " code { "mainstay" } " there, to " code { "/usr/local/bin" } " for example. It needs nothing else but git." } }
            section.card aria-labelledby="step-2" {
                h2 #step-2 { "2. Run this one line there" }
                (copyable(&command))
                p.soft { "The token is shown this once. To have the agent start with the machine, run " code { "mainstay agent install" } " with the same options as root." }
            }
            (made.arrival.state(frame))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::tokens::TokenPurpose;

    fn one(condition: ServerCondition) -> String {
        let names = Names::of(&[samples::stack()], &[]);
        let page = ServerPage {
            server: samples::server(condition),
            names,
            metrics: samples::server_metrics(api::metrics::MetricsRange::Hour),
        };
        page.render(&samples::frame("/servers/harbour")).into_string()
    }

    #[test]
    fn a_server_shows_all_that_it_says_of_itself() {
        let page = one(ServerCondition::Online);
        for wanted in [
            "harbour.example.com",
            "Limits on memory and processors are not enforced",
            "At 41 of 42",
            "127.0.0.1:8080",
            "port 80 is in use by &lt;nginx&gt;",
            "hosts-file",
            "web.svc.internal",
            "the build &lt;failed&gt;",
            "3.0 GiB of 8.0 GiB",
            "0.72 on 2 cores",
            "Processing",
            ", high",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
        assert!(page.len() < 50_000);
    }

    #[test]
    fn a_server_that_is_offline_says_what_that_means_and_what_to_do() {
        let page = one(ServerCondition::Offline);
        assert!(page.contains("Its services go on as they were") && page.contains("http://127.0.0.1:4600"), "{page}");
    }

    #[test]
    fn joining_gives_one_line_to_copy_and_then_shows_the_machine() {
        let token = samples::token(1, TokenState::Usable, TokenPurpose::Join { project: None, stack: None });
        let made = JoinMade {
            name: Some("harbour".parse().unwrap()),
            token: Secret::new("mst_join_abc"),
            arrival: Arrival { token: token.clone(), server: None },
        };
        let page = JoinPage { stacks: vec![], made: Some(made) }.render(&samples::frame("/servers/new")).into_string();
        assert!(
            page.contains("mainstay agent --join http://127.0.0.1:4600 --token mst_join_abc --name harbour"),
            "{page}"
        );
        assert!(
            page.contains("Waiting for the machine") && page.contains(&format!("/live/join/{}", token.id)),
            "{page}"
        );
        let arrived = Arrival { token, server: Some(samples::server(ServerCondition::Online)) };
        assert!(arrived.state(&samples::frame("/servers/new")).into_string().contains("harbour has joined"));
    }

    #[test]
    fn the_list_teaches_where_it_is_empty() {
        let servers = SomeServers { shown: vec![], total: 0, offline: 0 };
        let page =
            ServersPage { filter: ServerFilter::default(), servers }.render(&samples::frame("/servers")).into_string();
        assert!(page.contains("No machine has joined yet") && page.contains("href=\"/servers/new\""));
    }

    #[test]
    fn of_a_thousand_servers_a_page_is_shown_that_is_small_and_can_be_searched() {
        let shown = vec![samples::server(ServerCondition::Offline); SERVERS_LISTED];
        let page = ServersPage {
            filter: ServerFilter { search: "\"><b>".into() },
            servers: SomeServers { shown, total: 1_000, offline: 40 },
        };
        let page = page.render(&samples::frame("/servers")).into_string();
        assert!(page.contains("And 960 more") && page.contains("role=\"search\"") && !page.contains("<b>"), "{page}");
        assert!(page.len() < 50_000, "{} bytes", page.len());
    }

    #[test]
    fn the_fullest_page_of_a_server_is_small() {
        let mut server = samples::server(ServerCondition::Online);
        let observed = server.observed.as_mut().unwrap();
        observed.instances = vec![observed.instances[0].clone(); 500];
        let metrics = samples::server_metrics(api::metrics::MetricsRange::Hour);
        let page = ServerPage { server, names: Names::of(&[samples::stack()], &[]), metrics };
        let page = page.render(&samples::frame("/servers/harbour")).into_string();
        assert!(page.contains("And 476 more"), "{page}");
        assert!(page.len() < 50_000, "{} bytes", page.len());
    }
}
