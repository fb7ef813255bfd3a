//! `mainstay credentials`: deploy keys and tokens for private repositories.

use crate::address::unknown_name;
use crate::answers::{Removed, Stored};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::table::Column;
use crate::times::{ago, now_ms};
use api::desired::{CredentialRequest, GitCredential};
use api::name::Name;
use api::secret::Secret;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Store, list and remove credentials for private git repositories and registries of images
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Store one; a manifest names it as `credential = "NAME"`
    Add {
        name: Name,
        /// File with a private key (OpenSSH form), for ssh addresses; `-` reads stdin
        #[arg(
            long,
            value_name = "FILE",
            required_unless_present = "git_token_file",
            conflicts_with = "git_token_file"
        )]
        deploy_key: Option<PathBuf>,
        /// File with an access token, for https addresses and registries; `-` reads stdin
        #[arg(long = "git-token-file", value_name = "FILE")]
        git_token_file: Option<PathBuf>,
        /// User that goes with the token
        #[arg(long, default_value = "git", value_name = "USER")]
        user: String,
    },
    /// List names (what is done without a word, too); what they hold is never shown
    List,
    /// Remove one
    Remove { name: String },
}

const SECRET_LIMIT_BYTES: u64 = 64 * 1024;

pub async fn run(context: &Context, options: Options) -> Outcome {
    match options.action.unwrap_or(Action::List) {
        Action::Add { name, deploy_key, git_token_file, user } => {
            let credential = match (deploy_key, git_token_file) {
                (Some(file), _) => GitCredential::DeployKey { private_key: private_key(&file)? },
                (None, Some(file)) => GitCredential::Token { user, token: Secret::new(read(&file)?.trim()) },
                (None, None) => {
                    return Err(Failure::usage("say what to store: --deploy-key FILE or --git-token-file FILE"));
                }
            };
            context.client()?.credential_add(&CredentialRequest { name: name.clone(), credential }).await?;
            context.printer.either(&Stored { stored: name.to_string() }, |_, printer| {
                printer.data(&format!("stored {name}"));
                printer.hint(&format!("Name it in mainstay.toml: credential = \"{name}\""));
            });
        }
        Action::List => {
            let credentials = context.client()?.credentials().await?;
            context.printer.either(&credentials, |credentials, printer| {
                if credentials.is_empty() {
                    printer.data("No credential is stored.");
                    printer.hint("Public repositories need none; for a private one: mainstay credentials add NAME --deploy-key FILE");
                    return;
                }
                let rows = credentials.iter().map(|c| {
                    vec![c.name.as_str().into(), c.kind.as_str().into(), ago(c.created_at_ms, now_ms()).into()]
                });
                printer.table(&[Column::new("name"), Column::new("kind").goes(2), Column::new("stored").goes(1)], rows);
            });
        }
        Action::Remove { name } => {
            let client = context.client()?;
            let known: Vec<String> =
                client.credentials().await?.iter().map(|credential| credential.name.to_string()).collect();
            if !known.contains(&name) {
                return Err(unknown_name("credential", &name, &known));
            }
            client.credential_remove(&name).await?;
            context
                .printer
                .either(&Removed { removed: name.clone() }, |_, printer| printer.data(&format!("removed {name}")));
        }
    }
    Ok(Exit::Ok)
}

fn private_key(file: &Path) -> Result<Secret, Failure> {
    let text = read(file)?;
    if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
        let failure = Failure::usage(format!("{} holds a public key", file.display()));
        return Err(failure.help("the public half goes to the git host; name the file without .pub here"));
    }
    if !text.contains("PRIVATE KEY-----") {
        return Err(Failure::usage(format!("{} holds no private key", file.display()))
            .help("make one: ssh-keygen -t ed25519 -N '' -f deploy-key"));
    }
    // ssh refuses a key whose last line does not end.
    Ok(Secret::new(if text.ends_with('\n') { text } else { format!("{text}\n") }))
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let source: std::io::Result<Box<dyn Read>> = match file.as_os_str() == "-" {
        true => Ok(Box::new(std::io::stdin())),
        false => std::fs::File::open(file).map(|file| Box::new(file) as Box<dyn Read>),
    };
    let length = source.and_then(|source| source.take(SECRET_LIMIT_BYTES + 1).read_to_string(&mut text));
    match length {
        Ok(0) => Err(Failure::usage(format!("{} is empty", file.display()))),
        Ok(length) if length as u64 > SECRET_LIMIT_BYTES => {
            Err(Failure::usage(format!("{} is too large to be a credential", file.display())))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", file.display()))),
    }
}
