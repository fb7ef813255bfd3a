//! The project's own chores, in Rust instead of shell scripts: `cargo xtask TASK`.
//!
//! Each task is a file. They start other programs by argument vectors, stop what they started, and say
//! what they do. The crate depends on almost nothing, so a task begins in a second; only `docs`, which
//! looks into the real command line and API, builds them first (the `docs` feature).

mod bench;
mod deny;
mod docs;
mod kill_loop;
mod load;
mod packages;
mod postgres;
mod sim;
mod site;
mod steps;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
The chores of Mainstay.

Usage: cargo xtask TASK

  test [--require-all]   install what the tests need, then run everything that must pass before a merge
  tidy                   the rules of the project that a machine can check
  docs [--check]         write docs/reference from the code, or check that it is up to date
  site                   write the documents as a site to target/site, and look at every link
  pictures               take the pictures of the documents anew, from the real pages
  deny                   cargo deny: licences, duplicate crates, sources, and known vulnerabilities

  kill-loop [--kills N] [--seed S]
                         kill every part at every stage of a deployment, N times (150) on each database

  load [--agents N] [--minutes M] [--change-percent P] [--database URL]
                         the control plane with N machines (1000) for M minutes (5), P percent (1) of the
                         services changing each second: how fast, how much memory, and whether any fails

  bench [ROW...] [--install] [--quick] [--into FILE] [--compare FILE]
                         speed beside the programs that one would use instead; --install gets those, and
                         `bench --help` lists the rows

  sim [--seed S | --seeds N [--from F] | --minutes M]
                         a whole fleet in virtual time, where everything fails: the fixed seeds, or the
                         story of one, or random ones for some minutes

  postgres COMMAND...    run a command with a PostgreSQL of its own in MAINSTAY_TEST_POSTGRES_URL

  --require-all (or CI=true): fail instead of skipping what this machine cannot do.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let in_ci = std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    let outcome = match words.as_slice() {
        ["test"] => test::run(in_ci),
        ["test", "--require-all"] => test::run(true),
        ["tidy"] => tidy::run(),
        ["docs"] => docs::run(docs::Mode::Write),
        ["docs", "--check"] => docs::run(docs::Mode::Check),
        ["site"] => site::run(),
        ["pictures"] => site::pictures(),
        ["deny"] => deny::run(),
        ["kill-loop", options @ ..] => kill_loop::run(options),
        ["load", options @ ..] => load::run(options),
        ["bench", options @ ..] => bench::run(options),
        ["sim", options @ ..] => sim::run(options),
        ["postgres", command @ ..] if !command.is_empty() => test::with_postgres(command),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("unknown task: {}\n\n{USAGE}", other.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// The cargo that runs this task, so that a chosen toolchain stays chosen.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}
