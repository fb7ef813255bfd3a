//! A plan as a person reads it: one mark per service and field, and a sum at the end.

use crate::printer::{Paint, Tone};
use api::plans::{Difference, ServicePlan, ServicePlanAction, StackPlan};

fn mark(action: ServicePlanAction) -> (&'static str, &'static str, Tone) {
    match action {
        ServicePlanAction::Create => ("+", "will be created", Tone::Good),
        ServicePlanAction::Update => ("~", "will be updated", Tone::Warning),
        ServicePlanAction::Remove => ("-", "will be removed", Tone::Bad),
        ServicePlanAction::Keep => ("=", "stays as it is", Tone::Faint),
    }
}

/// `shop (new): 1 to create`
pub fn headline(plan: &StackPlan, version: u64) -> String {
    let state = if plan.base_version == 0 { "new".to_owned() } else { format!("version {version}") };
    format!("{} ({state}): {}", plan.stack, sum(plan))
}

pub fn render(plan: &StackPlan, paint: Paint) -> String {
    let state = if plan.base_version == 0 { "new".to_owned() } else { format!("version {}", plan.base_version) };
    let mut lines = vec![format!("{} {} ({state})", paint.bold("Stack"), plan.stack)];
    for service in &plan.services {
        lines.push(String::new());
        lines.extend(service_lines(service, paint));
    }
    lines.push(String::new());
    lines.push(match plan.is_empty() {
        true => "No differences: what runs is what the manifest says.".to_owned(),
        false => format!("{} {}", paint.bold("Plan:"), sum(plan)),
    });
    lines.join("\n")
}

fn service_lines(service: &ServicePlan, paint: Paint) -> Vec<String> {
    let (sign, words, tone) = mark(service.action);
    let commit = service.commit.as_ref().map(|commit| format!(" at {}", commit.short())).unwrap_or_default();
    let commit = if service.action == ServicePlanAction::Remove { String::new() } else { commit };
    let mut lines =
        vec![format!("  {} {} {words}{commit}", paint.tone(tone, sign), paint.bold(service.service.as_str()))];
    let width = service.differences.iter().map(|difference| difference.field.len()).max().unwrap_or(0);
    lines.extend(service.differences.iter().map(|difference| difference_line(difference, width, paint)));
    lines.extend(service.notes.iter().map(|note| format!("      {} {note}", paint.yellow("note:"))));
    lines
}

fn difference_line(difference: &Difference, width: usize, paint: Paint) -> String {
    let field = format!("{:width$}", difference.field);
    match (&difference.from, &difference.to) {
        (None, Some(to)) => format!("      {} {field}  {}", paint.green("+"), shown(to)),
        (Some(from), None) => format!("      {} {field}  {}", paint.red("-"), shown(from)),
        (Some(from), Some(to)) => format!("      {} {field}  {} → {}", paint.yellow("~"), shown(from), shown(to)),
        // A value that is not shown, as of an environment variable.
        (None, None) => format!("      {} {field}  (changes)", paint.yellow("~")),
    }
}

/// One line, and not a very long one.
fn shown(value: &str) -> String {
    const LIMIT: usize = 100;
    let one_line: String = value.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if one_line.chars().count() > LIMIT {
        format!("{}…", one_line.chars().take(LIMIT).collect::<String>())
    } else {
        one_line
    }
}

fn sum(plan: &StackPlan) -> String {
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
            commit: Some("0123456789abcdef0123456789abcdef01234567".parse().unwrap()),
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
        assert_eq!(render(&plan, Paint::plain()), expected);
    }
}
