//! Plans as text, the same for the command line, the golden tests and the dashboard.
//!
//! The first character of a line carries its meaning (`+` create, `~` change, `-` remove, `=` keep,
//! `!` note), so colour can be added but never has to be.

use api::plans::{Difference, ServicePlan, ServicePlanAction, StackPlan};

/// A stack's plan, one service after the other.
pub fn stack_plan(plan: &StackPlan) -> String {
    let mut out = String::new();
    for service in &plan.services {
        service_plan(service, &mut out);
    }
    out.push_str(&summary(plan));
    out.push('\n');
    out
}

/// `2 to create, 1 to change, 0 to remove, 3 unchanged`
pub fn summary(plan: &StackPlan) -> String {
    let count = |action| plan.services.iter().filter(|s| s.action == action).count();
    format!(
        "{} to create, {} to change, {} to remove, {} unchanged",
        count(ServicePlanAction::Create),
        count(ServicePlanAction::Update),
        count(ServicePlanAction::Remove),
        count(ServicePlanAction::Keep)
    )
}

fn service_plan(service: &ServicePlan, out: &mut String) {
    let (mark, word) = match service.action {
        ServicePlanAction::Create => ('+', "create"),
        ServicePlanAction::Update => ('~', "change"),
        ServicePlanAction::Remove => ('-', "remove"),
        ServicePlanAction::Keep => ('=', "keep"),
    };
    out.push_str(&format!("{mark} {word} {}\n", service.service));
    let shown = service.differences.iter().filter(|d| service.action != ServicePlanAction::Create || worth_showing(d));
    for difference in shown {
        out.push_str(&difference_line(difference));
    }
    for note in &service.notes {
        out.push_str(&format!("    ! {note}\n"));
    }
}

/// A new service has a value for every field; the defaults among them are noise.
fn worth_showing(difference: &Difference) -> bool {
    const HEADS: [&str; 8] = ["commit", "build.command", "env.", "limits.", "port.", "replicas", "routes", "run."];
    let field = &difference.field;
    (HEADS.iter().any(|head| field.starts_with(head)) || field == "source.git" || field == "source.directory")
        && field != "run.kind"
        && !field.ends_with("].strip_prefix")
}

fn difference_line(difference: &Difference) -> String {
    let field = &difference.field;
    match (&difference.from, &difference.to) {
        (None, Some(to)) => format!("    + {field}: {to}\n"),
        (Some(from), None) => format!("    - {field}: {from}\n"),
        (Some(from), Some(to)) => format!("    ~ {field}: {from} → {to}\n"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_line_by_line_with_its_mark_first() {
        let plan = StackPlan {
            stack_id: None,
            stack: "shop".parse().unwrap(),
            base_version: 1,
            fingerprint: String::new(),
            services: vec![
                ServicePlan {
                    service: "web".parse().unwrap(),
                    action: ServicePlanAction::Update,
                    commit: None,
                    differences: vec![Difference {
                        field: "run.command".into(),
                        from: Some("a".into()),
                        to: Some("b".into()),
                    }],
                    notes: vec!["mind the gap".into()],
                },
                ServicePlan {
                    service: "old".parse().unwrap(),
                    action: ServicePlanAction::Remove,
                    commit: None,
                    differences: vec![],
                    notes: vec![],
                },
            ],
        };
        assert_eq!(
            stack_plan(&plan),
            "~ change web\n    ~ run.command: a → b\n    ! mind the gap\n- remove old\n\
             0 to create, 1 to change, 1 to remove, 0 unchanged\n"
        );
    }
}
