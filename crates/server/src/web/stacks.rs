//! One stack: its services, what is wrong, its manifest, and the plan of deploying it again.

use super::frame::{Fragment, Frame, Live, breadcrumb, csrf_field, page};
use super::history::differences_as;
use super::names::{service_path, stack_path};
use super::{times, words};
use api::desired::Traffic;
use api::observed::InstanceState;
use api::plans::StackPlan;
use api::services::{InstanceView, ServiceView};
use api::stacks::StackView;
use maud::{Markup, html};

/// Most of a manifest that is put into the page.
const MANIFEST_LIMIT: usize = 16 * 1024;
/// Most services that are listed on it.
const SERVICES_SHOWN: usize = 24;

pub struct StackPage {
    pub stack: StackView,
}

impl StackPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![Fragment::new("stack-head", self.head(frame)), Fragment::new("services", self.services(frame))]
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        let live = format!("/live{}/stream", stack_path(&self.stack.name));
        page(
            frame,
            self.stack.name.as_str(),
            Live::From(&live),
            html! {
                (breadcrumb(&[("/", "Overview")]))
                (self.head(frame))
                (self.services(frame))
                div.columns.even {
                    (self.manifest())
                    (self.actions(frame))
                }
            },
        )
    }

    fn head(&self, frame: &Frame) -> Markup {
        let stack = &self.stack;
        let (tone, word) = words::stack_condition(stack.condition);
        html! {
            div.title #stack-head {
                div.title-line { h1 { span.kind { "Stack" } " " (stack.name) } (words::badge(tone, word)) }
                p.lead { "Version " (stack.version) " in project " (stack.project) ", changed " (times::relative(stack.updated_at_ms, frame.now_ms)) "." }
                @if !stack.problems.is_empty() {
                    div.message.bad role="status" {
                        span.symbol aria-hidden="true" { "▲" }
                        ul { @for problem in &stack.problems { li { (words::prose(problem)) } } }
                    }
                }
            }
        }
    }

    fn services(&self, frame: &Frame) -> Markup {
        html! {
            section.card #services aria-labelledby="services-title" {
                h2 #services-title { "Services" }
                @if self.stack.services.is_empty() { p.empty { "This stack has no services." } } @else {
                    @let shown = self.stack.services.get(..SERVICES_SHOWN).unwrap_or(&self.stack.services);
                    (service_table(shown, false, frame))
                    @if shown.len() < self.stack.services.len() { p { a href={ "/services?stack=" (self.stack.name) } { "All " (self.stack.services.len()) " services" } } }
                }
            }
        }
    }

    fn manifest(&self) -> Markup {
        let text = &self.stack.manifest;
        let end = (0..=MANIFEST_LIMIT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        html! {
            section.card aria-labelledby="manifest-title" {
                h2 #manifest-title { "Manifest" }
                p.soft { "As it was deployed; values of environment variables are hidden." }
                pre.code tabindex="0" { code { (text[..end]) } }
                @if end < text.len() { p.soft { "It is longer than is shown here; the API has it whole: " code { "GET /api/v1/stacks/" (self.stack.name) } "." } }
            }
        }
    }

    fn actions(&self, frame: &Frame) -> Markup {
        let path = stack_path(&self.stack.name);
        html! {
            section.card aria-labelledby="stack-actions" {
                h2 #stack-actions { "Deploy again" }
                p { "See what deploying this manifest would change now, for example because its branch has moved. Nothing happens before you agree." }
                p.toolbar { a.button href={ (path) "/plan" } { "Plan" } a.button.quiet href={ (path) "/edit" } { "Change the configuration" } }
                hr;
                details.danger {
                    summary { "Remove this stack" }
                    p { "Its services stop, and its routes and history go away. This cannot be undone." }
                    form method="post" action={ (path) "/remove" } {
                        (csrf_field(frame))
                        label { span { "Write " strong { (self.stack.name) } " to confirm" } input type="text" name="confirm" required autocomplete="off" maxlength="40"; }
                        button.bad type="submit" { "Remove the stack" }
                    }
                }
            }
        }
    }
}

/// Services as rows, wherever a page lists some. `whole`: with the name of their stack.
pub fn service_table(services: &[ServiceView], whole: bool, frame: &Frame) -> Markup {
    html! {
        table {
            thead { tr { th scope="col" { "Service" } th scope="col" { "Condition" } th scope="col" { "Revision" } th scope="col" { "Instances" } th scope="col" { "Last deployment" } th scope="col" { "Address" } } }
            tbody { @for service in services { (service_row(service, whole, frame)) } }
        }
    }
}

fn service_row(service: &ServiceView, whole: bool, frame: &Frame) -> Markup {
    let (tone, word) = words::service_condition(service.condition);
    // An old release that is kept warm is healthy, too, and serves nothing.
    let serves = |instance: &&InstanceView| {
        instance.traffic == Traffic::Active
            && instance.observed.as_ref().is_some_and(|seen| seen.state == InstanceState::Healthy)
    };
    let healthy = service.instances.iter().filter(serves).count();
    html! {
        tr {
            th scope="row" data-label="Service" { @if whole { a.soft href=(stack_path(&service.stack)) { (service.stack) } " / " } a.name href=(service_path(&service.stack, &service.name)) { (service.name) } }
            td data-label="Condition" { (words::badge(tone, word)) }
            td data-label="Revision" { @if let Some(current) = &service.current { (current.number) " " code title=(current.source_subject) { (current.source_version.short()) } } @else { "–" } }
            td data-label="Instances" { (healthy) " healthy of " (service.replicas) }
            td data-label="Deployed" {
                @if let Some(deployment) = &service.deployment {
                    @let (tone, word) = words::stage(deployment.stage);
                    a href={ "/deployments/" (deployment.id) } { (words::fact(tone, word)) }
                    " " span.soft { (times::relative(deployment.created_at_ms, frame.now_ms)) }
                } @else { "–" }
            }
            td data-label="Address" { @if let Some(url) = service.urls.first() { a.clip href=(url) rel="noreferrer" { (url) } } @else { "–" } }
        }
    }
}

/// What deploying would do, and the button that does it.
pub struct PlanPage {
    pub plan: StackPlan,
    /// The text that was planned, if it is not the stack's own manifest; values of variables hidden.
    pub edited: Option<String>,
}

impl PlanPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        let path = stack_path(&self.plan.stack);
        page(
            frame,
            &format!("Plan of {}", self.plan.stack),
            Live::No,
            html! {
                (breadcrumb(&[("/", "Overview"), (&path, self.plan.stack.as_str())]))
                div.title {
                    h1 { span.kind { "Plan" } " " (self.plan.stack) }
                    p.lead {
                        @if self.plan.is_empty() { "Nothing would change: what runs is what the manifest says." }
                        @else { "This is what would happen. If anything moves before you agree, it is refused and nothing happens." }
                    }
                }
                @for service in &self.plan.services {
                    @let (tone, word) = words::plan_action(service.action);
                    section.card aria-label={ "Service " (service.service) } {
                        div.card-head { h2 { (service.service) } (words::badge(tone, word)) }
                        @if let Some(commit) = &service.source_version { p.soft { "At commit " code title=(commit) { (commit.short()) } } }
                        @if !service.differences.is_empty() { (differences_as(&service.differences, "Now", "Then")) }
                        @if !service.notes.is_empty() { ul.notes { @for note in &service.notes { li { (words::prose(note)) } } } }
                    }
                }
                form.card.actions method="post" action={ (path) "/deploy" } {
                    (csrf_field(frame))
                    input type="hidden" name="fingerprint" value=(self.plan.fingerprint);
                    @if let Some(text) = &self.edited { textarea name="manifest" hidden readonly aria-label="Manifest" { "\n" (text) } }
                    @if !self.plan.is_empty() { button type="submit" { "Deploy this plan" } }
                    @if self.edited.is_some() { button.quiet type="submit" formaction={ (path) "/edit" } { "Change it further" } }
                    a.button.quiet href=(path) { "Back" }
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::plans::{Difference, ServicePlan, ServicePlanAction};

    #[test]
    fn a_stack_shows_its_services_its_problems_and_its_manifest() {
        let page = StackPage { stack: samples::stack() }.render(&samples::frame("/stacks/shop")).into_string();
        for wanted in [
            "href=\"/stacks/shop/services/worker\"",
            "Degraded",
            "worker on harbour is unhealthy: &lt;nothing&gt; answers",
            "node server.js&quot; # &lt;fast&gt;",
            "2 healthy of 2",
            "name=\"csrf\" value=\"csrf-token\"",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
        assert!(page.len() < 50_000);
    }

    #[test]
    fn an_instance_that_is_only_kept_warm_is_not_counted_as_serving() {
        let mut stack = samples::stack();
        stack.services[0].instances[1].traffic = Traffic::Out;
        let page = StackPage { stack }.render(&samples::frame("/stacks/shop")).into_string();
        assert!(page.contains("1 healthy of 2"), "{page}");
    }

    #[test]
    fn a_manifest_that_is_very_long_is_cut_between_characters() {
        let mut stack = samples::stack();
        stack.manifest = format!("name = \"shop\" # {}", "ü".repeat(40_000));
        let page = StackPage { stack }.render(&samples::frame("/stacks/shop")).into_string();
        assert!(page.len() < 50_000 && page.contains("longer than is shown"));
    }

    #[test]
    fn a_plan_is_shown_with_the_fingerprint_that_agreeing_sends() {
        let plan = StackPlan {
            stack_id: None,
            stack: "shop".parse().unwrap(),
            base_version: 3,
            fingerprint: "f00".into(),
            services: vec![ServicePlan {
                service: "web".parse().unwrap(),
                action: ServicePlanAction::Update,
                source_version: None,
                differences: vec![Difference { field: "run.command".into(), from: Some("<a>".into()), to: None }],
                notes: vec!["a build runs".into()],
            }],
        };
        let page =
            PlanPage { plan: plan.clone(), edited: None }.render(&samples::frame("/stacks/shop/plan")).into_string();
        assert!(page.contains("<del>&lt;a&gt;</del>") && page.contains("name=\"fingerprint\" value=\"f00\""), "{page}");
        let empty = StackPlan { services: vec![], ..plan };
        assert!(
            !PlanPage { plan: empty, edited: None }
                .render(&samples::frame("/"))
                .into_string()
                .contains("Deploy this plan")
        );
    }
}
