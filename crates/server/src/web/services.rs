//! One service: how it is, what answers for it, its instances, its deployment, its logs, and the
//! forms that change it.

use super::deployments::{failure_box, stages, summary, waits};
use super::frame::{Fragment, Frame, Live, breadcrumb, csrf_field, page};
use super::history::way_back;
use super::instances;
use super::logs::{LineShape, LogPanel, panel};
use super::names::{service_path, stack_path};
use super::{metrics, times, words};
use api::deployments::Deployment;
use api::gateway::ServiceTraffic;
use api::logs::LogRecord;
use api::metrics::ServiceMetrics;
use api::services::{
    EnvOrigin, EnvVariable, HealthCheck, PortSpec, REPLICAS_LIMIT, Revision, RunSpec, ServiceIntent, ServiceView,
    SourceSpec,
};
use maud::{Markup, html};
use std::collections::BTreeSet;

/// Most variables that are listed on it.
const VARIABLES_SHOWN: usize = 14;

pub struct ServicePage {
    pub service: ServiceView,
    /// Newest first.
    pub revisions: Vec<Revision>,
    /// Numbers of those that were healthy once.
    pub ran: BTreeSet<u64>,
    /// Newest first.
    pub deployments: Vec<Deployment>,
    pub env: Vec<EnvVariable>,
    pub logs: Vec<LogRecord>,
    pub filter: String,
    /// Counters of the gateways together, if any reports some.
    pub traffic: Option<ServiceTraffic>,
    pub metrics: ServiceMetrics,
}

impl ServicePage {
    /// The page of all lines.
    fn whole_log(&self) -> String {
        format!("{}/logs", self.path())
    }

    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![
            Fragment::new("service-head", self.head()),
            Fragment::new("deployment", self.deployment(frame)),
            Fragment::new("instances", instances::table(&self.service.instances, &self.whole_log(), frame)),
            Fragment::new("metrics", metrics::service(&self.metrics, &self.path())),
            Fragment::new("facts", self.facts()),
            Fragment::new("revisions", self.revisions(frame)),
            Fragment::new("history", self.history(frame)),
        ]
    }

    fn path(&self) -> String {
        service_path(&self.service.stack, &self.service.name)
    }

    /// Each line leads to itself among all lines.
    pub fn line_shape(&self) -> LineShape {
        LineShape { show_instance: true, link: format!("{}/logs", self.service.name) }
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        let service = &self.service;
        let live = format!("/live{}/stream?range={}", self.path(), self.metrics.range);
        let stack = stack_path(&service.stack);
        let whole_log = self.whole_log();
        let above = html! {
            (breadcrumb(&[("/", "Overview"), (&stack, service.stack.as_str())]))
            (self.head())
            (self.actions(frame))
            (self.deployment(frame))
            (instances::table(&service.instances, &whole_log, frame))
            (metrics::service(&self.metrics, &self.path()))
        };
        let below = html! {
            div.columns.even {
                div.main-column { (self.revisions(frame)) (self.history(frame)) }
                div.side-column { (self.facts()) (self.environment(frame)) }
            }
        };
        let logs = LogPanel {
            title: "Logs",
            records: &self.logs,
            filter: &self.filter,
            empty: "It has written nothing yet.",
            live: true,
            shape: self.line_shape(),
            beside_bytes: above.0.len() + below.0.len(),
            whole: Some(&whole_log),
            file: &format!("{whole_log}.txt"),
        };
        page(
            frame,
            &format!("{} in {}", service.name, service.stack),
            Live::From(&live),
            html! { (above) (panel(&logs)) (below) },
        )
    }

    fn head(&self) -> Markup {
        let service = &self.service;
        let (tone, word) = words::service_condition(service.condition);
        html! {
            div.title #service-head {
                div.title-line { h1 { span.kind { "Service" } " " (service.name) } (words::badge(tone, word)) }
                @if service.urls.is_empty() {
                    p.lead { "No address leads to it." }
                } @else {
                    ul.addresses aria-label="Addresses" { @for url in &service.urls { li { a href=(url) rel="noreferrer" { (url) } } } }
                }
            }
        }
    }

    fn actions(&self, frame: &Frame) -> Markup {
        let path = self.path();
        let stopped = self.service.intent == ServiceIntent::Stop;
        // Each leads to a page that says what will happen, and asks.
        let ask = |action: &str, label: &str| {
            html! { form method="get" action={ (path) "/" (action) } { button.quiet type="submit" { (label) } } }
        };
        html! {
            section.toolbar aria-label="Actions" {
                @if stopped {
                    form method="post" action={ (path) "/start" } { (csrf_field(frame)) button type="submit" { "Start" } }
                } @else { (ask("restart", "Restart")) (ask("stop", "Stop")) }
                @if let Some(previous) = &self.service.previous {
                    form method="get" action={ (path) "/rollback" } {
                        input type="hidden" name="revision" value=(previous.number);
                        button.quiet type="submit" title=(previous.source_subject) { "Roll back to " (previous.number) }
                    }
                }
                form.scale method="post" action={ (path) "/scale" } {
                    (csrf_field(frame))
                    label for="replicas" { "Instances" }
                    input #replicas type="number" name="replicas" min="0" max=(REPLICAS_LIMIT) value=(self.service.replicas) required;
                    button.quiet type="submit" { "Scale" }
                }
            }
        }
    }

    fn deployment(&self, frame: &Frame) -> Markup {
        html! {
            section #deployment aria-labelledby="deployment-title" {
                @if let Some(deployment) = &self.service.deployment {
                    @let (tone, word) = words::stage(deployment.stage);
                    div.card {
                        div.card-head {
                            h2 #deployment-title { a href={ "/deployments/" (deployment.id) } { (words::deployment_kind(deployment.kind)) } }
                            (words::badge(tone, word))
                        }
                        p.soft { (summary(deployment, frame)) }
                        (stages(deployment, frame))
                        (waits(deployment))
                    }
                    @if let Some(failure) = &deployment.failure { (failure_box(failure, deployment, frame)) }
                } @else {
                    div.card { h2 #deployment-title { "Deployment" } p.empty { "It was never deployed." } }
                }
            }
        }
    }

    fn revisions(&self, frame: &Frame) -> Markup {
        let path = self.path();
        html! {
            section.card #revisions aria-labelledby="revisions-title" {
                div.card-head { h2 #revisions-title { "Revisions" } a.button.quiet href={ (self.path()) "/revisions" } { "Compare" } }
                @if self.revisions.is_empty() { p.empty { "None yet." } }
                ul.rows {
                    @for revision in &self.revisions {
                        li {
                            div {
                                p { strong { (revision.number) } " " code title=(revision.source_version) { (revision.source_version.short()) } " " (revision.source_subject) }
                                p.soft { (times::relative(revision.created_at_ms, frame.now_ms)) }
                            }
                            div.end {
                                (way_back(&self.service, &self.ran, revision.number, &path))
                            }
                        }
                    }
                }
            }
        }
    }

    fn history(&self, frame: &Frame) -> Markup {
        html! {
            section.card #history aria-labelledby="history-title" {
                h2 #history-title { "Deployments" }
                @if self.deployments.is_empty() { p.empty { "None yet." } }
                ul.rows {
                    @for deployment in &self.deployments {
                        @let (tone, word) = words::stage(deployment.stage);
                        li {
                            div {
                                a href={ "/deployments/" (deployment.id) } { (words::deployment_kind(deployment.kind)) " of revision " (deployment.revision_number) }
                                p.soft { (deployment.cause.actor.label()) ", " (times::relative(deployment.created_at_ms, frame.now_ms)) }
                            }
                            div.end { (words::badge(tone, word)) }
                        }
                    }
                }
            }
        }
    }

    fn facts(&self) -> Markup {
        let spec = self
            .service
            .current
            .as_ref()
            .and_then(|current| self.revisions.iter().find(|r| r.id == current.id))
            .or(self.revisions.first())
            .map(|r| &r.spec);
        html! {
            section.card #facts aria-labelledby="facts-title" {
                div.card-head { h2 #facts-title { "Configuration" } a.button.quiet href={ (stack_path(&self.service.stack)) "/edit" } { "Change" } }
                dl.facts {
                    @if let Some(spec) = spec {
                        dt { "Source" } dd { (source(&spec.source)) }
                        @if let Some(build) = &spec.build { dt { "Build" } dd { code { (build.command) } } }
                        dt { "Run" } dd { (run(&spec.run)) }
                        dt { "Port" } dd { @match spec.port { PortSpec::Injected => { "chosen and given as " code { "PORT" } }, PortSpec::Fixed { port } => (port), PortSpec::None => "none: a worker" } }
                        dt { "Health" } dd { (health_text(&spec.health.check)) ", every " (times::duration_text(i64::try_from(spec.health.interval_ms).unwrap_or(i64::MAX))) }
                        @if let Some(memory) = spec.limits.memory_bytes { dt { "Memory" } dd { "at most " (times::bytes_text(memory)) } }
                        @if let Some(cpu) = spec.limits.cpu_millis { dt { "Processor" } dd { "at most " (cpu as f64 / 1000.0) " cores" } }
                    }
                    dt { "Routes" } dd { @if self.service.routes.is_empty() { "none" } @for route in &self.service.routes { code.block { (route.label()) } } }
                    @if let Some(traffic) = &self.traffic {
                        dt { "Requests" } dd {
                            (traffic.requests) " since the gateway began, " (traffic.errors) " with an error"
                            @if let Some(average) = traffic.latency_sum_micros.checked_div(traffic.requests) { ", " (average / 1000) "." (average % 1000 / 100) " ms on average" }
                        }
                    }
                }
            }
        }
    }

    /// Those that somebody chose before those that are injected; a page has room for some.
    fn variables(&self) -> Vec<&EnvVariable> {
        let (injected, chosen): (Vec<_>, Vec<_>) = self.env.iter().partition(|v| v.origin == EnvOrigin::Injected);
        chosen.into_iter().chain(injected).take(VARIABLES_SHOWN).collect()
    }

    fn environment(&self, frame: &Frame) -> Markup {
        let path = format!("{}/env", self.path());
        html! {
            section.card #environment aria-labelledby="env-title" {
                h2 #env-title { "Environment" }
                p.soft { "Values are not shown here. " code { "mainstay env list " (self.service.stack) "/" (self.service.name) " --reveal" } " shows them to those who may." }
                @let shown = self.variables();
                @if shown.is_empty() { p.empty { "No variables." } } @else {
                    table.plain {
                        thead { tr { th scope="col" { "Name" } th scope="col" { "From" } th scope="col" { span.hidden-label { "Actions" } } } }
                        tbody { @for variable in &shown { tr {
                            th scope="row" data-label="Name" { code { (variable.name) } }
                            td data-label="From" { (words::env_origin(variable.origin)) }
                            td.end { @if variable.origin == EnvOrigin::Set { a.button.quiet href={ (path) "/remove?name=" (variable.name) } aria-label={ "Remove " (variable.name) } { "Remove" } } }
                        } } }
                    }
                }
                @if shown.len() < self.env.len() { p.soft { "And " (self.env.len() - shown.len()) " more, mostly the addresses of other services: " code { "mainstay env list " (self.service.stack) "/" (self.service.name) } " shows all." } }
                details {
                    summary { "Set a variable" }
                    form.stacked method="post" action=(path) {
                        (csrf_field(frame))
                        label { span { "Name" } input type="text" name="name" required maxlength="255" pattern="[A-Za-z_][A-Za-z0-9_]*" autocomplete="off" autocapitalize="characters" spellcheck="false"; }
                        label { span { "Value" } input type="password" name="value" autocomplete="off" maxlength="4000"; }
                        label.check { input type="checkbox" name="deploy" value="yes" checked; " Deploy it at once" }
                        p.soft { "It stays over what the manifest says until it is removed. Without the tick it waits for the next deployment." }
                        p { button.quiet type="submit" { "Set it" } }
                    }
                }
            }
        }
    }
}

fn source(source: &SourceSpec) -> Markup {
    html! {
        @match source {
            SourceSpec::Git(source) => {
                (source.git)
                @if let Some(reference) = &source.reference { " at " code title=(reference.as_str()) { @match reference.as_commit() { Some(commit) => (commit.short()), None => (reference.as_str()) } } }
                @if !source.directory.is_empty() { ", folder " code { (source.directory) } }
            },
            SourceSpec::Image(source) => { "image " code { (source.image) } },
        }
    }
}

fn run(run: &RunSpec) -> Markup {
    html! {
        @match run {
            RunSpec::Command { command } => code { (command) },
            RunSpec::Static { directory } => { "files in " code { (directory) } },
            RunSpec::Container(container) => {
                "a container"
                @if let Some(words) = container.entrypoint.iter().chain(&container.command).next() { ": " code { (words.join(" ")) } }
            },
        }
    }
}

fn health_text(check: &HealthCheck) -> Markup {
    html! {
        @match check {
            HealthCheck::Http { path } => { code { "GET " (path) } },
            HealthCheck::Tcp => "the port accepts connections",
            HealthCheck::Command { command } => { code { (command) } },
            HealthCheck::Process => "the process is alive",
            HealthCheck::Image => "the image's own check",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::secret::Secret;
    use api::services::ServiceCondition;

    fn service_page(condition: ServiceCondition) -> ServicePage {
        ServicePage {
            service: samples::service("web", condition),
            revisions: vec![samples::revision(7), samples::revision(6), samples::revision(5)],
            ran: [6, 7].into(),
            deployments: vec![samples::deployment(api::deployments::Stage::Running)],
            env: vec![EnvVariable {
                name: "DATABASE_URL".into(),
                origin: EnvOrigin::Manifest,
                value: Some(Secret::new("postgres://secret-value")),
            }],
            logs: (0..400).map(|n| samples::log(n, "GET /cart 200 <img src=x onerror=alert(1)>")).collect(),
            filter: String::new(),
            traffic: None,
            metrics: samples::service_metrics(api::metrics::MetricsRange::Hour),
        }
    }

    fn shown(condition: ServiceCondition) -> String {
        service_page(condition).render(&samples::frame("/stacks/shop/services/web")).into_string()
    }

    #[test]
    fn a_service_shows_its_addresses_instances_deployment_revisions_and_configuration() {
        let page = shown(ServiceCondition::Running);
        for wanted in [
            "http://shop.example.com:8080/",
            "Intent",
            "Traffic",
            "Observed",
            "Go back to 6",
            "Never healthy",
            "GET /health",
            "npm ci",
            "at most 256.0 MiB",
            "DATABASE_URL",
            "data-live=\"/live/stacks/shop/services/web/stream?range=1h\"",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
    }

    #[test]
    fn values_of_variables_are_never_in_the_page() {
        assert!(!shown(ServiceCondition::Running).contains("secret-value"));
    }

    #[test]
    fn markup_from_outside_is_text_wherever_it_comes_from() {
        let page = shown(ServiceCondition::Down);
        assert!(
            !page.contains("<img") && !page.contains("<script>") && !page.contains("Change number 7 <b>"),
            "{page}"
        );
        assert!(page.contains("Change number 7 &lt;b&gt;"));
    }

    #[test]
    fn a_stopped_service_can_be_started_and_a_running_one_stopped() {
        let (stopped, running) = (shown(ServiceCondition::Stopped), shown(ServiceCondition::Running));
        assert!(stopped.contains("/services/web/start\"") && !stopped.contains("/services/web/stop\""));
        assert!(running.contains("/services/web/stop\"") && running.contains("/services/web/restart\""));
    }

    #[test]
    fn every_form_that_changes_something_carries_the_token() {
        let page = shown(ServiceCondition::Running);
        let forms = page.matches("method=\"post\"").count();
        assert!(forms >= 2);
        assert_eq!(page.matches("name=\"csrf\" value=\"csrf-token\"").count(), forms);
    }

    #[test]
    fn what_cuts_off_or_changes_what_serves_is_asked_about_first() {
        let page = shown(ServiceCondition::Running);
        for action in ["stop", "restart", "rollback"] {
            assert!(
                page.contains(&format!("method=\"get\" action=\"/stacks/shop/services/web/{action}\"")),
                "{action}: {page}"
            );
            assert!(
                !page.contains(&format!("method=\"post\" action=\"/stacks/shop/services/web/{action}\"")),
                "{action}"
            );
        }
    }

    #[test]
    fn every_fragment_is_a_part_of_the_page() {
        let page = shown(ServiceCondition::Down);
        for fragment in service_page(ServiceCondition::Down).fragments(&samples::frame("/stacks/shop/services/web")) {
            assert!(page.contains(&fragment.markup.into_string()), "{} is not in the page", fragment.id);
        }
    }

    #[test]
    fn the_fullest_page_is_small() {
        let mut full = service_page(ServiceCondition::Down);
        full.service.instances = vec![samples::instance(1, api::observed::InstanceState::Unhealthy); 100];
        full.revisions = vec![samples::revision(7); 8];
        full.deployments = vec![samples::deployment(api::deployments::Stage::Failed); 8];
        full.env = (0..200)
            .map(|n| EnvVariable { name: format!("SERVICE_NUMBER_{n}_URL"), origin: EnvOrigin::Set, value: None })
            .collect();
        let page = full.render(&samples::frame("/stacks/shop/services/web")).into_string();
        assert!(page.len() < 50_000, "{} bytes", page.len());
        assert!(page.contains("And 95 more") && page.contains("And 186 more"), "{page}");
    }
}
