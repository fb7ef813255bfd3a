//! What this control plane is and what it keeps, and the one thing that a person sets here: their password.

use super::frame::{Frame, Live, csrf_field, page};
use super::{times, words};
use crate::actions::sign_in::PASSWORD_LENGTH;
use api::desired::SecurityMode;
use maud::{Markup, html};
use store::Retention;

pub struct SettingsPage {
    pub organization: String,
    pub database: String,
    /// Where the database lies, if it is a file.
    pub place: Option<String>,
    pub database_bytes: Option<u64>,
    pub disk_low: Option<String>,
    pub disk_free_bytes: Option<u64>,
    pub public_url: String,
    pub local_sources: bool,
    pub security_mode: SecurityMode,
    pub poll_interval_ms: u64,
    pub schema: i64,
    pub retention: Retention,
    pub services: u64,
    pub servers: usize,
}

impl SettingsPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        page(
            frame,
            "Settings",
            Live::No,
            html! {
                div.title { h1 { "Settings" } p.lead { "What this control plane is, and what it keeps. What can be changed here is changed with the options of " code { "mainstay server" } " or " code { "mainstay up" } "." } }
                div.columns.even { (self.control_plane(frame)) (self.kept()) (self.limits()) (password(frame)) }
            },
        )
    }

    fn control_plane(&self, frame: &Frame) -> Markup {
        html! {
            section.card aria-labelledby="plane-title" {
                h2 #plane-title { "Control plane" }
                dl.facts {
                    dt { "Version" } dd { (frame.version) }
                    dt { "Organization" } dd { (self.organization) }
                    dt { "Address" } dd { code { (self.public_url) } }
                    dt { "Looks after" } dd { (words::count(usize::try_from(self.services).unwrap_or(usize::MAX), "service", "services")) " on " (words::count(self.servers, "server", "servers")) }
                    dt { "Database" } dd { (self.database) ", schema " (self.schema) @if let Some(place) = &self.place { code.block { (place) } } }
                    @if let Some(size) = self.database_bytes { dt { "Size" } dd { (times::bytes_text(size)) } }
                    dt { "Disk" } dd {
                        @match (&self.disk_low, self.disk_free_bytes) {
                            (Some(problem), _) => { (words::fact(words::Tone::Bad, "Nearly full")) p.reason { (words::prose(problem)) } },
                            (None, Some(free)) => { (words::fact(words::Tone::Good, "Room")) ", " (times::bytes_text(free)) " free" },
                            (None, None) => "the database's own",
                        }
                    }
                    dt { "Sources" } dd { @if self.local_sources { "repositories on this machine, too" } @else { "only repositories over the network" } }
                }
            }
        }
    }

    fn kept(&self) -> Markup {
        let days =
            |ms: i64| words::count(usize::try_from(ms / (24 * 60 * 60 * 1000)).unwrap_or_default(), "day", "days");
        let retention = &self.retention;
        html! {
            section.card aria-labelledby="kept-title" {
                h2 #kept-title { "What is kept" }
                p.soft { "Whatever comes first ends it, so the database does not grow without bound." }
                dl.facts {
                    dt { "Events" } dd { (days(retention.events_ms)) ", at most " (retention.events_count) }
                    dt { "Log lines" } dd { (days(retention.log_lines_ms)) ", at most " (retention.log_lines_count) }
                    dt { "Deployments" } dd { "the newest " (retention.deployments_count) " of each service, with their revisions" }
                }
            }
        }
    }

    fn limits(&self) -> Markup {
        html! {
            section.card aria-labelledby="limits-title" {
                h2 #limits-title { "Servers" }
                dl.facts {
                    dt { "New ones" } dd { (words::security_mode(self.security_mode)) }
                    dt { "Report every" } dd { (times::duration_text(i64::try_from(self.poll_interval_ms).unwrap_or(i64::MAX))) "; three missed reports make a server offline" }
                    dt { "HTTPS" } dd { a href="/domains" { "hosts and their certificates" } }
                    dt { "Replicas" } dd { "at most " (api::services::REPLICAS_LIMIT) " of one service" }
                }
            }
        }
    }
}

fn password(frame: &Frame) -> Markup {
    html! {
        form.card.stacked method="post" action="/settings/password" aria-labelledby="password-title" {
            h2 #password-title { "Your password" }
            (csrf_field(frame))
            @if let Some(user) = &frame.user { input type="text" name="username" value=(user) autocomplete="username" aria-label="User" hidden readonly; }
            label { span { "The one you have" } input type="password" name="old" required autocomplete="current-password" maxlength="200"; }
            label { span { "A new one, " (PASSWORD_LENGTH) " letters or more" } input type="password" name="new" required minlength=(PASSWORD_LENGTH) autocomplete="new-password" maxlength="200"; }
            label { span { "The new one once more" } input type="password" name="again" required minlength=(PASSWORD_LENGTH) autocomplete="new-password" maxlength="200"; }
            p.soft { "Every other session of yours ends. Tokens stay as they are." }
            p { button type="submit" { "Change the password" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_page_says_what_this_control_plane_is_and_what_it_keeps() {
        let page = SettingsPage {
            organization: "default".into(),
            database: "sqlite".into(),
            place: Some("/var/lib/<mainstay>/server/mainstay.db".into()),
            database_bytes: Some(5 << 20),
            disk_low: None,
            disk_free_bytes: Some(7 << 30),
            public_url: "http://127.0.0.1:4600".into(),
            local_sources: true,
            security_mode: SecurityMode::Closed,
            poll_interval_ms: 10_000,
            schema: 5,
            retention: Retention::default(),
            services: 1,
            servers: 2,
        };
        let page = page.render(&samples::frame("/settings")).into_string();
        for wanted in [
            "5.0 MiB",
            "7.0 GiB free",
            "90 days, at most 200000",
            "1 service on 2 servers",
            "&lt;mainstay&gt;",
            "name=\"csrf\"",
            "autocomplete=\"new-password\"",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
    }
}
