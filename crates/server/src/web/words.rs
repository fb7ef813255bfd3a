//! How states are said: one word, one symbol and one tone for each, the same on every page.
//!
//! The symbol and the word carry the meaning; the colour (the tone's class) only repeats it, so that
//! a page reads the same in black and white and to a screen reader.

use api::deployments::{DeploymentKind, Stage};
use api::desired::{InstanceIntent, SecurityMode, Traffic};
use api::events::EventLevel;
use api::observed::{InstanceState, StackCondition};
use api::plans::ServicePlanAction;
use api::servers::ServerCondition;
use api::services::{EnvOrigin, ServiceCondition};
use api::tokens::TokenState;
use maud::{Markup, html};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Busy,
    Warn,
    Bad,
    Off,
    Unknown,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Off => "off",
            Self::Unknown => "unknown",
        }
    }

    pub fn symbol(self) -> &'static str {
        match self {
            Self::Good => "●",
            Self::Busy => "◐",
            Self::Warn => "▲",
            Self::Bad => "✕",
            Self::Off => "■",
            Self::Unknown => "?",
        }
    }
}

/// A state as symbol and word.
pub fn badge(tone: Tone, word: &str) -> Markup {
    html! { span.badge.(tone.class()) { span.symbol aria-hidden="true" { (tone.symbol()) } (word) } }
}

/// The same without a frame, for facts inside a table.
pub fn fact(tone: Tone, word: &str) -> Markup {
    html! { span.fact.(tone.class()) { span.symbol aria-hidden="true" { (tone.symbol()) } (word) } }
}

pub fn service_condition(condition: ServiceCondition) -> (Tone, &'static str) {
    match condition {
        ServiceCondition::Running => (Tone::Good, "Running"),
        ServiceCondition::Deploying => (Tone::Busy, "Deploying"),
        ServiceCondition::Degraded => (Tone::Warn, "Degraded"),
        ServiceCondition::Down => (Tone::Bad, "Down"),
        ServiceCondition::Stopped => (Tone::Off, "Stopped"),
        ServiceCondition::Unknown => (Tone::Unknown, "Unknown"),
    }
}

pub fn stack_condition(condition: StackCondition) -> (Tone, &'static str) {
    match condition {
        StackCondition::Applying => (Tone::Busy, "Applying"),
        StackCondition::Applied => (Tone::Good, "Applied"),
        StackCondition::Degraded => (Tone::Warn, "Degraded"),
    }
}

pub fn server_condition(condition: ServerCondition) -> (Tone, &'static str) {
    match condition {
        ServerCondition::Online => (Tone::Good, "Online"),
        ServerCondition::Offline => (Tone::Bad, "Offline"),
    }
}

pub fn stage(stage: Stage) -> (Tone, &'static str) {
    match stage {
        Stage::Pending => (Tone::Busy, "Pending"),
        Stage::Building => (Tone::Busy, "Building"),
        Stage::Pulling => (Tone::Busy, "Pulling"),
        Stage::Starting => (Tone::Busy, "Starting"),
        Stage::Healthy => (Tone::Busy, "Healthy"),
        Stage::DnsUpdating => (Tone::Busy, "DNS updating"),
        Stage::RoutesUpdating => (Tone::Busy, "Routes updating"),
        Stage::StoppingOld => (Tone::Busy, "Stopping old"),
        Stage::Running => (Tone::Good, "Running"),
        Stage::Failed => (Tone::Bad, "Failed"),
        Stage::RolledBack => (Tone::Warn, "Rolled back"),
        Stage::Stopped => (Tone::Off, "Stopped"),
        Stage::Cancelled => (Tone::Off, "Cancelled"),
        Stage::Superseded => (Tone::Off, "Superseded"),
        Stage::Unknown => (Tone::Unknown, "Unknown"),
    }
}

pub fn deployment_kind(kind: DeploymentKind) -> &'static str {
    match kind {
        DeploymentKind::Deploy => "Deploy",
        DeploymentKind::Rollback => "Rollback",
        DeploymentKind::Restart => "Restart",
        DeploymentKind::Scale => "Scale",
        DeploymentKind::Start => "Start",
        DeploymentKind::Stop => "Stop",
    }
}

pub fn instance_intent(intent: InstanceIntent) -> (Tone, &'static str) {
    match intent {
        InstanceIntent::Run => (Tone::Good, "Run"),
        InstanceIntent::Stop => (Tone::Off, "Stop"),
    }
}

pub fn traffic(traffic: Traffic) -> (Tone, &'static str) {
    match traffic {
        Traffic::Candidate => (Tone::Busy, "Candidate"),
        Traffic::Active => (Tone::Good, "Active"),
        Traffic::Draining => (Tone::Warn, "Draining"),
        Traffic::Out => (Tone::Off, "Out"),
    }
}

pub fn instance_state(state: InstanceState) -> (Tone, &'static str) {
    match state {
        InstanceState::Absent => (Tone::Off, "Absent"),
        InstanceState::Transient => (Tone::Busy, "Transient"),
        InstanceState::Running => (Tone::Busy, "Running"),
        InstanceState::Healthy => (Tone::Good, "Healthy"),
        InstanceState::Unhealthy => (Tone::Bad, "Unhealthy"),
        InstanceState::Exited => (Tone::Off, "Exited"),
    }
}

pub fn event_level(level: EventLevel) -> (Tone, &'static str) {
    match level {
        EventLevel::Info => (Tone::Off, "Info"),
        EventLevel::Warning => (Tone::Warn, "Warning"),
        EventLevel::Error => (Tone::Bad, "Error"),
    }
}

pub fn token_state(state: TokenState) -> (Tone, &'static str) {
    match state {
        TokenState::Usable => (Tone::Good, "Usable"),
        TokenState::Used => (Tone::Off, "Used"),
        TokenState::Expired => (Tone::Off, "Expired"),
        TokenState::Revoked => (Tone::Off, "Revoked"),
    }
}

pub fn plan_action(action: ServicePlanAction) -> (Tone, &'static str) {
    match action {
        ServicePlanAction::Create => (Tone::Good, "Create"),
        ServicePlanAction::Update => (Tone::Busy, "Update"),
        ServicePlanAction::Remove => (Tone::Bad, "Remove"),
        ServicePlanAction::Keep => (Tone::Off, "Keep"),
    }
}

pub fn security_mode(mode: SecurityMode) -> &'static str {
    match mode {
        SecurityMode::Open => "Open: the gateway is public, no firewall of ours",
        SecurityMode::GatewayOnly => "Gateway only: nothing but the gateway's port is public",
        SecurityMode::Closed => "Closed: nothing is public, the gateway listens on loopback",
    }
}

pub fn env_origin(origin: EnvOrigin) -> &'static str {
    match origin {
        EnvOrigin::Manifest => "manifest",
        EnvOrigin::Set => "set by hand",
        EnvOrigin::Injected => "injected",
    }
}

/// A text in which backticks mark what is to be typed or was read, as messages of the API hold them.
pub fn prose(text: &str) -> Markup {
    let pairs = text.matches('`').count().is_multiple_of(2);
    html! {
        @if pairs { @for (n, part) in text.split('`').enumerate() { @if n % 2 == 1 { code { (part) } } @else { (part) } } }
        @else { (text) }
    }
}

/// A field for a name, with the names that there are to choose from. A list of them all would not end.
pub fn suggested(field: &str, label: &str, value: &str, names: &[String]) -> Markup {
    html! {
        label {
            span { (label) }
            input type="text" name=(field) value=(value) placeholder="any" maxlength="81" list={ "known-" (field) } autocomplete="off";
            datalist id={ "known-" (field) } { @for name in names { option value=(name) {} } }
        }
    }
}

/// `1 service`, `3 services`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_said_in_a_word_and_a_symbol_and_not_in_colour_alone() {
        for condition in [
            ServiceCondition::Running,
            ServiceCondition::Deploying,
            ServiceCondition::Degraded,
            ServiceCondition::Down,
            ServiceCondition::Stopped,
            ServiceCondition::Unknown,
        ] {
            let (tone, word) = service_condition(condition);
            let page = badge(tone, word).into_string();
            assert!(page.contains(word) && page.contains(tone.symbol()), "{page}");
        }
    }

    #[test]
    fn what_stands_between_backticks_is_code_and_a_lone_backtick_is_itself() {
        assert_eq!(prose("run `mainstay <x>` now").into_string(), "run <code>mainstay &lt;x&gt;</code> now");
        assert_eq!(prose("a ` b").into_string(), "a ` b");
    }

    #[test]
    fn conditions_that_differ_have_different_symbols() {
        let symbols: std::collections::BTreeSet<_> =
            [Tone::Good, Tone::Busy, Tone::Warn, Tone::Bad, Tone::Off, Tone::Unknown].map(Tone::symbol).into();
        assert_eq!(symbols.len(), 6);
    }
}
