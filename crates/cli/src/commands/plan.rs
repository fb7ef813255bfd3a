//! `mainstay plan`: what a deployment would do, before anything happens.

use crate::commands::deploy;
use crate::context::Context;
use crate::exit::{Exit, Outcome};
use crate::plan_file::PlanFile;
use crate::{plan_text, project};
use std::path::PathBuf;

/// Show what a deployment would change, and change nothing
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Folder with the project, or a git address
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: String,
    /// Keep the plan, for `mainstay deploy --plan FILE`
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Exit with 2 when there are differences, 0 when there are none
    #[arg(long)]
    pub detailed_exitcode: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let project = project::load(&options.path, &client).await?;
    deploy::tell(context, &project);
    let request = project.plan_request();
    let plan = client.plan(&request).await.map_err(|error| project.explain(error))?;
    context.printer.either(&plan, |plan, printer| printer.data(&plan_text::render(plan, printer.paint())));
    let empty = plan.is_empty();
    if let Some(file) = &options.out {
        PlanFile::new(request, plan).write(file)?;
        context.printer.hint(&format!("Apply exactly this with: mainstay deploy --plan {}", file.display()));
    } else if !empty {
        context.printer.hint("Apply it with: mainstay deploy");
    }
    Ok(if options.detailed_exitcode && !empty { Exit::DIFFERENCES } else { Exit::Ok })
}
