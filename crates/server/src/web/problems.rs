//! Pages for what went wrong: they say what, why, and what to do next.

use super::frame::{Frame, Live, page};
use super::words::prose;
use api::error::{ApiError, ErrorCode};
use maud::{Markup, html};

/// The page of an API error.
pub fn problem_page(error: &ApiError, frame: &Frame) -> Markup {
    let title = match error.code {
        ErrorCode::NotFound => "There is nothing here",
        ErrorCode::StalePlan => "The plan no longer holds",
        ErrorCode::Conflict => "That is not possible now",
        ErrorCode::TooManyRequests => "Too many tries",
        ErrorCode::DiskFull => "There is no room on the disk",
        ErrorCode::Unavailable => "Not reachable for the moment",
        ErrorCode::Internal | ErrorCode::Other => "Something broke on our side",
        _ => "That did not work",
    };
    page(
        frame,
        title,
        Live::No,
        html! {
            div.narrow {
                section.card.problem {
                    h1 { (title) }
                    p.reason { (prose(&sentence(&error.message))) }
                    (details(error))
                    @if let Some(help) = &error.help { p { (prose(&sentence(help))) } }
                    @if let Some(id) = error.request_id.as_ref().filter(|_| error.code != ErrorCode::NotFound) { p.soft { "Request " code { (id) } " in the control plane's log." } }
                    p.actions {
                        @if error.code == ErrorCode::Unauthenticated { a.button href="/login" { "Sign in" } }
                    @else { a.button href="/" { "To the overview" } " " a.button.quiet href="/events" { "What happened lately" } }
                    }
                }
            }
        },
    )
}

/// What exactly is wrong, each with its place.
pub fn details(error: &ApiError) -> Markup {
    html! {
        @if !error.details.is_empty() {
            ul.notes { @for detail in &error.details { li {
                @if let Some(field) = &detail.field { code { (field) } ": " }
                (prose(&detail.message))
                @if let Some(line) = detail.line { " (line " (line) @if let Some(column) = detail.column { ", column " (column) } ")" }
                @if let Some(help) = &detail.help { " " span.soft { (prose(help)) } }
            } } }
        }
    }
}

/// An API message as a sentence: capital letter, full stop.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else { return String::new() };
    let mut text: String = first.to_uppercase().chain(letters).collect();
    if !text.ends_with(['.', '!', '?', ':']) {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_problem_says_what_why_and_what_to_do_next() {
        let error =
            ApiError::new(ErrorCode::NotFound, "there is no stack `<shop>`").help("GET /docs lists what there is");
        let page = problem_page(&error, &samples::frame("/stacks/x")).into_string();
        for wanted in [
            "There is nothing here",
            "There is no stack <code>&lt;shop&gt;</code>.",
            "GET /docs lists what there is.",
            "href=\"/\"",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
    }
}
