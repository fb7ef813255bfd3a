//! Signing in.

use super::frame::{Frame, Live, csrf_field, page};
use maud::{Markup, html};

pub struct SignInPage {
    /// The name to fill in again after a wrong try.
    pub user: String,
    /// Why the last try was refused.
    pub problem: Option<String>,
    /// File on the control plane's machine that holds the first password, while it is there.
    pub password_file: Option<String>,
    /// Where to go on to.
    pub next: String,
}

impl SignInPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        page(
            frame,
            "Sign in",
            Live::No,
            html! {
                div.narrow {
                    form.card.stacked method="post" action="/login" {
                        h1 { "Sign in" }
                        (csrf_field(frame))
                        input type="hidden" name="next" value=(self.next);
                        @if let Some(problem) = &self.problem {
                            div.message.bad role="alert" { span.symbol aria-hidden="true" { "✕" } p #sign-in-problem { (problem) } }
                        }
                        label { span { "User" } input type="text" name="user" value=(self.user) autocomplete="username" autocapitalize="none" spellcheck="false" required maxlength="80" autofocus[self.user.is_empty()]; }
                        label { span { "Password" } input type="password" name="password" autocomplete="current-password" required maxlength="400" autofocus[!self.user.is_empty()] aria-describedby=[self.problem.as_ref().map(|_| "sign-in-problem")]; }
                        button type="submit" { "Sign in" }
                    }
                    @if let Some(file) = &self.password_file {
                        section.card.hint aria-labelledby="first-time" {
                            h2 #first-time { "First time here?" }
                            p { "Mainstay made a password for the user " strong { "admin" } " when it first started. It is in this file on the machine that the control plane runs on, readable by its owner only:" }
                            pre.code tabindex="0" { code { (file) } }
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

    fn sign_in(problem: Option<&str>, file: Option<&str>) -> String {
        let frame = Frame { user: None, ..samples::frame("/login") };
        SignInPage {
            user: "<admin>".into(),
            problem: problem.map(Into::into),
            password_file: file.map(Into::into),
            next: "/stacks/shop".into(),
        }
        .render(&frame)
        .into_string()
    }

    #[test]
    fn it_tells_where_the_first_password_is_while_the_file_is_there() {
        assert!(
            sign_in(None, Some("/var/lib/mainstay/server/initial-password"))
                .contains("/var/lib/mainstay/server/initial-password")
        );
        assert!(!sign_in(None, None).contains("First time here?"));
    }

    #[test]
    fn a_refused_try_says_why_and_keeps_the_name_but_no_password() {
        let page = sign_in(Some("Wrong user or password."), None);
        assert!(page.contains("Wrong user or password.") && page.contains("value=\"&lt;admin&gt;\""));
        assert!(page.contains("type=\"password\"") && !page.contains("name=\"password\" value"));
    }
}
