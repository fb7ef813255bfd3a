//! `mainstay doctor`: what this machine has and lacks, and how to mend it.

use crate::context::Context;
use crate::doctor::{Finding, Verdict, judge, look};
use crate::exit::{Exit, Outcome};
use crate::printer::Printer;
use api::words::count;
use serde::Serialize;

/// Check this machine, and say how to mend what is missing
///
/// Looks at the kernel, control groups, git, disk, clock, ports, the control plane that other commands would
/// speak to, and the agent of this machine. Changes nothing. Ends with 1 if something does not work, with 0 if all
/// is well or only something does without.
#[derive(Debug, clap::Args)]
pub struct Options {}

/// What `--json` prints.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Examination {
    pub findings: Vec<Finding>,
    pub problems: usize,
    pub warnings: usize,
}

pub async fn run(context: &Context, _: Options) -> Outcome {
    let findings = judge::judge(&look::look(context).await?);
    let number = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (problems, warnings) = (number(Verdict::Problem), number(Verdict::Warning));
    let examination = Examination { findings, problems, warnings };
    context.printer.either(&examination, show);
    Ok(if problems > 0 { Exit::Failed } else { Exit::Ok })
}

fn show(examination: &Examination, printer: &Printer) {
    let paint = printer.paint();
    let width = examination.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for finding in &examination.findings {
        let mark = match finding.verdict {
            Verdict::Good => paint.green("✓"),
            Verdict::Note => paint.dim("·"),
            Verdict::Warning => paint.yellow("!"),
            Verdict::Problem => paint.red("✗"),
        };
        printer.sentence(&format!("{mark} {:width$}  {}", finding.check, finding.message), width + 4);
        if let Some(mend) = &finding.mend {
            printer.sentence(&format!("  {:width$}  {} {mend}", "", paint.cyan("next:")), width + 4);
        }
    }
    printer.data("");
    printer.data(&match (examination.problems, examination.warnings) {
        (0, 0) => "Everything that Mainstay needs is here.".to_owned(),
        (0, warnings) => format!("{}; everything else is well.", count(warnings, "warning")),
        (problems, 0) => format!("{}.", count(problems, "problem")),
        (problems, warnings) => format!("{} and {}.", count(problems, "problem"), count(warnings, "warning")),
    });
}
