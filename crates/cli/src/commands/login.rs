//! `mainstay login`: remember a control plane and a token for it.

use crate::answers::SignedIn;
use crate::config::Config;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use api::secret::Secret;
use api::tokens::SignInRequest;
use client::{Client, DEFAULT_ADDRESS};
use std::io::{BufRead, IsTerminal, Write};

/// Sign in to a control plane and keep a token for it
///
/// With --token (or MAINSTAY_TOKEN) that token is kept. Without, the password is asked for and a
/// token is made. Address: --server.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Who signs in
    #[arg(long, default_value = "admin")]
    pub user: String,
    /// Read the password from stdin
    #[arg(long)]
    pub password_stdin: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let mut config = Config::load().map_err(|error| Failure::general(error.to_string()))?;
    let address =
        context.global.server.clone().or_else(|| config.default.clone()).unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
    let client = Client::new(&address, None)?;
    let address = client.address().to_owned();
    let token = match &context.global.token {
        Some(token) => Secret::new(token),
        None => {
            client.healthy().await?;
            let password = read_password(&options, &address)?;
            let request = SignInRequest { user: options.user.clone(), password };
            client.sign_in(&request, &token_name()).await?.token
        }
    };
    // Only a token that works is kept.
    let info = Client::new(&address, Some(token.clone()))?.info().await?;
    config.remember(&address, token);
    config.default = Some(address.clone());
    let path = config.save().map_err(|error| Failure::general(error.to_string()))?;
    let answer = SignedIn { server: address, actor: info.actor, organization: info.organization, config: path };
    context.printer.either(&answer, |answer, printer| {
        printer.data(&format!("signed in to {} as {} ({})", answer.server, answer.actor, answer.organization));
        printer.hint(&format!("The token is in {}.", answer.config.display()));
    });
    Ok(Exit::Ok)
}

/// Tells the tokens of several machines apart in `mainstay tokens list`.
fn token_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("cli on {host}")
}

fn read_password(options: &Options, address: &str) -> Result<Secret, Failure> {
    let stdin = std::io::stdin();
    let asked = !options.password_stdin;
    if asked && !stdin.is_terminal() {
        return Err(Failure::usage("nobody is here to be asked for the password")
            .help("pass it with --password-stdin, or a token with --token"));
    }
    let _hidden = asked.then(|| {
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "Password of {} at {address}: ", options.user).and_then(|()| err.flush());
        Hidden::new()
    });
    let mut line = String::new();
    stdin
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::general(format!("cannot read the password: {error}")))?;
    if asked {
        let _ = writeln!(std::io::stderr());
    }
    Ok(Secret::new(line.trim_end_matches(['\n', '\r'])))
}

/// While it lives, what is typed does not show.
struct Hidden(Option<rustix::termios::Termios>);

impl Hidden {
    fn new() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &silent);
        }
        Self(before)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, before);
        }
    }
}
