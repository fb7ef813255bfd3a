//! Instances with their three facts side by side: what is wanted, what traffic they get, and what
//! the machine says. Never one blurred status.

use super::deployments::probe_text;
use super::frame::Frame;
use super::logs::plain_tail;
use super::names::server_path;
use super::{times, words};
use api::observed::{InstanceObserved, InstanceState};
use api::services::InstanceView;
use maud::{Markup, html};

/// Most instances that a page shows.
const INSTANCES_SHOWN: usize = 5;

/// Those with trouble first, where not all are shown.
fn shown(instances: &[InstanceView]) -> Vec<&InstanceView> {
    let mut shown: Vec<&InstanceView> = instances.iter().collect();
    if shown.len() > INSTANCES_SHOWN {
        let well = |i: &InstanceView| i.observed.as_ref().is_some_and(|seen| seen.state == InstanceState::Healthy);
        shown.sort_by_key(|instance| well(instance));
        shown.truncate(INSTANCES_SHOWN);
    }
    shown
}

/// `logs` is the page of all lines of the service.
pub fn table(instances: &[InstanceView], logs: &str, frame: &Frame) -> Markup {
    let shown = shown(instances);
    html! {
        section.card #instances aria-labelledby="instances-title" {
            h2 #instances-title { "Instances" }
            @if instances.is_empty() { p.empty { "None: nothing of this service is wanted on any server." } } @else {
                table {
                    thead { tr {
                        th scope="col" { "Instance" } th scope="col" { "Revision" }
                        th scope="col" title="What is wanted of it" { "Intent" }
                        th scope="col" title="Its part in serving requests" { "Traffic" }
                        th scope="col" title="What the machine says" { "Observed" }
                        th scope="col" { "Restarts" } th scope="col" { "Memory" }
                    } }
                    tbody { @for instance in &shown { (rows(instance, logs, frame)) } }
                }
                @if shown.len() < instances.len() { p.soft { "And " (instances.len() - shown.len()) " more; these are the ones that need a look first. All: " code { "mainstay status --json" } "." } }
            }
        }
    }
}

fn rows(instance: &InstanceView, logs: &str, frame: &Frame) -> Markup {
    let (intent_tone, intent) = words::instance_intent(instance.intent);
    let (traffic_tone, traffic) = words::traffic(instance.traffic);
    let observed = instance.observed.as_ref();
    html! {
        tr {
            th scope="row" data-label="Instance" {
                "#" (instance.ordinal) " on " a href=(server_path(&instance.server)) { (instance.server) }
                p.soft { a href={ (logs) "?instance=" (instance.id) } title="Its log" { code { (instance.id.short()) } } @if let Some(port) = observed.and_then(|o| o.port) { " port " (port) } @if let Some(pid) = observed.and_then(|o| o.pid) { " pid " (pid) } }
            }
            td data-label="Revision" { (instance.revision_number) }
            td data-label="Intent" { (words::fact(intent_tone, intent)) }
            td data-label="Traffic" { (words::fact(traffic_tone, traffic)) }
            td data-label="Observed" { (observed_fact(observed, frame)) }
            td data-label="Restarts" { @match observed { Some(observed) => (observed.restarts), None => "–" } }
            td data-label="Memory" { @match observed.and_then(|o| o.memory_bytes) { Some(size) => (times::bytes_text(size)), None => "–" } }
        }
        @if let Some(observed) = observed && has_more(observed) {
            tr.more { td colspan="7" { (more(observed, frame)) } }
        }
    }
}

fn observed_fact(observed: Option<&InstanceObserved>, frame: &Frame) -> Markup {
    let Some(observed) = observed else {
        return words::fact(words::Tone::Unknown, "Not reported yet");
    };
    let (tone, word) = words::instance_state(observed.state);
    html! {
        (words::fact(tone, word))
        @if observed.crash_looping { " " (words::badge(words::Tone::Bad, "Crash loop")) }
        @if observed.stopping { " " span.soft { "stopping" } }
        @if let Some(started) = observed.started_at_ms { p.soft { "for " (times::since(started, frame.now_ms)) } }
    }
}

fn has_more(observed: &InstanceObserved) -> bool {
    observed.problem.is_some() || observed.last_probe.is_some() || observed.last_exit.is_some()
}

fn more(observed: &InstanceObserved, frame: &Frame) -> Markup {
    html! {
        @if let Some(problem) = &observed.problem { p.reason { (words::prose(problem)) } }
        @if let Some(probe) = &observed.last_probe { p.soft { "Last check: " (probe_text(probe, frame)) } }
        @if let Some(exit) = &observed.last_exit { p.soft { "Before that it " (observed.last_end()) " " (times::relative(exit.at_ms, frame.now_ms)) "." } }
        @if observed.problem.is_some() && !observed.log_tail.is_empty() { (plain_tail(&observed.log_tail)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_three_facts_stand_side_by_side() {
        let page = table(&[samples::instance(0, InstanceState::Unhealthy)], "logs", &samples::frame("/")).into_string();
        for wanted in [
            "data-label=\"Intent\"",
            "Run",
            "data-label=\"Traffic\"",
            "Candidate",
            "data-label=\"Observed\"",
            "Unhealthy",
            "Crash loop",
            "the &lt;health&gt; check failed",
            "exited with code 1",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
    }

    #[test]
    fn of_very_many_instances_those_with_trouble_are_shown_and_the_others_counted() {
        let mut instances: Vec<_> = (0..99).map(|n| samples::instance(n, InstanceState::Healthy)).collect();
        instances.push(samples::instance(99, InstanceState::Unhealthy));
        let page = table(&instances, "logs", &samples::frame("/")).into_string();
        assert!(page.contains("#99 on") && page.contains("And 95 more"), "{page}");
    }

    #[test]
    fn what_was_not_reported_is_not_guessed() {
        let mut instance = samples::instance(0, InstanceState::Healthy);
        instance.observed = None;
        let page = table(&[instance], "logs", &samples::frame("/")).into_string();
        assert!(page.contains("Not reported yet") && !page.contains("Healthy"), "{page}");
    }
}
