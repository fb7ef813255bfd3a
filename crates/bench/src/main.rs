//! Mainstay measured beside what one would use instead, on the same machine in the same run.
//!
//! `cargo xtask bench` builds this with the release profile and runs it. Each row is one function that
//! answers figures; all subjects of a figure are measured in turns, at least five times each, so that
//! whatever else the machine does meets all of them alike. What comes out is one table with medians,
//! their spread and ratios, a JSON file with the facts of the machine, and a plot for each row that has
//! sizes. docs/performance.md says how to read it.
//!
//! A crate of its own, because it looks at both sides: it calls the planner and the control plane's desired state
//! as a library, and starts the released program as a process. What only starts processes is in `e2e`.
//!
//! Deliberately absent: statistics beyond the median and the whole spread, and a pass or fail at the end.
//! Figures of one machine are for comparing, and a person compares.

mod context;
mod figure;
mod http;
mod machine;
mod names;
mod peers;
mod plot;
mod process;
mod report;
mod rows;
mod samples;
mod service;
mod system;

use anyhow::{Context as _, Result, bail};
use context::Context;
use report::Report;
use rows::{ROWS, Row};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: bench [ROW...] [--quick] [--into FILE] [--compare FILE]

  --quick          short runs and few: whether everything works, no figures to quote
  --into FILE      where the figures go (target/bench/latest.json); rows that are there and are not
                   measured now are kept
  --compare FILE   say how the figures differ from those of an earlier run
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["origin", core] => number(core).and_then(http::sockets::become_part).and_then(|()| {
            http::sockets::raise_file_limit();
            http::origin::serve()
        }),
        ["load", core, spec] => load(core, spec),
        ["questions", core, spec] => questions(core, spec),
        ["sockets", core, address, count] => hold_sockets(core, address, count),
        ["service", release] => service::serve(release),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}\nRows:\n");
            ROWS.iter().for_each(|row| println!("  {:<20} {}", row.name, row.about));
            Ok(())
        }
        words => options(words).and_then(|options| bench(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    rows: Vec<&'static Row>,
    quick: bool,
    into: Option<PathBuf>,
    compare: Option<PathBuf>,
}

fn options(words: &[&str]) -> Result<Options> {
    let mut options = Options { rows: Vec::new(), quick: false, into: None, compare: None };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => options.quick = true,
            "--into" => options.into = Some(words.next().context(USAGE)?.into()),
            "--compare" => options.compare = Some(words.next().context(USAGE)?.into()),
            // `gateway` is all rows of the gateway.
            name => {
                let before = options.rows.len();
                let fits = |row: &&Row| row.name == name || row.name.starts_with(&format!("{name}-"));
                options.rows.extend(ROWS.iter().filter(fits));
                if options.rows.len() == before {
                    bail!("there is no row `{name}`; `bench --help` lists them");
                }
            }
        }
    }
    if options.rows.is_empty() {
        options.rows.extend(ROWS);
    }
    Ok(options)
}

fn bench(options: &Options) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the crate lies in the repository")?;
    // Before anything long is done.
    let earlier = options.compare.as_deref().map(Report::read).transpose()?;
    http::sockets::raise_file_limit();
    let context = Context::new(root, options.quick)?;
    println!("{}", facts(&context));
    let (mut figures, mut broken) = (Vec::new(), Vec::new());
    for row in &options.rows {
        eprintln!("measuring {}: {}", row.name, row.about);
        match (row.measure)(&context) {
            Ok(found) => figures.extend(found),
            Err(error) => {
                eprintln!("  could not be measured: {error:#}");
                broken.push(row.name);
            }
        }
    }
    let missing = context.tools.missing.iter().map(|name| (*name).to_owned()).collect();
    let tools = context.tools.found.clone();
    let mut report = Report { machine: context.machine.clone(), tools, missing, quick: context.quick, figures };
    println!("{}", report.table(earlier.as_ref()));
    let path = options.into.clone().unwrap_or_else(|| root.join("target/bench/latest.json"));
    if let Ok(there) = Report::read(&path) {
        report.add_other_rows_of(there);
    }
    report.write(&path)?;
    println!("figures: {}", path.display());
    let folder = path.parent().unwrap_or(root);
    for (name, svg) in plot::plots(&report.figures) {
        let file = folder.join(name);
        std::fs::write(&file, svg).with_context(|| format!("write {}", file.display()))?;
        println!("plot: {}", file.display());
    }
    if broken.is_empty() { Ok(()) } else { bail!("these rows could not be measured: {}", broken.join(", ")) }
}

fn facts(context: &Context) -> String {
    let machine = &context.machine;
    let mut text = format!(
        "{} at commit {}, {} cores ({}), {:.1} GB, Linux {}, load before {}\n",
        machine.at,
        machine.commit,
        machine.cores,
        machine.processor,
        machine.memory_bytes as f64 / 1e9,
        machine.kernel,
        machine.load_before
    );
    if machine.uncommitted > 0 {
        text += &format!("{} files differ from that commit\n", machine.uncommitted);
    }
    let versions: Vec<String> =
        context.tools.found.iter().map(|tool| format!("{} {}", tool.name, tool.version)).collect();
    text += &format!("measured: {}\n", versions.join(", "));
    if !context.tools.missing.is_empty() {
        text += &format!(
            "not here, so not compared: {}; `cargo xtask bench --install` gets them\n",
            context.tools.missing.join(", ")
        );
    }
    if context.load_core == context.subject_core {
        text += "there is only one core: the load takes from what it measures\n";
    }
    text
}

fn load(core: &str, spec: &str) -> Result<()> {
    http::sockets::become_part(number(core)?)?;
    http::sockets::raise_file_limit();
    let spec = serde_json::from_str(spec).context("read what to do")?;
    println!("{}", serde_json::to_string(&http::load::run(&spec)?)?);
    Ok(())
}

fn questions(core: &str, spec: &str) -> Result<()> {
    http::sockets::become_part(number(core)?)?;
    let spec = serde_json::from_str(spec).context("read what to ask")?;
    println!("{}", serde_json::to_string(&names::run(&spec)?)?);
    Ok(())
}

fn hold_sockets(core: &str, address: &str, count: &str) -> Result<()> {
    let address = address.parse().with_context(|| format!("{address} is no address"))?;
    rows::hold_sockets(number(core)?, address, number(count)?)
}

fn number(text: &str) -> Result<usize> {
    text.parse().with_context(|| format!("{text} is no number"))
}
