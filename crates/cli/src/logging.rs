//! What the parts that run for long say of themselves, on stderr.

use tracing_subscriber::EnvFilter;

/// Who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A command: silence, unless asked.
    Person,
    /// A part that runs under a service manager.
    Service,
}

/// `MAINSTAY_LOG` (`info`, `agent=debug,warn`) wins over `-v`; `MAINSTAY_LOG_FORMAT=json` for machines.
pub fn init(level: Level, verbosity: u8) {
    let words = match (level, verbosity) {
        // What is wrong with a certificate is in the error that is printed, too.
        (Level::Person, 0) => "error,rustls_platform_verifier=off",
        (Level::Person, 1) => "warn,server=info,agent=info,gateway=info,store=info,client=debug,cli=debug",
        (Level::Service, 0) => "warn,server=info,agent=info,gateway=info,store=info,cli=info",
        (_, 2) => "info,server=debug,agent=debug,gateway=debug,store=debug,client=debug,cli=debug",
        (Level::Service, 1) => "info,server=debug,agent=debug,gateway=debug,store=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("MAINSTAY_LOG").unwrap_or_else(|_| EnvFilter::new(words));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = std::env::var_os("MAINSTAY_LOG_FORMAT").is_some_and(|format| format == "json");
    // Somebody who embeds this library may have set one already: then theirs counts.
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).with_target(false).try_init()
    };
}
