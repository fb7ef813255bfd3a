//! Builds of all services: what is being made, how long it took, and the log of each.

use super::frame::{Fragment, Frame, Live, page};
use super::names::Names;
use super::{times, words};
use api::deployments::{Deployment, Stage};
use maud::{Markup, html};

/// How many builds one page holds.
pub const PAGE_SIZE: usize = 40;

/// What is looked at, as the query of the page says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub struct BuildFilter {
    /// Only those made before this deployment.
    #[serde(default)]
    pub before: String,
}

pub struct BuildsPage {
    pub filter: BuildFilter,
    /// Deployments that had something to build, newest first.
    pub builds: Vec<Deployment>,
    pub older_than: Option<String>,
    pub names: Names,
}

/// How a build went, as its deployment tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    Waiting,
    Running {
        since_ms: i64,
    },
    Done {
        took_ms: i64,
    },
    /// The commit was there already.
    Reused,
    Failed {
        took_ms: i64,
    },
    /// The deployment ended for another reason while it was building.
    Ended,
}

/// Building and fetching are the stages up to the start.
pub fn build_of(deployment: &Deployment) -> Build {
    let at = |wanted: Stage| deployment.stages.iter().find(|entry| entry.stage == wanted).map(|entry| entry.at_ms);
    let Some(began) = at(Stage::Building) else {
        return if deployment.stage.in_flight() { Build::Waiting } else { Build::Ended };
    };
    if let Some(done) = at(Stage::Starting) {
        // What was there already takes no time at all.
        return if done - began < 50 { Build::Reused } else { Build::Done { took_ms: done - began } };
    }
    let ended = deployment.ended_at_ms.unwrap_or(began);
    match &deployment.failure {
        Some(failure) if failure.stage <= Stage::Pulling => Build::Failed { took_ms: ended - began },
        _ if deployment.stage.in_flight() => Build::Running { since_ms: began },
        _ => Build::Ended,
    }
}

impl BuildsPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![Fragment::new("builds", self.table(frame))]
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        let live = if self.filter.before.is_empty() { Live::From("/live/builds/stream") } else { Live::No };
        page(
            frame,
            "Builds",
            live,
            html! {
                div.title { h1 { "Builds" } p.lead { "What was made of which commit, newest first. Builds run on the servers that need them." } }
                (self.table(frame))
            },
        )
    }

    fn table(&self, frame: &Frame) -> Markup {
        html! {
            section.card #builds aria-label="Builds" {
                @if self.builds.is_empty() { p.empty { "Nothing was built yet." } } @else {
                    table {
                        thead { tr { th scope="col" { "Service" } th scope="col" { "Build" } th scope="col" { "Commit" } th scope="col" { "Took" } th scope="col" { "Asked for" } th scope="col" { "Log" } } }
                        tbody { @for build in &self.builds { (self.row(build, frame)) } }
                    }
                }
                nav.paging aria-label="Pages" {
                    @if !self.filter.before.is_empty() { a.button.quiet href="/builds" { "Newest" } }
                    @if let Some(before) = &self.older_than { a.button.quiet href={ "/builds?before=" (before) } rel="next" { "Older" } }
                }
            }
        }
    }

    fn row(&self, deployment: &Deployment, frame: &Frame) -> Markup {
        let build = build_of(deployment);
        let (tone, word) = match build {
            Build::Waiting => (words::Tone::Busy, "Waiting"),
            Build::Running { .. } => (words::Tone::Busy, "Building"),
            Build::Done { .. } => (words::Tone::Good, "Built"),
            Build::Reused => (words::Tone::Off, "Built before"),
            Build::Failed { .. } => (words::Tone::Bad, "Failed"),
            Build::Ended => (words::Tone::Off, "Not finished"),
        };
        let service = self.names.service_of(Some(&deployment.service_id));
        html! {
            tr {
                th scope="row" data-label="Service" { @match service { Some((label, path)) => a.name href=(path) { (label) }, None => (deployment.service) } p.soft { "revision " (deployment.revision_number) } }
                td data-label="Build" { (words::badge(tone, word)) }
                td data-label="Commit" { code title=(deployment.source_version) { (deployment.source_version.short()) } " " (deployment.source_subject) }
                td data-label="Took" { @match build {
                    Build::Running { since_ms } => (times::since(since_ms, frame.now_ms)),
                    Build::Done { took_ms } | Build::Failed { took_ms } => (times::duration_text(took_ms)),
                    _ => "–",
                } }
                td data-label="Asked for" { (times::relative(deployment.created_at_ms, frame.now_ms)) " by " (deployment.cause.actor.label()) }
                td data-label="Log" { a href={ "/deployments/" (deployment.id) "#logs" } aria-label={ "Log of the build of " (deployment.service) ", revision " (deployment.revision_number) } { "Log" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::deployments::StageEntry;

    fn with_stages(stages: &[(Stage, i64)], stage: Stage) -> Deployment {
        let stages = stages.iter().map(|(stage, at_ms)| StageEntry { stage: *stage, at_ms: *at_ms }).collect();
        Deployment { stages, stage, failure: None, ended_at_ms: None, ..samples::deployment(stage) }
    }

    #[test]
    fn how_a_build_went_follows_from_the_stages_of_its_deployment() {
        use Stage::{Building, Pending, Pulling, Starting};
        assert_eq!(build_of(&with_stages(&[(Pending, 0)], Pending)), Build::Waiting);
        assert_eq!(build_of(&with_stages(&[(Pending, 0), (Building, 5)], Building)), Build::Running { since_ms: 5 });
        let built = [(Building, 5), (Pulling, 4_000), (Starting, 9_005)];
        assert_eq!(build_of(&with_stages(&built, Starting)), Build::Done { took_ms: 9_000 });
        assert_eq!(build_of(&with_stages(&[(Building, 5), (Starting, 5)], Starting)), Build::Reused);
        let mut failed = with_stages(&[(Building, 5)], Stage::Failed);
        failed.ended_at_ms = Some(805);
        assert_eq!(build_of(&failed), Build::Ended);
        failed.failure = samples::deployment(Stage::Failed)
            .failure
            .map(|failure| api::deployments::DeploymentFailure { stage: Building, ..failure });
        assert_eq!(build_of(&failed), Build::Failed { took_ms: 800 });
    }

    #[test]
    fn each_build_leads_to_its_log_and_the_fullest_page_is_small() {
        let builds =
            vec![Deployment { source_subject: "<b>".repeat(30), ..samples::deployment(Stage::Failed) }; PAGE_SIZE];
        let page = BuildsPage {
            filter: BuildFilter::default(),
            builds,
            older_than: Some("dep_1".into()),
            names: Names::of(&[samples::stack()], &[]),
        };
        let page = page.render(&samples::frame("/builds")).into_string();
        assert!(page.contains("#logs\"") && page.contains("/builds?before=dep_1") && !page.contains("<b>"), "{page}");
        assert!(page.len() < 50_000, "{} bytes", page.len());
    }
}
