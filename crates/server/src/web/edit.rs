//! Changing a stack's configuration here: its manifest as text, then the plan, then the deploy.
//!
//! The text is the manifest with the values of environment variables hidden; a value that is left hidden stays
//! what it is. Nothing is kept between the steps: each form carries the text, and the plan's fingerprint sees
//! to it that what was agreed to is what happens.

use super::frame::{Frame, Live, breadcrumb, csrf_field, page};
use super::names::stack_path;
use super::problems::{details, sentence};
use super::words::prose;
use api::error::ApiError;
use api::name::Name;
use maud::{Markup, html};

/// Longest manifest that a page takes.
pub const TEXT_LIMIT: usize = 32 * 1024;

pub struct EditPage {
    pub stack: Name,
    pub text: String,
    /// What is wrong with the text that was sent.
    pub problem: Option<ApiError>,
}

impl EditPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        let path = stack_path(&self.stack);
        page(
            frame,
            &format!("Configuration of {}", self.stack),
            Live::No,
            html! {
                (breadcrumb(&[("/", "Overview"), (&path, self.stack.as_str())]))
                div.title {
                    h1 { span.kind { "Configuration of" } " " (self.stack) }
                    p.lead { "Change the manifest and look at what would happen. Nothing happens before you agree." }
                }
                @if let Some(problem) = &self.problem {
                    section.card.failure role="alert" aria-labelledby="edit-problem" {
                        h2 #edit-problem { span.symbol aria-hidden="true" { "✕" } " " (prose(&sentence(&problem.message))) }
                        (details(problem))
                        @if let Some(help) = &problem.help { p { (prose(&sentence(help))) } }
                    }
                }
                form.card.editor method="post" action={ (path) "/plan" } {
                    (csrf_field(frame))
                    @if self.text.len() > TEXT_LIMIT {
                        p { "This manifest is too long to be changed on a page. Change it in its repository, and run " code { "mainstay deploy" } " there." }
                    } @else {
                        label for="manifest" { span { "Manifest" } }
                        textarea #manifest name="manifest" rows="24" spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off" aria-describedby="manifest-notes" required { "\n" (self.text) }
                        ul.notes #manifest-notes {
                            li { "A value that reads " code { "\"(hidden)\"" } " stays as it is." }
                            li { "A " code { "mainstay.toml" } " in the repository is not changed by this: the next deploy from there brings its own settings back. Carry the change over to it." }
                        }
                        div.actions { button type="submit" { "Show the plan" } a.button.quiet href=(path) { "Leave it as it is" } }
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
    use api::error::{ErrorCode, ErrorDetail};

    #[test]
    fn the_text_is_escaped_and_what_is_wrong_with_it_is_said_with_its_place() {
        let mut problem = ApiError::new(ErrorCode::InvalidManifest, "the manifest has 1 problem; nothing was changed");
        problem.details = vec![ErrorDetail {
            field: Some("services.web.replica".into()),
            line: Some(4),
            column: Some(1),
            message: "there is no setting `replica`".into(),
            help: Some("did you mean `replicas`?".into()),
        }];
        let page = EditPage {
            stack: "shop".parse().unwrap(),
            text: "name = \"shop\" # </textarea><script>".into(),
            problem: Some(problem),
        };
        let page = page.render(&samples::frame("/stacks/shop/edit")).into_string();
        for wanted in [
            "&lt;/textarea&gt;&lt;script&gt;",
            "action=\"/stacks/shop/plan\"",
            "there is no setting <code>replica</code>",
            "(line 4, column 1)",
            "did you mean",
            "name=\"csrf\"",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
    }

    #[test]
    fn a_manifest_that_is_too_long_is_not_put_into_a_page() {
        let page = EditPage { stack: "shop".parse().unwrap(), text: "#".repeat(TEXT_LIMIT + 1), problem: None };
        let page = page.render(&samples::frame("/stacks/shop/edit")).into_string();
        assert!(page.len() < 50_000 && page.contains("too long") && !page.contains("<textarea"), "{page}");
    }
}
