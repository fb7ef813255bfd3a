//! All lines of a log that are kept: searched in full, paged back, one line with its surroundings, and as a file.
//!
//! The panel on a service's page is a window on the newest lines. This page is for the rest. It stands still:
//! what one reads does not move away.

use super::frame::{Frame, Live, breadcrumb, page};
use super::logs::{LineShape, line, newest_that_fit};
use super::names::{Place, query, service_path, stack_path};
use super::reads::LogQuery;
use crate::error::Result;
use crate::views;
use api::UnixMillis;
use api::ids::ServiceId;
use api::logs::LogRecord;
use api::name::Name;
use maud::{Markup, html};
use store::LogFilter;

/// What is looked at, as the query of the page says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub struct LogPlace {
    /// Text that a line has to hold.
    #[serde(default)]
    pub filter: String,
    /// Only lines before this sequence number: the next page back.
    #[serde(default)]
    pub before: Option<i64>,
    /// This line and what is around it.
    #[serde(default)]
    pub at: Option<i64>,
    /// How long ago the lines begin and end: a word of [`AGES`].
    #[serde(default)]
    pub since: String,
    #[serde(default)]
    pub until: String,
    /// Only of this instance.
    #[serde(default)]
    pub instance: String,
    /// Only of the instances of this deployment.
    #[serde(default)]
    pub deployment: String,
}

/// How long ago, as a word of the address, for people, and in seconds.
const AGES: [(&str, &str, i64); 6] = [
    ("10m", "10 minutes ago", 600),
    ("1h", "an hour ago", 3_600),
    ("6h", "6 hours ago", 6 * 3_600),
    ("1d", "a day ago", 86_400),
    ("2d", "two days ago", 2 * 86_400),
    ("7d", "a week ago", 7 * 86_400),
];

fn moment(age: &str) -> Option<UnixMillis> {
    let (_, _, seconds) = AGES.into_iter().find(|(word, _, _)| *word == age)?;
    Some(ambient::now_ms() - seconds * 1_000)
}

impl LogPlace {
    /// The lines that are meant, of this service, whatever is searched for in them.
    pub fn chosen(&self, service: ServiceId) -> Result<LogFilter> {
        fn id<T: std::str::FromStr>(noun: &str, text: &str) -> Result<Option<T>> {
            if text.is_empty() { Ok(None) } else { views::parse(noun, text).map(Some) }
        }
        Ok(LogFilter {
            since_ms: moment(&self.since),
            until_ms: moment(&self.until),
            instance_id: id("instance", &self.instance)?,
            deployment_id: id("deployment", &self.deployment)?,
            ..LogQuery::Service(service).filter(None, 0)
        })
    }

    fn query(&self, before: Option<i64>) -> String {
        let fields = [
            ("filter", &self.filter),
            ("since", &self.since),
            ("until", &self.until),
            ("instance", &self.instance),
            ("deployment", &self.deployment),
        ];
        query(&fields, before.map(Place::Before))
    }
}

pub struct LogPage {
    pub stack: Name,
    pub service: Name,
    pub place: LogPlace,
    /// Oldest first.
    pub records: Vec<LogRecord>,
    /// There may be older ones before this sequence number.
    pub older_than: Option<i64>,
}

impl LogPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        let (stack, service) = (stack_path(&self.stack), service_path(&self.stack, &self.service));
        let path = format!("{service}/logs");
        let shape = LineShape { show_instance: true, link: "logs".into() };
        let kept = newest_that_fit(&self.records, &shape);
        let cut = self.records.len() - kept.len();
        let older = if cut > 0 { self.records.get(cut).map(|record| record.sequence) } else { self.older_than };
        page(
            frame,
            &format!("Logs of {}", self.service),
            Live::No,
            html! {
                (breadcrumb(&[("/", "Overview"), (&stack, self.stack.as_str()), (&service, self.service.as_str())]))
                div.title { h1 { span.kind { "Logs of" } " " (self.service) } }
                form.card.filters method="get" action=(path) role="search" aria-label="Search the log" {
                    label { span { "Lines that hold" } input type="search" name="filter" value=(self.place.filter) maxlength="200" autocomplete="off"; }
                    (age("since", "From", "the beginning", &self.place.since))
                    (age("until", "Until", "now", &self.place.until))
                    @if !self.place.instance.is_empty() { label { span { "Instance" } input type="text" name="instance" value=(self.place.instance) maxlength="40" autocomplete="off"; } }
                    @if !self.place.deployment.is_empty() { label { span { "Deployment" } input type="text" name="deployment" value=(self.place.deployment) maxlength="40" autocomplete="off"; } }
                    button type="submit" { "Search" }
                    a.button.quiet href={ (path) ".txt?" (self.place.query(None)) } download title="Every line that is kept, or that was chosen here" { "Download" }
                    @if self.place != LogPlace::default() { a.button.quiet href=(path) { "Newest lines" } }
                }
                section.card aria-label="Log lines" {
                    @if kept.is_empty() {
                        p.empty {
                            @if self.place.filter.is_empty() { "There is no line here." } @else { "No line among those that were looked at holds “" (self.place.filter) "”." }
                        }
                    } @else {
                        div.log.whole tabindex="0" role="log" aria-live="off" aria-label="Log lines" {
                            @for record in &self.records[cut..] { @let marked = self.place.at == Some(record.sequence);
                                @if marked { div.marked { (line(record, &shape)) } } @else { (line(record, &shape)) }
                            }
                        }
                    }
                    nav.paging aria-label="Pages" {
                        @if let Some(before) = older { a.button.quiet href={ (path) "?" (self.place.query(Some(before))) } rel="next" { "Older" } }
                    }
                }
            },
        )
    }
}

/// A choice of how long ago.
fn age(field: &str, label: &str, none: &str, chosen: &str) -> Markup {
    html! {
        label { span { (label) } select name=(field) {
            option value="" { (none) }
            @for (word, text, _) in AGES { option value=(word) selected[word == chosen] { (text) } }
        } }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn shown(place: LogPlace, records: Vec<LogRecord>) -> String {
        let (stack, service) = ("shop".parse().unwrap(), "web".parse().unwrap());
        LogPage { stack, service, place, records, older_than: Some(11) }
            .render(&samples::frame("/stacks/shop/services/web/logs"))
            .into_string()
    }

    #[test]
    fn a_line_has_an_address_and_the_search_is_kept_from_page_to_page() {
        let place = LogPlace { filter: "a&b".into(), at: Some(12), ..LogPlace::default() };
        let page = shown(place, vec![samples::log(11, "a&b one"), samples::log(12, "a&b <two>")]);
        for wanted in [
            "href=\"logs?at=12#l12\"",
            "id=\"l12\"",
            "&lt;two&gt;",
            "href=\"/stacks/shop/services/web/logs?filter=a%26b&amp;before=11\"",
            "href=\"/stacks/shop/services/web/logs.txt?filter=a%26b\"",
            "value=\"a&amp;b\"",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
    }

    #[test]
    fn the_page_is_small_whatever_is_in_the_log_and_goes_on_where_it_was_cut() {
        let records: Vec<_> = (0..200).map(|n| samples::log(n, &"<>&\"".repeat(100))).collect();
        let page = shown(LogPlace::default(), records);
        assert!(page.len() < 50_000, "{} bytes", page.len());
        let first: i64 = page.split("data-seq=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
        assert!(first > 0 && page.contains(&format!("before={first}\"")), "{page}");
    }
}
