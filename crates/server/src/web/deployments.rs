//! One deployment: stage by stage with times, the build log as it is written, why it failed, and
//! what asked for it.

use super::events;
use super::frame::{Fragment, Frame, Live, breadcrumb, page};
use super::logs::{LineShape, LogPanel, panel, plain_tail};
use super::names::{service_path, stack_path};
use super::{times, words};
use api::deployments::{Deployment, DeploymentFailure, Stage};
use api::events::EventRecord;
use api::logs::LogRecord;
use api::sources::SourceVersionKind;
use maud::{Markup, html};

pub struct DeploymentPage {
    /// Name of its stack.
    pub stack: String,
    pub deployment: Deployment,
    /// Its events, newest first.
    pub events: Vec<EventRecord>,
    pub logs: Vec<LogRecord>,
    pub filter: String,
}

impl DeploymentPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![Fragment::new("deployment", self.state(frame)), Fragment::new("chain", self.chain(frame))]
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        let deployment = &self.deployment;
        let title = format!("{} of {}", words::deployment_kind(deployment.kind), deployment.service);
        let live = format!("/live/deployments/{}/stream", deployment.id);
        let (stack, service) = (stack_path(&self.stack), service_path(&self.stack, &deployment.service));
        let file = format!("/deployments/{}/log.txt", deployment.id);
        let logs = LogPanel {
            title: "Build log",
            records: &self.logs,
            filter: &self.filter,
            empty: if deployment.stage.in_flight() {
                "The build has written nothing yet."
            } else {
                "Nothing was built: the release existed already."
            },
            live: true,
            shape: LineShape::default(),
            beside_bytes: 0,
            whole: None,
            file: &file,
        };
        page(
            frame,
            &title,
            Live::From(&live),
            html! {
                (breadcrumb(&[("/", "Overview"), (&stack, &self.stack), (&service, deployment.service.as_str())]))
                (self.state(frame))
                (panel(&logs))
                (self.chain(frame))
            },
        )
    }

    fn state(&self, frame: &Frame) -> Markup {
        let deployment = &self.deployment;
        let (tone, word) = words::stage(deployment.stage);
        html! {
            div #deployment {
                div.title {
                    div.title-line {
                        h1 { span.kind { (words::deployment_kind(deployment.kind)) " of" } " " (deployment.service) }
                        (words::badge(tone, word))
                    }
                    p.lead { (summary(deployment, frame)) }
                }
                section.card aria-label="Stages" {
                    (stages(deployment, frame))
                    (waits(deployment))
                    (afterwards(deployment, frame))
                    @if deployment.stage.in_flight() {
                        form.actions method="get" action={ "/deployments/" (deployment.id) "/cancel" } {
                            button.quiet type="submit" { "Cancel this deployment" }
                        }
                    }
                }
                @if let Some(failure) = &deployment.failure { (failure_box(failure, deployment, frame)) }
            }
        }
    }

    fn chain(&self, frame: &Frame) -> Markup {
        let cause = &self.deployment.cause;
        html! {
            section.card #chain aria-labelledby="chain-title" {
                h2 #chain-title { "What led to it, and what followed" }
                @if !self.events.is_empty() { (events::list(&self.events, &Default::default(), events::Detail::OfDeployment, frame)) }
                p.soft {
                    "Asked for by " strong { (cause.actor.label()) } " (" (cause.action) ") " (times::relative(self.deployment.created_at_ms, frame.now_ms))
                    @if let Some(id) = &cause.request_id { ", " a href=(events::request_path(id)) { "request " (id.short()) } }
                    @if let Some(id) = cause.deployment_id.as_ref().filter(|id| **id != self.deployment.id) { ", after " a href={ "/deployments/" (id) } { "deployment " (id.short()) } }
                    "."
                }
            }
        }
    }
}

/// Which revision, of which commit, how long it took.
pub fn summary(deployment: &Deployment, frame: &Frame) -> Markup {
    html! {
        "Revision " (deployment.revision_number) ", commit " code title=(deployment.source_version) { (deployment.source_version.short()) }
        @if !deployment.source_subject.is_empty() { " “" (deployment.source_subject) "”" }
        ", by " (deployment.cause.actor.label()) " " (times::relative(deployment.created_at_ms, frame.now_ms))
        @match deployment.ended_at_ms {
            Some(ended) => { ", took " (times::duration_text(ended - deployment.created_at_ms)) }
            None if deployment.stage.in_flight() => { ", for " (times::since(deployment.created_at_ms, frame.now_ms)) " so far" }
            None => {}
        }
        "."
    }
}

/// Where one stage of the path stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done {
        took_ms: i64,
    },
    Now {
        since_ms: i64,
    },
    Broken {
        took_ms: i64,
    },
    Todo,
    /// The deployment ended before it.
    Never,
}

impl Step {
    /// Whether a stage is worth showing. One that does not apply is passed through in the moment in which it is
    /// entered: nothing is pulled for a commit, nothing built for an image. What is to come is announced if it can come.
    fn shown(self, stage: Stage, source: SourceVersionKind) -> bool {
        match self {
            Self::Done { took_ms } => took_ms > 0 || matches!(stage, Stage::Pending | Stage::Healthy | Stage::Running),
            Self::Now { .. } | Self::Broken { .. } => true,
            Self::Todo | Self::Never => match stage {
                Stage::Building => source == SourceVersionKind::Commit,
                Stage::Pulling => source == SourceVersionKind::Image,
                // Names lead to the gateway whatever the release, so this is hardly ever more than a moment.
                Stage::DnsUpdating => false,
                _ => true,
            },
        }
    }
}

/// The path with where each stage stands: done, now, broken, to come, or never reached.
fn steps(deployment: &Deployment) -> Vec<(Stage, Step)> {
    let entries = &deployment.stages;
    let ended = !deployment.stage.in_flight();
    let broken_at = deployment.failure.as_ref().map(|failure| failure.stage);
    let step = |stage: Stage| match entries.iter().position(|entry| entry.stage == stage) {
        None if ended => Step::Never,
        None => Step::Todo,
        Some(place) => {
            let began = entries[place].at_ms;
            let next = entries.get(place + 1).map(|entry| entry.at_ms);
            match (next, stage) {
                (Some(end), stage) if broken_at == Some(stage) => Step::Broken { took_ms: end - began },
                (Some(end), _) => Step::Done { took_ms: end - began },
                (None, Stage::Running) => Step::Done { took_ms: 0 },
                (None, _) if ended => Step::Done { took_ms: 0 },
                (None, _) => Step::Now { since_ms: began },
            }
        }
    };
    let source = deployment.source_version.kind();
    Stage::PATH.iter().map(|stage| (*stage, step(*stage))).filter(|(stage, step)| step.shown(*stage, source)).collect()
}

/// The stages as a row on a wide screen and a column on a phone. Their symbols are in the style sheet.
pub fn stages(deployment: &Deployment, frame: &Frame) -> Markup {
    html! {
        ol.stages aria-label="Stages of the deployment" {
            @for (stage, step) in steps(deployment) {
                @let (class, said) = match step {
                    Step::Done { .. } => ("done", "done"),
                    Step::Now { .. } => ("now", "now"),
                    Step::Broken { .. } => ("broken", "failed here"),
                    Step::Todo => ("todo", "to come"),
                    Step::Never => ("never", "not reached"),
                };
                li.(class) aria-current=[(class == "now").then_some("step")] {
                    span.stage-name { (words::stage(stage).1) span.hidden-label { ", " (said) } }
                    @match step {
                        Step::Done { took_ms: 0 } | Step::Todo | Step::Never => {}
                        Step::Done { took_ms } | Step::Broken { took_ms } => { span.took { (times::duration_text(took_ms)) } }
                        Step::Now { since_ms } => { span.took { (times::since(since_ms, frame.now_ms)) } }
                    }
                }
            }
        }
    }
}

/// Why a deployment in flight does not move on.
pub fn waits(deployment: &Deployment) -> Markup {
    html! {
        @for reason in &deployment.waits_for { p.note { "Waits: " (words::prose(reason)) "." } }
    }
}

/// What still holds after the switch: baking and the warm old release.
fn afterwards(deployment: &Deployment, frame: &Frame) -> Markup {
    let baking = deployment.bake_until_ms.filter(|until| deployment.stage == Stage::Running && *until > frame.now_ms);
    let warm = deployment.warm_until_ms.filter(|until| deployment.stage == Stage::Running && *until > frame.now_ms);
    html! {
        @if let Some(until) = baking { p.note { "Baking for another " (times::until(until, frame.now_ms)) ": if it breaks in this time, the previous release comes back by itself." } }
        @if let Some(until) = warm { p.note { "The previous release stays warm for another " (times::until(until, frame.now_ms)) ": going back to it takes less than a second." } }
    }
}

/// Why a deployment failed: the stage, the reason, the last probe, the last lines.
pub fn failure_box(failure: &DeploymentFailure, deployment: &Deployment, frame: &Frame) -> Markup {
    let verb = if deployment.stage == Stage::RolledBack { "was rolled back by itself" } else { "failed" };
    html! {
        section.card.failure aria-labelledby="failure-title" {
            h2 #failure-title { span.symbol aria-hidden="true" { "✕" } " It " (verb) " while " (words::stage(failure.stage).1.to_lowercase()) }
            p.reason { (words::prose(&failure.message)) }
            @if deployment.previous_revision_id.is_some() && deployment.stage != Stage::Running {
                p { "The release from before keeps serving; nothing was lost." }
            }
            @if let Some(probe) = &failure.last_probe {
                h3 { "Last health check" }
                p { (probe_text(probe, frame)) }
            }
            @if !failure.log_tail.is_empty() {
                h3 { "Last lines of its log" }
                (plain_tail(&failure.log_tail))
            }
        }
    }
}

/// One answer of a health check, with its time.
pub fn probe_text(probe: &api::observed::ProbeResult, frame: &Frame) -> Markup {
    let tone = if probe.ok { words::Tone::Good } else { words::Tone::Bad };
    html! {
        span.fact.(tone.class()) { span.symbol aria-hidden="true" { (tone.symbol()) } (probe.message) }
        " " span.soft { "in " (times::duration_text(i64::try_from(probe.duration_ms).unwrap_or(i64::MAX))) ", " (times::relative(probe.at_ms, frame.now_ms)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn deployment_page(stage: Stage) -> String {
        DeploymentPage {
            stack: "shop".into(),
            deployment: samples::deployment(stage),
            events: vec![samples::event(3, api::events::EventLevel::Info, "the build began")],
            logs: vec![samples::log(1, "added 120 packages <b>")],
            filter: String::new(),
        }
        .render(&samples::frame("/deployments/x"))
        .into_string()
    }

    #[test]
    fn a_deployment_on_its_way_shows_what_is_done_what_is_now_and_what_is_to_come() {
        let steps = steps(&samples::deployment(Stage::Starting));
        assert_eq!(steps[0], (Stage::Pending, Step::Done { took_ms: 2_300 }));
        let stages: Vec<Stage> = steps.iter().map(|(stage, _)| *stage).collect();
        assert!(!stages.contains(&Stage::Pulling) && !stages.contains(&Stage::DnsUpdating), "{stages:?}");
        assert!(matches!(steps[2], (Stage::Starting, Step::Now { .. })));
        assert_eq!(steps[3], (Stage::Healthy, Step::Todo));
        let page = deployment_page(Stage::Starting);
        assert!(page.contains("Waits: its instances are not &lt;healthy&gt; yet."), "{page}");
        assert!(
            page.contains("aria-current=\"step\"") && page.contains("data-since") && page.contains("/cancel"),
            "{page}"
        );
    }

    #[test]
    fn a_commit_is_built_and_an_image_is_pulled_and_neither_is_announced_for_the_other() {
        let stages =
            |deployment: &Deployment| steps(deployment).into_iter().map(|(stage, _)| stage).collect::<Vec<_>>();
        let of_both = |deployment: &Deployment| {
            let shown = stages(deployment);
            (shown.contains(&Stage::Building), shown.contains(&Stage::Pulling))
        };
        let mut pending = samples::deployment(Stage::Pending);
        assert_eq!(of_both(&pending), (true, false));
        pending.source_version = format!("sha256:{}", "7".repeat(64)).parse().unwrap();
        assert_eq!(of_both(&pending), (false, true));
        let mut pulled = samples::deployment(Stage::Running);
        assert_eq!(of_both(&pulled), (true, false));
        let of = |stage| move |entry: &&mut api::deployments::StageEntry| entry.stage == stage;
        let began = pulled.stages.iter_mut().find(of(Stage::Building)).unwrap().at_ms;
        pulled.stages.iter_mut().find(of(Stage::Pulling)).unwrap().at_ms = began;
        assert_eq!(of_both(&pulled), (false, true), "what took time is shown, whatever was expected");
    }

    #[test]
    fn a_deployment_that_ended_well_has_every_stage_done_and_tells_what_still_holds() {
        assert!(steps(&samples::deployment(Stage::Running)).iter().all(|(_, step)| matches!(step, Step::Done { .. })));
        let page = deployment_page(Stage::Running);
        assert!(
            page.contains("Baking for another") && page.contains("stays warm") && !page.contains("/cancel"),
            "{page}"
        );
    }

    #[test]
    fn a_failure_shows_stage_reason_last_check_and_last_lines_and_never_obeys_them() {
        let all = steps(&samples::deployment(Stage::Failed));
        assert!(
            all.iter().any(|(stage, step)| *stage == Stage::Starting && matches!(step, Step::Broken { .. })),
            "{all:?}"
        );
        assert_eq!(all.last(), Some(&(Stage::Running, Step::Never)));
        let page = deployment_page(Stage::Failed);
        for wanted in [
            "It failed while starting",
            "the process listens on 8080",
            "connection refused",
            "&lt;script&gt;alert('log')",
            "keeps serving",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
        assert!(!page.contains("<script>alert"));
    }

    #[test]
    fn the_cause_is_told() {
        let page = deployment_page(Stage::Running);
        assert!(page.contains("Asked for by <strong>token cli</strong> (deploy)"), "{page}");
        assert!(page.contains("href=\"/events?request=req_"), "{page}");
    }
}
