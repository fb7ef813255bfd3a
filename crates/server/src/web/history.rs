//! The revisions of a service, the way back to each, and what differs between any two.

use super::frame::{Frame, Live, breadcrumb, page};
use super::names::{service_path, stack_path};
use super::{times, words};
use api::plans::Difference;
use api::services::{Revision, ServiceView};
use maud::{Markup, html};
use std::collections::BTreeSet;

/// How many revisions the page lists.
pub const REVISIONS_SHOWN: u32 = 60;

pub struct HistoryPage {
    pub service: ServiceView,
    /// Newest first.
    pub revisions: Vec<Revision>,
    /// Numbers of those that were healthy once.
    pub ran: BTreeSet<u64>,
    /// What was asked to be compared.
    pub comparison: Option<Comparison>,
}

pub struct Comparison {
    pub from: u64,
    pub to: u64,
    pub differences: Vec<Difference>,
}

impl HistoryPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        let service = &self.service;
        let (stack, path) = (stack_path(&service.stack), service_path(&service.stack, &service.name));
        page(
            frame,
            &format!("Revisions of {}", service.name),
            Live::No,
            html! {
                (breadcrumb(&[("/", "Overview"), (&stack, service.stack.as_str()), (&path, service.name.as_str())]))
                div.title { h1 { span.kind { "Revisions of" } " " (service.name) } p.lead { "A revision is a configuration with an exact commit, and never changes. Choose two to see what differs." } }
                @if let Some(comparison) = &self.comparison { (compared(comparison)) }
                (self.list(&path, frame))
            },
        )
    }

    fn list(&self, path: &str, frame: &Frame) -> Markup {
        let newest = self.revisions.first().map(|revision| revision.number);
        let before = self.revisions.get(1).map(|revision| revision.number).or(newest);
        let (from, to) = match &self.comparison {
            Some(comparison) => (Some(comparison.from), Some(comparison.to)),
            None => (before, newest),
        };
        let choice = |name: &str, number: u64, chosen: bool| {
            html! { input type="radio" name=(name) value=(number) checked[chosen] aria-label={ @if name == "from" { "Compare revision " (number) } @else { "with revision " (number) } }; }
        };
        html! {
            section.card aria-labelledby="revisions-title" {
                form method="get" action={ (path) "/revisions" } {
                    div.card-head { h2 #revisions-title { "All revisions" } button.quiet type="submit" { "Compare" } }
                    @if self.revisions.is_empty() { p.empty { "None yet." } } @else {
                        table {
                            thead { tr { th scope="col" { "From" } th scope="col" { "To" } th scope="col" { "Revision" } th scope="col" { "Commit" } th scope="col" { "Made" } th scope="col" { span.hidden-label { "Actions" } } } }
                            tbody { @for revision in &self.revisions { @let number = revision.number; tr {
                                td data-label="From" { (choice("from", number, from == Some(number))) }
                                td data-label="To" { (choice("to", number, to == Some(number))) }
                                th scope="row" data-label="Revision" { strong { (number) } }
                                td data-label="Commit" { code title=(revision.source_version) { (revision.source_version.short()) } " " (revision.source_subject) }
                                td data-label="Made" { (times::relative(revision.created_at_ms, frame.now_ms)) }
                                td.end { (way_back(&self.service, &self.ran, number, path)) }
                            } } }
                        }
                    }
                }
            }
        }
    }
}

/// What can be done with a revision: it serves, one can go back to it, or it never came so far.
pub fn way_back(service: &ServiceView, ran: &BTreeSet<u64>, number: u64, path: &str) -> Markup {
    let current = service.current.as_ref().map(|revision| revision.number);
    let on_its_way = service.deployment.as_ref().is_some_and(|d| d.stage.in_flight() && d.revision_number == number);
    html! {
        @if current == Some(number) { (words::badge(words::Tone::Good, "Serving")) }
        @else if on_its_way || current.is_none() {}
        @else if ran.contains(&number) { a.button.quiet href={ (path) "/rollback?revision=" (number) } { "Go back to " (number) } }
        @else { span.soft title="No release of it was ever healthy here" { "Never healthy" } }
    }
}

fn compared(comparison: &Comparison) -> Markup {
    html! {
        section.card #comparison aria-labelledby="comparison-title" {
            h2 #comparison-title { "From revision " (comparison.from) " to revision " (comparison.to) }
            @if comparison.differences.is_empty() { p.empty { "They are the same, but for the branch that led to the commit." } } @else { (difference_table(&comparison.differences, ("Revision", comparison.from), ("Revision", comparison.to))) }
            p.soft { "Values of environment variables are never shown, only whether they differ." }
        }
    }
}

/// Field by field.
fn difference_table(differences: &[Difference], from: (&str, u64), to: (&str, u64)) -> Markup {
    let (from, to) = (format!("{} {}", from.0, from.1), format!("{} {}", to.0, to.1));
    differences_as(differences, &from, &to)
}

/// A table of differences, wherever a page shows some.
pub fn differences_as(differences: &[Difference], from: &str, to: &str) -> Markup {
    html! {
        table {
            thead { tr { th scope="col" { "Field" } th scope="col" { (from) } th scope="col" { (to) } } }
            tbody { @for difference in differences { tr {
                th scope="row" data-label="Field" { code { (difference.field) } }
                td data-label=(from) { @match &difference.from { Some(text) => del { (text) }, None => span.soft { "not set" } } }
                td data-label=(to) { @match &difference.to { Some(text) => ins { (text) }, None => span.soft { "not set" } } }
            } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::services::ServiceCondition;

    fn history(comparison: Option<Comparison>) -> String {
        HistoryPage {
            service: samples::service("web", ServiceCondition::Running),
            revisions: vec![samples::revision(7), samples::revision(6), samples::revision(5), samples::revision(4)],
            ran: [5, 6, 7].into(),
            comparison,
        }
        .render(&samples::frame("/stacks/shop/services/web/revisions"))
        .into_string()
    }

    #[test]
    fn every_revision_that_was_healthy_once_has_a_way_back_to_it() {
        let page = history(None);
        assert!(page.contains("rollback?revision=6\"") && page.contains("rollback?revision=5\""), "{page}");
        assert!(!page.contains("rollback?revision=7\"") && page.contains("Serving"), "{page}");
        assert!(!page.contains("rollback?revision=4\"") && page.contains("Never healthy"), "{page}");
        assert!(page.contains("name=\"from\" value=\"6\" checked") && page.contains("name=\"to\" value=\"7\" checked"));
    }

    #[test]
    fn differences_are_shown_field_by_field_and_escaped() {
        let differences = vec![Difference { field: "run.command".into(), from: Some("<a>".into()), to: None }];
        let page = history(Some(Comparison { from: 5, to: 7, differences }));
        assert!(page.contains("From revision 5 to revision 7") && page.contains("<del>&lt;a&gt;</del>"), "{page}");
        assert!(page.contains("name=\"from\" value=\"5\" checked"), "{page}");
        assert!(!page.contains("secret-value"), "{page}");
    }
}
