//! What every command shares: where output goes, which control plane is meant and with which token.
//!
//! A control plane is looked for in this order: `--server`, `MAINSTAY_SERVER` (clap reads it into the
//! same place), a control plane that runs on a data directory named with `--data-dir`, the one that
//! `mainstay login` or `mainstay up` made the default, one that runs on the usual data directory, and
//! at last the usual address. A token: `--token`, `MAINSTAY_TOKEN`, what `login` stored for that
//! address, the `cli-token` of a control plane on this machine.

use crate::config::Config;
use crate::exit::Failure;
use crate::printer::{ColorChoice, Printer};
use crate::{paths, running};
use api::secret::Secret;
use client::{Client, DEFAULT_ADDRESS};
use std::path::{Path, PathBuf};

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Address of the control plane [default: the one you signed in to, else http://127.0.0.1:4600]
    #[arg(long, global = true, env = "MAINSTAY_SERVER", value_name = "URL", help_heading = "Global options")]
    pub server: Option<String>,
    /// API token; for `agent --join` the one-time join token. The environment variable keeps it out of the process list
    #[arg(
        long,
        global = true,
        env = "MAINSTAY_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub token: Option<String>,
    /// Print JSON on stdout, for programs
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Where Mainstay keeps its files on this machine [default: /var/lib/mainstay for root, else ~/.local/state/mainstay]
    #[arg(long, global = true, env = "MAINSTAY_DATA_DIR", value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    pub color: ColorChoice,
    /// No progress, notes or warnings
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Say more; twice: everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
}

pub struct Context {
    pub printer: Printer,
    pub global: Global,
}

impl Context {
    pub fn new(global: Global) -> Self {
        let printer = Printer::new(global.json, global.quiet, global.verbose, global.color);
        Self { printer, global }
    }

    /// The data directory, absolute.
    pub fn data_dir(&self) -> Result<PathBuf, Failure> {
        let wanted = self.global.data_dir.clone().unwrap_or_else(paths::default_data_dir);
        std::path::absolute(&wanted)
            .map_err(|error| Failure::usage(format!("{} is no usable data directory: {error}", wanted.display())))
    }

    /// A client of the control plane that is meant.
    pub fn client(&self) -> Result<Client, Failure> {
        let config = Config::load().map_err(|error| Failure::general(error.to_string()))?;
        let address = self.address(&config)?;
        let address = Client::new(&address, None)?.address().to_owned();
        let token = self.global.token.clone().map(Secret::new);
        let token = match token {
            Some(token) => Some(token),
            None => self.local_token(&address)?.or_else(|| config.token(&address)),
        };
        Ok(Client::new(&address, token)?)
    }

    fn address(&self, config: &Config) -> Result<String, Failure> {
        if let Some(server) = &self.global.server {
            return Ok(server.clone());
        }
        let here = running::find(&self.data_dir()?).map(|running| running.address);
        let named = self.global.data_dir.is_some();
        let first = if named { here.clone() } else { None };
        Ok(first.or_else(|| config.default.clone()).or(here).unwrap_or_else(|| DEFAULT_ADDRESS.to_owned()))
    }

    /// The token file of a control plane that runs on this machine at that very address. It is always
    /// the right one, while a stored token may be of a data directory that was thrown away since.
    fn local_token(&self, address: &str) -> Result<Option<Secret>, Failure> {
        let data_dir = self.data_dir()?;
        let same = running::find(&data_dir).is_some_and(|running| running.address == address);
        Ok(if same { read_cli_token(&data_dir) } else { None })
    }
}

/// The token that the control plane on a data directory made for the command line.
pub fn read_cli_token(data_dir: &Path) -> Option<Secret> {
    let text = std::fs::read_to_string(data_dir.join("server/cli-token")).ok()?;
    let token = text.trim();
    (!token.is_empty()).then(|| Secret::new(token))
}
