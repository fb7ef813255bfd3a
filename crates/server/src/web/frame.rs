//! What every page has around it: head, navigation, message, footer.
//!
//! A page is a pure function from views (the `api` types) and a [`Frame`] to markup. The frame holds
//! the little that a page needs to know about the request: who asks, the token that its forms must
//! carry, the message to show once, and what time it is. No page reads a clock or a database.

use super::assets;
use api::UnixMillis;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Around one page.
#[derive(Debug, Clone)]
pub struct Frame {
    /// `None`: nobody is signed in, so there is no navigation and no form.
    pub user: Option<String>,
    /// Every form that changes something sends it back.
    pub csrf: String,
    pub now_ms: UnixMillis,
    pub version: String,
    /// Path of the page, for the navigation.
    pub path: String,
    pub message: Option<Message>,
    /// Address under which this control plane is reached, for commands to copy.
    pub address: String,
}

/// Shown once after a form was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub good: bool,
    pub text: String,
    /// The way to take it back.
    pub undo: Option<Undo>,
}

/// A link to the page that asks whether to take something back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    pub label: String,
    pub path: String,
}

impl Message {
    pub fn good(text: impl Into<String>) -> Self {
        Self { good: true, text: text.into(), undo: None }
    }

    pub fn bad(text: impl Into<String>) -> Self {
        Self { good: false, text: text.into(), undo: None }
    }

    pub fn undo(self, label: impl Into<String>, path: impl Into<String>) -> Self {
        Self { undo: Some(Undo { label: label.into(), path: path.into() }), ..self }
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::good(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::good(text)
    }
}

/// A part of a page that the live stream may replace: its outermost element has this id.
pub struct Fragment {
    pub id: &'static str,
    pub markup: Markup,
}

impl Fragment {
    pub fn new(id: &'static str, markup: Markup) -> Self {
        Self { id, markup }
    }
}

/// How a page is kept up to date.
pub enum Live<'a> {
    /// Nothing on it moves.
    No,
    /// Path of the stream with its query: `/live?page=…`.
    From(&'a str),
}

const NAVIGATION: [(&str, &str); 8] = [
    ("/", "Overview"),
    ("/services", "Services"),
    ("/servers", "Servers"),
    ("/events", "Events"),
    ("/builds", "Builds"),
    ("/tokens", "Tokens"),
    ("/settings", "Settings"),
    ("/docs", "API"),
];

/// The whole document.
pub fn page(frame: &Frame, title: &str, live: Live<'_>, main: Markup) -> Markup {
    let live = match live {
        Live::No => None,
        Live::From(address) => Some(address),
    };
    html! {
        (DOCTYPE)
        html lang="en" data-now=(frame.now_ms) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Mainstay" }
                link rel="stylesheet" href=(assets::style_path());
                link rel="icon" href=(assets::icon_path()) type="image/svg+xml";
                script src=(assets::script_path()) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                (header(frame))
                main #main data-live=[live] tabindex="-1" {
                    @if live.is_some() {
                        noscript { p.note { "This page is kept up to date by a script, and scripts are off. " a href=(frame.path) { "Load it again" } " to see what is new." } }
                    }
                    (message(frame.message.as_ref()))
                    (main)
                }
                (footer(frame))
            }
        }
    }
}

fn header(frame: &Frame) -> Markup {
    html! {
        header.top {
            div.wrap {
                a.brand href="/" { (mark()) span { "Mainstay" } }
                @if let Some(user) = &frame.user {
                    nav aria-label="Main" {
                        ul {
                            @for (path, name) in NAVIGATION {
                                li { a href=(path) aria-current=[current(&frame.path, path)] { (name) } }
                            }
                        }
                    }
                    div.account {
                        span.live-state #live-state role="status" hidden {}
                        span.user title="Signed in as" { (user) }
                        a.button.quiet.find #find href="/search" aria-keyshortcuts="Control+K" title="Find anything, or do something (Ctrl+K)" { "Search" }
                        form method="post" action="/logout" {
                            (csrf_field(frame))
                            button.quiet type="submit" { "Sign out" }
                        }
                    }
                }
            }
        }
    }
}

/// `page` for the page itself, `true` for one below it.
fn current(path: &str, entry: &str) -> Option<&'static str> {
    if path == entry {
        return Some("page");
    }
    let below = match entry {
        "/services" => path.starts_with("/stacks/") || path.starts_with("/deployments/"),
        "/" => false,
        entry => path.strip_prefix(entry).is_some_and(|rest| rest.starts_with('/')),
    };
    below.then_some("true")
}

fn footer(frame: &Frame) -> Markup {
    html! {
        footer.bottom {
            div.wrap {
                span { "Mainstay " (frame.version) }
                span { "All times are UTC; hover over one for the exact moment." }
                button.quiet.script-only #shortcuts type="button" hidden { "Keyboard shortcuts" }
                a href="/docs" { "API reference" }
            }
        }
    }
}

fn message(message: Option<&Message>) -> Markup {
    html! {
        @if let Some(message) = message {
            div.message.good[message.good].bad[!message.good] role=(if message.good { "status" } else { "alert" }) {
                span.symbol aria-hidden="true" { @if message.good { "●" } @else { "✕" } }
                p { (super::words::prose(&message.text)) @if let Some(undo) = &message.undo { " " a href=(undo.path) { (undo.label) } } }
            }
        }
    }
}

/// The hidden field that every form that changes something carries.
pub fn csrf_field(frame: &Frame) -> Markup {
    html! { input type="hidden" name="csrf" value=(frame.csrf); }
}

/// Where a page hangs: the way back to the overview.
pub fn breadcrumb(steps: &[(&str, &str)]) -> Markup {
    html! {
        nav.breadcrumb aria-label="Where you are" {
            ol { @for (path, name) in steps { li { a href=(path) { (name) } } } }
        }
    }
}

/// A command or another text that is there to be copied. Without a script it can be selected whole.
pub fn copyable(text: &str) -> Markup {
    html! { div.copyable { code tabindex="0" { (text) } button.quiet type="button" data-copy hidden { "Copy" } } }
}

/// Mast, stays and hull.
fn mark() -> Markup {
    PreEscaped(
        r#"<svg class="mark" viewBox="0 0 24 24" width="26" height="26" aria-hidden="true" focusable="false"><path class="stay" d="M12 2.5 3.5 16.5M12 2.5l8.5 14"/><path class="mast" d="M12 2v15"/><path class="hull" d="M2.5 17.5h19l-2.6 4.2H5.1z"/></svg>"#
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn every_page_has_landmarks_a_title_and_a_skip_link() {
        let page = page(&samples::frame("/servers"), "Servers <1>", Live::No, html! { h1 { "Servers" } }).into_string();
        for wanted in [
            "<title>Servers &lt;1&gt; · Mainstay</title>",
            "class=\"skip\" href=\"#main\"",
            "<main id=\"main\"",
            "<nav aria-label=\"Main\"",
            "<header",
            "<footer",
            "lang=\"en\"",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
        assert!(page.contains("href=\"/servers\" aria-current=\"page\""), "{page}");
    }

    #[test]
    fn nobody_signed_in_means_no_navigation() {
        let frame = Frame { user: None, ..samples::frame("/login") };
        let page = page(&frame, "Sign in", Live::No, html! {}).into_string();
        assert!(!page.contains("/logout") && !page.contains("aria-label=\"Main\""));
    }

    #[test]
    fn a_page_below_a_navigation_entry_marks_it() {
        assert_eq!(current("/stacks/shop", "/services"), Some("true"));
        assert_eq!(current("/servers/web-1", "/servers"), Some("true"));
        assert_eq!(current("/serversx", "/servers"), None);
    }

    #[test]
    fn a_message_is_escaped_and_announced() {
        let frame =
            Frame { message: Some(Message::bad("<script>x</script>").undo("Undo", "/x")), ..samples::frame("/") };
        let page = page(&frame, "Overview", Live::No, html! {}).into_string();
        assert!(page.contains("role=\"alert\"") && page.contains("&lt;script&gt;x"), "{page}");
        assert!(page.contains("<a href=\"/x\">Undo</a>"), "{page}");
    }
}
