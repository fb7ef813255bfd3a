//! Before something is done that people would miss: a page that says what will happen, and the one button.
//!
//! A page and not a dialog, so that it is the same with and without a script, can be read in peace, and has an
//! address. Names that have to be written out are for what cannot be undone; those forms are on their own pages.

use super::frame::{Frame, Live, breadcrumb, csrf_field, page};
use super::words::prose;
use maud::{Markup, html};

/// A field for a number from zero on.
pub struct Number {
    pub name: &'static str,
    pub label: String,
    pub most: u32,
    pub value: u32,
}

#[derive(Default)]
pub struct ConfirmPage {
    /// `Stop web?`
    pub title: String,
    /// What will happen, a sentence each.
    pub what: Vec<String>,
    /// Details beside that.
    pub more: Option<Markup>,
    /// How it is undone.
    pub undo: Option<String>,
    /// Where the form goes, and what it carries.
    pub action: String,
    pub fields: Vec<(&'static str, String)>,
    /// What is still to be said.
    pub choice: Option<Number>,
    /// `Stop web`
    pub button: String,
    /// Whether somebody may be cut off by it.
    pub hurts: bool,
    pub back: String,
    pub back_name: String,
}

impl ConfirmPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        page(
            frame,
            &self.title,
            Live::No,
            html! {
                (breadcrumb(&[("/", "Overview"), (&self.back, &self.back_name)]))
                div.narrow {
                    section.card aria-labelledby="confirm-title" {
                        h1 #confirm-title { (self.title) }
                        ul.notes { @for sentence in &self.what { li { (prose(sentence)) } } }
                        @if let Some(more) = &self.more { (more) }
                        @if let Some(undo) = &self.undo { p.soft { (prose(undo)) } }
                        form.actions method="post" action=(self.action) {
                            (csrf_field(frame))
                            @for (name, value) in &self.fields { input type="hidden" name=(name) value=(value); }
                            @if let Some(Number { name, label, most, value }) = &self.choice {
                                label { span { (label) } input type="number" name=(name) min="0" max=(most) value=(value) required; }
                            }
                            button.bad[self.hurts] type="submit" { (self.button) }
                            a.button.quiet href=(self.back) { "Leave it as it is" }
                        }
                    }
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn what_will_happen_is_said_before_the_button_and_there_is_a_way_back() {
        let page = ConfirmPage {
            title: "Stop <web>?".into(),
            what: vec!["Visitors get an error from then on.".into()],
            more: None,
            undo: Some("Start it again at any time.".into()),
            action: "/stacks/shop/services/web/stop".into(),
            fields: vec![("revision", "7".into())],
            choice: None,
            button: "Stop web".into(),
            hurts: true,
            back: "/stacks/shop/services/web".into(),
            back_name: "web".into(),
        };
        let page = page.render(&samples::frame("/")).into_string();
        for wanted in [
            "Stop &lt;web&gt;?",
            "name=\"csrf\" value=\"csrf-token\"",
            "name=\"revision\" value=\"7\"",
            "<button class=\"bad\" type=\"submit\">Stop web</button>",
            "href=\"/stacks/shop/services/web\">Leave it as it is</a>",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
        assert!(page.find("Visitors get an error").unwrap() < page.find("Stop web</button>").unwrap());
    }
}
