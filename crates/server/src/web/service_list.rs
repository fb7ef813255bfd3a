//! All services, a page at a time: searched by text, stack and condition, however many there are.

use super::frame::{Fragment, Frame, Live, page};
use super::names::{Place, query};
use super::stacks::service_table;
use super::words;
use crate::views::ServicePage;
use api::services::ServiceCondition;
use maud::{Markup, html};
use store::ServiceCursor;

/// How many services one page holds.
pub const PAGE_SIZE: u32 = 40;

/// What the list is narrowed to, and where its page lies, as the query of the page says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub struct ServiceListFilter {
    /// A part of `stack/service`.
    #[serde(default)]
    pub search: String,
    #[serde(default)]
    pub stack: String,
    #[serde(default)]
    pub condition: String,
    /// `stack/service`: the page begins behind it.
    #[serde(default)]
    pub after: String,
    /// `stack/service`: the page ends before it.
    #[serde(default)]
    pub before: String,
}

pub const CONDITIONS: [(&str, ServiceCondition); 6] = [
    ("down", ServiceCondition::Down),
    ("unknown", ServiceCondition::Unknown),
    ("degraded", ServiceCondition::Degraded),
    ("deploying", ServiceCondition::Deploying),
    ("running", ServiceCondition::Running),
    ("stopped", ServiceCondition::Stopped),
];

impl ServiceListFilter {
    pub fn condition(&self) -> Option<ServiceCondition> {
        CONDITIONS.iter().find(|(key, _)| *key == self.condition).map(|(_, condition)| *condition)
    }

    pub fn cursor(&self) -> Option<ServiceCursor> {
        let split = |text: &str| text.split_once('/').map(|(stack, service)| (stack.to_owned(), service.to_owned()));
        let after = split(&self.after).map(|(stack, service)| ServiceCursor::After(stack, service));
        after.or_else(|| split(&self.before).map(|(stack, service)| ServiceCursor::Before(stack, service)))
    }

    /// The query of a page with the same filter; `place`: its cursor.
    pub fn query(&self, place: Option<Place<'_>>) -> String {
        query(&[("search", &self.search), ("stack", &self.stack), ("condition", &self.condition)], place)
    }

    /// The query of this very page.
    fn own_query(&self) -> String {
        let place = [("after", self.after.as_str()), ("before", self.before.as_str())];
        let place = place.into_iter().find(|(_, name)| !name.is_empty());
        self.query(place.map(|(word, name)| Place::Named(word, name)))
    }

    fn narrows(&self) -> bool {
        !self.search.is_empty() || !self.stack.is_empty() || !self.condition.is_empty()
    }
}

pub struct ServiceListPage {
    pub filter: ServiceListFilter,
    pub found: ServicePage,
    /// To choose from.
    pub stacks: Vec<String>,
}

impl ServiceListPage {
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        vec![Fragment::new("services", self.table(frame))]
    }

    pub fn render(&self, frame: &Frame) -> Markup {
        let live = format!("/live/services/stream?{}", self.filter.own_query());
        page(
            frame,
            "Services",
            Live::From(&live),
            html! {
                div.title { h1 { "Services" } p.lead { "Everything that runs here, by stack and name." } }
                (self.form())
                (self.table(frame))
            },
        )
    }

    fn form(&self) -> Markup {
        html! {
            form.card.filters method="get" action="/services" role="search" aria-label="Filter services" {
                label { span { "Name" } input type="search" name="search" value=(self.filter.search) placeholder="part of stack/service" maxlength="81" autocomplete="off"; }
                (words::suggested("stack", "Stack", &self.filter.stack, &self.stacks))
                label { span { "Condition" } select name="condition" {
                    option value="" { "Any" }
                    @for (key, condition) in CONDITIONS { option value=(key) selected[self.filter.condition == key] { (words::service_condition(condition).1) } }
                } }
                button type="submit" { "Show" }
                @if self.filter.narrows() { a.button.quiet href="/services" { "Clear" } }
            }
        }
    }

    fn table(&self, frame: &Frame) -> Markup {
        let services = &self.found.services;
        let name = |service: Option<&api::services::ServiceView>| service.map(|s| format!("{}/{}", s.stack, s.name));
        let (first, last) = (name(services.first()), name(services.last()));
        let backwards = !self.filter.before.is_empty();
        // A page that was read backwards has something behind it: where it was read from.
        let older = backwards || self.found.more;
        let newer = if backwards { self.found.more } else { !self.filter.after.is_empty() };
        html! {
            section.card #services aria-labelledby="services-title" {
                h2 #services-title { @match self.found.total {
                    Some(total) => (words::count(usize::try_from(total).unwrap_or(usize::MAX), "service", "services")),
                    None => "Services of this condition",
                } }
                @if services.is_empty() {
                    p.empty { @if self.filter.narrows() { "No service fits this filter." } @else { "Nothing runs here yet. " a href="/" { "The overview" } " shows how to deploy a first service." } }
                } @else { (service_table(services, true, frame)) }
                nav.paging aria-label="Pages" {
                    @if newer && let Some(first) = &first {
                        a.button.quiet href={ "/services?" (self.filter.query(None)) } { "First" }
                        a.button.quiet href={ "/services?" (self.filter.query(Some(Place::Named("before", first)))) } rel="prev" { "Previous" }
                    }
                    @if older && let Some(last) = &last { a.button.quiet href={ "/services?" (self.filter.query(Some(Place::Named("after", last)))) } rel="next" { "Next" } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn shown(filter: ServiceListFilter, more: bool) -> String {
        let services = ["api", "web"].map(|name| samples::service(name, ServiceCondition::Running)).to_vec();
        let found = ServicePage { services, total: Some(10_000), more };
        ServiceListPage { filter, found, stacks: vec!["shop".into()] }
            .render(&samples::frame("/services"))
            .into_string()
    }

    #[test]
    fn the_first_page_leads_on_and_says_how_many_there_are() {
        let page = shown(ServiceListFilter { search: "a&b".into(), ..Default::default() }, true);
        for wanted in [
            "10000 services",
            "href=\"/stacks/shop/services/api\"",
            "href=\"/services?search=a%26b&amp;after=shop%2Fweb\" rel=\"next\"",
            "data-live=\"/live/services/stream?search=a%26b\"",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
        assert!(!page.contains("rel=\"prev\""), "{page}");
    }

    #[test]
    fn a_page_in_the_middle_leads_both_ways_and_the_last_one_back() {
        let middle = shown(ServiceListFilter { after: "a/b".into(), ..Default::default() }, true);
        assert!(middle.contains("before=shop%2Fapi\" rel=\"prev\"") && middle.contains("rel=\"next\""), "{middle}");
        let last = shown(ServiceListFilter { after: "a/b".into(), ..Default::default() }, false);
        assert!(last.contains("rel=\"prev\"") && !last.contains("rel=\"next\""), "{last}");
        let read_backwards = shown(ServiceListFilter { before: "x/y".into(), ..Default::default() }, false);
        assert!(
            !read_backwards.contains("rel=\"prev\"") && read_backwards.contains("rel=\"next\""),
            "{read_backwards}"
        );
    }

    #[test]
    fn the_fullest_page_is_small() {
        let long = "a-name-that-is-as-long-as-names-may-be-1";
        let services = vec![samples::service(long, ServiceCondition::Down); PAGE_SIZE as usize];
        let stacks = (0..100).map(|n| format!("a-name-that-is-as-long-as-names-may-{n}")).collect();
        let found = ServicePage { services, total: Some(10_000), more: true };
        let page = ServiceListPage { filter: Default::default(), found, stacks }.render(&samples::frame("/services"));
        assert!(page.0.len() < 50_000, "{} bytes", page.0.len());
    }
}
