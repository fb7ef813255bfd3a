//! From `argv` to a command, and from its outcome to an exit code.

use crate::commands as c;
use crate::commands::lifecycle::Action;
use crate::context::{Context, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::explain::explain;
use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const EXIT_CODES: &str = "Exit codes:
  0 done                              4 the control plane cannot be reached
  1 failed                            5 refused: no token, or a bad one
  2 wrong usage (plan: differences)   6 the plan is stale
  3 a deployment failed               7 waited as long as allowed";

/// From a git repository to a supervised, routed, observed service
///
/// Start with `mainstay up` in a git repository.
#[derive(Debug, Parser)]
#[command(name = "mainstay", version, after_help = EXIT_CODES, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(c::up::Options),
    Down(c::down::Options),
    Deploy(c::deploy::Options),
    Plan(c::plan::Options),
    Init(c::init::Options),
    Status(c::status::Options),
    Logs(c::logs::Options),
    Events(c::events::Options),
    Top(c::top::Options),
    Metrics(c::metrics::Options),
    Open(c::open::Options),
    Rollback(c::rollback::Options),
    /// Start new instances of the current revision and replace the old ones with them, without a gap
    Restart(c::lifecycle::Options),
    /// Stop a service; it stays stopped until it is started or deployed again
    Stop(c::lifecycle::Options),
    /// Start a service that was stopped
    Start(c::lifecycle::Options),
    Scale(c::scale::Options),
    Env(c::env::Options),
    Cancel(c::cancel::Options),
    Stacks(c::stacks::Options),
    Servers(c::servers::Options),
    Tokens(c::tokens::Options),
    Credentials(c::credentials::Options),
    Domains(c::domains::Options),
    Login(c::login::Options),
    Doctor(c::doctor::Options),
    Backup(c::backup::Options),
    Restore(c::restore::Options),
    Server(c::server::Options),
    Agent(c::agent::Options),
    Gateway(c::gateway::Options),
    Completions(c::completions::Options),
    Man(c::man::Options),
    #[command(hide = true)]
    Shim(c::shim::Options),
    #[command(hide = true)]
    Static(c::static_files::Options),
    Version(c::version::Options),
}

/// The whole command line as data, for generated documentation and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// All of `main`.
pub fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(code) = other_names(&arguments) {
        return code;
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            if arguments.len() == 1 {
                // clap takes a variable of the environment for an argument, and complains instead of helping.
                let _ = command().print_help();
                return Exit::Usage.into();
            }
            let error = one_suggestion(error);
            // Nowhere is left to say that stderr is closed.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let context = Context::new(cli.global);
    match dispatch(&context, cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(&context.printer);
            failure.exit.into()
        }
    }
}

/// Of the commands that a word may have meant, the nearest; and none that people do not start.
fn one_suggestion(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    if let Some(ContextValue::Strings(names)) = error.remove(ContextKind::SuggestedSubcommand) {
        let hidden = |name: &str| command().find_subcommand(name).is_some_and(clap::Command::is_hide_set);
        // They come with the nearest at the end.
        if let Some(nearest) = names.into_iter().rev().find(|name| !hidden(name)) {
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![nearest]));
        }
    }
    error
}

/// Names and commands that other programs use; before anything else, because there is one process
/// of these per instance.
fn other_names(arguments: &[std::ffi::OsString]) -> Option<ExitCode> {
    if let Some(code) = git::helpers::dispatch() {
        return Some(code);
    }
    match arguments {
        [_, command, directory]
            if command == "shim" && directory.to_str().is_none_or(|text| !text.starts_with('-')) =>
        {
            Some(c::shim::run(&PathBuf::from(directory)))
        }
        _ => None,
    }
}

fn dispatch(context: &Context, command: Command) -> Outcome {
    use crate::logging;
    match command {
        Command::Shim(options) => {
            return Ok(if c::shim::run(&options.directory) == ExitCode::SUCCESS { Exit::Ok } else { Exit::Failed });
        }
        Command::Completions(options) => return c::completions::run(context, options),
        Command::Man(options) => return c::man::run(context, options),
        _ => {}
    }
    let serves = matches!(command, Command::Server(_) | Command::Agent(_) | Command::Gateway(_));
    logging::init(if serves { logging::Level::Service } else { logging::Level::Person }, context.printer.verbosity());
    let many_threads = serves || matches!(command, Command::Up(_));
    let mut builder = if many_threads {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    if matches!(command, Command::Gateway(_)) {
        builder.event_interval(gateway::TASKS_BETWEEN_EVENTS);
    }
    let runtime = builder.enable_all().build().map_err(|error| Failure::general(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(perform(context, command));
    // A thread that still reads from the terminal must not hold the end up.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    outcome
}

/// What a command does, and if it failed, why for this person.
async fn perform(context: &Context, command: Command) -> Outcome {
    // Whoever signs in gave a password just now: that it is wrong has nothing to do with a token.
    let signs_in = matches!(command, Command::Login(_)) && context.global.token.is_none();
    match act(context, command).await {
        Err(failure) if !signs_in => Err(explain(context, failure).await),
        outcome => outcome,
    }
}

async fn act(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Up(options) => c::up::run(context, options).await,
        Command::Down(options) => c::down::run(context, options).await,
        Command::Deploy(options) => c::deploy::run(context, options).await,
        Command::Plan(options) => c::plan::run(context, options).await,
        Command::Init(options) => c::init::run(context, options).await,
        Command::Status(options) => c::status::run(context, options).await,
        Command::Logs(options) => c::logs::run(context, options).await,
        Command::Events(options) => c::events::run(context, options).await,
        Command::Open(options) => c::open::run(context, options).await,
        Command::Rollback(options) => c::rollback::run(context, options).await,
        Command::Restart(options) => c::lifecycle::run(context, Action::Restart, options).await,
        Command::Stop(options) => c::lifecycle::run(context, Action::Stop, options).await,
        Command::Start(options) => c::lifecycle::run(context, Action::Start, options).await,
        Command::Scale(options) => c::scale::run(context, options).await,
        Command::Env(options) => c::env::run(context, options).await,
        Command::Cancel(options) => c::cancel::run(context, options).await,
        Command::Stacks(options) => c::stacks::run(context, options).await,
        Command::Servers(options) => c::servers::run(context, options).await,
        Command::Tokens(options) => c::tokens::run(context, options).await,
        Command::Credentials(options) => c::credentials::run(context, options).await,
        Command::Domains(options) => c::domains::run(context, options).await,
        Command::Top(options) => c::top::run(context, options).await,
        Command::Metrics(options) => c::metrics::run(context, options).await,
        Command::Doctor(options) => c::doctor::run(context, options).await,
        Command::Login(options) => c::login::run(context, options).await,
        Command::Backup(options) => c::backup::run(context, options).await,
        Command::Restore(options) => c::restore::run(context, options).await,
        Command::Server(options) => c::server::run(context, options).await,
        Command::Agent(options) => c::agent::run(context, options).await,
        Command::Gateway(options) => c::gateway::run(options).await,
        Command::Static(options) => c::static_files::run(options).await,
        Command::Version(options) => c::version::run(context, options).await,
        Command::Completions(_) | Command::Man(_) | Command::Shim(_) => {
            unreachable!("handled before the runtime was built")
        }
    }
}

#[cfg(test)]
mod tests {
    /// clap does not complain: the value would silently go to the global option instead.
    #[test]
    fn no_command_has_an_argument_with_the_name_of_a_global_option() {
        fn check(command: &clap::Command, globals: &[String]) {
            for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
                assert!(
                    !globals.contains(&argument.get_id().to_string()),
                    "{}: {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(|sub| check(sub, globals));
        }
        let command = super::command();
        let globals: Vec<String> =
            command.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().to_string()).collect();
        assert!(globals.contains(&"server".to_owned()));
        check(&command, &globals);
    }

    #[test]
    fn no_two_options_contradict_each_other_and_every_command_has_words() {
        let command = super::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{} has no description", sub.get_name());
        }
    }
}
