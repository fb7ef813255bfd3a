//! Tokens: which there are, making one (shown this once), taking one back.

use super::frame::{Frame, Live, copyable, csrf_field, page};
use super::names::Names;
use super::{times, words};
use api::tokens::{TokenCreated, TokenPurpose, TokenState, TokenView};
use maud::{Markup, html};

pub struct TokensPage {
    pub tokens: Vec<TokenView>,
    pub names: Names,
    /// The one just made.
    pub made: Option<TokenCreated>,
}

impl TokensPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        page(
            frame,
            "Tokens",
            Live::No,
            html! {
                div.title { h1 { "Tokens" } p.lead { "A token lets a program use the API as you do, or lets one machine join." } }
                @if let Some(made) = &self.made { (shown_once(made, frame)) }
                section.card aria-labelledby="tokens-title" {
                    h2 #tokens-title { "All tokens" }
                    @if self.tokens.is_empty() { p.empty { "There is none." } } @else {
                        table {
                            thead { tr { th scope="col" { "Name" } th scope="col" { "For" } th scope="col" { "State" } th scope="col" { "Made" } th scope="col" { "Ends" } th scope="col" { span.hidden-label { "Actions" } } } }
                            tbody { @for token in &self.tokens { (self.row(token, frame)) } }
                        }
                    }
                }
                form.card.stacked method="post" action="/tokens" aria-labelledby="new-token" {
                    h2 #new-token { "Make a token for the API" }
                    (csrf_field(frame))
                    label { span { "What is it for?" } input type="text" name="name" required maxlength="80" placeholder="deploys from CI" autocomplete="off"; }
                    label { span { "How long is it good?" } select name="days" {
                        option value="30" { "30 days" } option value="90" selected { "90 days" } option value="365" { "A year" } option value="" { "Until it is revoked" }
                    } }
                    p { button type="submit" { "Make the token" } " " a href="/servers/new" { "Let a machine join instead" } }
                }
            },
        )
    }

    fn row(&self, token: &TokenView, frame: &Frame) -> Markup {
        let (tone, word) = words::token_state(token.state);
        html! {
            tr {
                th scope="row" data-label="Name" { (token.name) p.soft { code title=(token.id) { (token.id.short()) } } }
                td data-label="For" { (self.purpose(&token.purpose)) }
                td data-label="State" { (words::badge(tone, word)) @if let Some(used) = token.used_at_ms { p.soft { "used " (times::relative(used, frame.now_ms)) } } }
                td data-label="Made" { (times::relative(token.created_at_ms, frame.now_ms)) }
                td data-label="Ends" { @match token.expires_at_ms { Some(at) => (times::relative(at, frame.now_ms)), None => "never" } }
                td.end data-label="" {
                    @if token.state == TokenState::Usable {
                        form method="get" action={ "/tokens/" (token.id) "/revoke" } { button.quiet type="submit" aria-label={ "Revoke " (token.name) } { "Revoke" } }
                    }
                }
            }
        }
    }

    fn purpose(&self, purpose: &TokenPurpose) -> String {
        match purpose {
            TokenPurpose::Api => "the API".into(),
            TokenPurpose::Join { stack: Some(id), .. } => {
                format!("one machine, only for stack {}", self.names.stack(id).unwrap_or(id.short()))
            }
            TokenPurpose::Join { project: Some(project), .. } => format!("one machine of project {project}"),
            TokenPurpose::Join { .. } => "one machine".into(),
        }
    }
}

fn shown_once(made: &TokenCreated, frame: &Frame) -> Markup {
    html! {
        section.card.once aria-labelledby="made-title" role="status" {
            h2 #made-title { span.symbol aria-hidden="true" { "●" } " Here is the token for " (made.view.name) }
            p { "Copy it now: it is not kept here and cannot be shown again." }
            (copyable(made.token.expose()))
            p.soft { "With it, from anywhere:" }
            (copyable(&format!("MAINSTAY_SERVER={} MAINSTAY_TOKEN={} mainstay status", frame.address, made.token.expose())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::secret::Secret;

    fn tokens_page(made: Option<TokenCreated>) -> String {
        let tokens = vec![
            samples::token(1, TokenState::Usable, TokenPurpose::Api),
            samples::token(2, TokenState::Used, TokenPurpose::Join { project: None, stack: None }),
        ];
        TokensPage { tokens, names: Names::default(), made }.render(&samples::frame("/tokens")).into_string()
    }

    #[test]
    fn a_token_is_shown_once_after_it_was_made_and_not_in_the_list() {
        let view = samples::token(1, TokenState::Usable, TokenPurpose::Api);
        let page = tokens_page(Some(TokenCreated { token: Secret::new("mst_very-secret"), view }));
        assert!(page.contains("mst_very-secret") && page.contains("cannot be shown again"));
        assert!(!tokens_page(None).contains("mst_very-secret"));
    }

    #[test]
    fn only_a_usable_token_can_be_revoked_and_names_are_escaped() {
        let page = tokens_page(None);
        assert_eq!(page.matches("/revoke\"").count(), 1);
        assert!(page.contains("laptop &lt;of anna&gt;") && !page.contains("<of anna>"));
    }
}
