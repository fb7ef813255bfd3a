//! A plan on the terminal: the words are [`plan::render`]'s, the colours are ours.

use crate::printer::{self, Paint};
use api::plans::StackPlan;
use plan::render::Tone;

pub use plan::render::headline;

pub fn render(plan: &StackPlan, paint: Paint) -> String {
    plan::render::stack_plan(plan).painted(|tone, text| match tone {
        Tone::Plain => text.to_owned(),
        Tone::Strong => paint.bold(text),
        Tone::Good => paint.tone(printer::Tone::Good, text),
        Tone::Warning => paint.tone(printer::Tone::Warning, text),
        Tone::Bad => paint.tone(printer::Tone::Bad, text),
        Tone::Faint => paint.tone(printer::Tone::Faint, text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::plans::{ServicePlan, ServicePlanAction};

    #[test]
    fn without_colours_a_plan_is_the_shared_text() {
        let plan = StackPlan {
            stack_id: None,
            stack: "shop".parse().unwrap(),
            base_version: 0,
            fingerprint: "f".into(),
            services: vec![ServicePlan {
                service: "web".parse().unwrap(),
                action: ServicePlanAction::Create,
                source_version: None,
                differences: vec![],
                notes: vec![],
            }],
        };
        let expected = "Stack shop (new)\n\n  + web will be created\n\nPlan: 1 to create";
        assert_eq!(render(&plan, Paint::plain()), expected);
        assert_eq!(render(&plan, Paint::plain()), plan::render::stack_plan(&plan).plain());
    }
}
