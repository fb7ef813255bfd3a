//! What a deployment of a stack would do: `mainstay plan`.

use super::{Mark, Text, Tone, shown};
use api::plans::{Difference, ServicePlan, ServicePlanAction, StackPlan};

/// `shop (new): 1 to create`
pub fn headline(plan: &StackPlan, version: u64) -> String {
    let state = if plan.base_version == 0 { "new".to_owned() } else { format!("version {version}") };
    format!("{} ({state}): {}", plan.stack, sum(plan))
}

/// A stack's plan, one service after the other.
pub fn stack_plan(plan: &StackPlan) -> Text {
    let mut text = Text::default();
    let state = if plan.base_version == 0 { "new".to_owned() } else { format!("version {}", plan.base_version) };
    text.pieces(vec![(Tone::Strong, "Stack".into()), (Tone::Plain, format!(" {} ({state})", plan.stack))]);
    for service in &plan.services {
        text.line("");
        service_plan(service, &mut text);
    }
    text.line("");
    match plan.is_empty() {
        true => text.line("No differences: what runs is what the manifest says."),
        false => text.pieces(vec![(Tone::Strong, "Plan:".into()), (Tone::Plain, format!(" {}", sum(plan)))]),
    }
    text
}

/// `2 to create, 1 to update, 3 unchanged`; what there is none of is left out.
pub fn sum(plan: &StackPlan) -> String {
    let count = |action| plan.services.iter().filter(|service| service.action == action).count();
    let parts = [
        (count(ServicePlanAction::Create), "to create"),
        (count(ServicePlanAction::Update), "to update"),
        (count(ServicePlanAction::Remove), "to remove"),
        (count(ServicePlanAction::Keep), "unchanged"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}")).collect();
    if parts.is_empty() { "no services".into() } else { parts.join(", ") }
}

fn service_plan(service: &ServicePlan, text: &mut Text) {
    let (mark, words) = match service.action {
        ServicePlanAction::Create => (Mark::Create, "will be created"),
        ServicePlanAction::Update => (Mark::Change, "will be updated"),
        ServicePlanAction::Remove => (Mark::Remove, "will be removed"),
        ServicePlanAction::Keep => (Mark::Keep, "stays as it is"),
    };
    let (sign, tone) = mark.sign();
    let commit = service.source_version.as_ref().map(|commit| format!(" at {}", commit.short())).unwrap_or_default();
    let commit = if service.action == ServicePlanAction::Remove { String::new() } else { commit };
    text.pieces(vec![
        (Tone::Plain, "  ".into()),
        (tone, sign.into()),
        (Tone::Plain, " ".into()),
        (Tone::Strong, service.service.as_str().into()),
        (Tone::Plain, format!(" {words}{commit}")),
    ]);
    let is_new = service.action == ServicePlanAction::Create;
    let shown: Vec<&Difference> = service.differences.iter().filter(|d| !is_new || is_worth_showing(d)).collect();
    let width = shown.iter().map(|difference| difference.field.len()).max().unwrap_or(0);
    for difference in shown {
        difference_line(difference, width, text);
    }
    for note in &service.notes {
        text.pieces(vec![
            (Tone::Plain, "      ".into()),
            (Tone::Warning, "note:".into()),
            (Tone::Plain, format!(" {note}")),
        ]);
    }
}

/// A new service has a value for every field; the defaults among them are noise.
fn is_worth_showing(difference: &Difference) -> bool {
    const HEADS: [&str; 9] =
        ["build.command", "env.", "health.check.path", "limits.", "port.", "replicas", "routes", "run.", "source."];
    let field = &difference.field;
    HEADS.iter().any(|head| field.starts_with(head)) && field != "run.kind" && !field.ends_with("].strip_prefix")
}

/// A commit as it is written everywhere else.
fn short(commit: &str) -> String {
    commit.parse::<api::sources::SourceVersion>().map_or_else(|_| shown(commit), |version| version.short().to_owned())
}

fn difference_line(difference: &Difference, width: usize, text: &mut Text) {
    let shown =
        |value: &str| if matches!(difference.field.as_str(), "commit" | "image") { short(value) } else { shown(value) };
    let (mark, value) = match (&difference.from, &difference.to) {
        (None, Some(to)) => (Mark::Create, shown(to)),
        (Some(from), None) => (Mark::Remove, shown(from)),
        (Some(from), Some(to)) => (Mark::Change, format!("{} → {}", shown(from), shown(to))),
        // A value that is not shown, as of an environment variable.
        (None, None) => (Mark::Change, "(changes)".into()),
    };
    let (sign, tone) = mark.sign();
    text.pieces(vec![
        (Tone::Plain, "      ".into()),
        (tone, sign.into()),
        (Tone::Plain, format!(" {:width$}  {value}", difference.field)),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_like_a_list_of_what_will_happen() {
        let difference = |field: &str, from: Option<&str>, to: Option<&str>| Difference {
            field: field.into(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let service = |name: &str, action, differences, notes: &[&str]| ServicePlan {
            service: name.parse().unwrap(),
            action,
            source_version: Some("0123456789abcdef0123456789abcdef01234567".parse().unwrap()),
            differences,
            notes: notes.iter().map(|note| note.to_string()).collect(),
        };
        let plan = StackPlan {
            stack_id: None,
            stack: "shop".parse().unwrap(),
            base_version: 4,
            fingerprint: "f".into(),
            services: vec![
                service(
                    "web",
                    ServicePlanAction::Update,
                    vec![difference("run.command", Some("a"), Some("b\nc")), difference("env.KEY", None, None)],
                    &["no health check"],
                ),
                service("old", ServicePlanAction::Remove, vec![], &[]),
            ],
        };
        let expected = "Stack shop (version 4)\n\n  ~ web will be updated at 0123456789\n      ~ run.command  a → b c\n      ~ env.KEY      (changes)\n      note: no health check\n\n  - old will be removed\n\nPlan: 1 to update, 1 to remove";
        assert_eq!(stack_plan(&plan).plain(), expected);
        let painted =
            stack_plan(&plan).painted(|tone, text| if tone == Tone::Bad { format!("<{text}>") } else { text.into() });
        assert!(painted.contains("  <-> old will be removed"), "{painted}");
    }

    #[test]
    fn a_commit_is_as_short_as_everywhere_else() {
        let mut text = Text::default();
        let (from, to) = ("0123456789".repeat(4), "abcdef0123".repeat(4));
        let commit = Difference { field: "commit".into(), from: Some(from), to: Some(to) };
        difference_line(&commit, 6, &mut text);
        assert_eq!(text.plain(), "      ~ commit  0123456789 → abcdef0123");
    }
}
