//! `mainstay domains`: hosts, their certificates, and automatic HTTPS.

use crate::answers::Removed;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::Printer;
use crate::table::Column;
use crate::times::{ago, now_ms, until};
use api::domains::{AcmeSettings, CertificateRequest, CertificateSource, ChallengeChoice, DomainState, DomainView};
use api::secret::Secret;
use api::tls::CertificateName;
use std::io::Read;
use std::path::{Path, PathBuf};

/// List hosts with their certificates, give certificates of your own, and set up automatic HTTPS
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List hosts and how each stands with HTTPS (what is done without a word, too)
    List,
    /// Give a certificate of your own for a host or a wildcard; it is used for all hosts that it is for
    Add {
        /// `shop.example.com` or `*.example.com`
        host: CertificateName,
        /// File with the certificate and those of its authority, in PEM
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        /// File with the private key, in PEM; `-` reads stdin
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Forget a certificate that was given, with its key
    Remove { host: CertificateName },
    /// Order a certificate now, also for a host that has one
    Renew { host: CertificateName },
    /// Set up automatic HTTPS, change it or turn it off; without options, show how it is set up
    Setup(Setup),
}

#[derive(Debug, clap::Args)]
struct Setup {
    /// You have read the terms of the certificate authority and agree
    #[arg(long, conflicts_with = "off")]
    agree_to_terms: bool,
    /// Order nothing any more; certificates that are there stay
    #[arg(long)]
    off: bool,
    /// Where the authority may write to
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// ACME directory of the authority [default: Let's Encrypt]
    #[arg(long, value_name = "URL")]
    directory: Option<String>,
    /// File with the certificate (PEM) by which the authority's own HTTPS is trusted; for one of your own
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// How the authority is shown that a host is yours
    #[arg(long, value_name = "KIND")]
    challenge: Option<Challenge>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Challenge {
    /// By port 80 where a gateway has it, else by port 443; after a failure by the other
    Auto,
    #[value(name = "http-01")]
    Http01,
    #[value(name = "tls-alpn-01")]
    TlsAlpn01,
}

impl Setup {
    fn changes_something(&self) -> bool {
        self.agree_to_terms
            || self.off
            || self.email.is_some()
            || self.directory.is_some()
            || self.root.is_some()
            || self.challenge.is_some()
    }
}

const FILE_LIMIT_BYTES: u64 = 64 * 1024;

pub async fn run(context: &Context, options: Options) -> Outcome {
    match options.action.unwrap_or(Action::List) {
        Action::List => {
            let domains = context.client()?.domains().await?;
            context.printer.either(&domains, |domains, printer| show(domains, printer));
        }
        Action::Add { host, certificate, key } => {
            if certificate.as_os_str() == "-" && key.as_os_str() == "-" {
                return Err(Failure::usage("stdin can be read once: name a file for the certificate"));
            }
            let request = CertificateRequest { chain: read(&certificate)?, private_key: Secret::new(read(&key)?) };
            let domain = context.client()?.certificate_give(&host, &request).await?;
            context.printer.either(&domain, |domain, printer| {
                printer.data(&format!("stored a certificate for {host}, {}", certificate_words(domain)));
                printer.hint("Every server with a route for it gets it now; see `mainstay domains`");
            });
        }
        Action::Remove { host } => {
            context.client()?.certificate_take_back(&host).await?;
            context.printer.either(&Removed { removed: host.to_string() }, |_, printer| {
                printer.data(&format!("removed the certificate for {host}"));
            });
        }
        Action::Renew { host } => {
            let domain = context.client()?.domain_renew(&host).await?;
            context.printer.either(&domain, |domain, printer| {
                // The budget may hold it back, also when a person asks.
                let wait = domain.next_order_at_ms.filter(|at_ms| *at_ms > now_ms() + 1_000);
                printer.data(&match wait {
                    Some(at_ms) => {
                        let when = until(at_ms, now_ms());
                        format!("a certificate for {host} is ordered {when}: so many were ordered lately")
                    }
                    None => format!("a certificate for {host} is being ordered"),
                });
                printer.hint("See how it goes: mainstay events --about certificates --follow");
            });
        }
        Action::Setup(setup) => return set_up(context, setup).await,
    }
    Ok(Exit::Ok)
}

fn show(domains: &[DomainView], printer: &Printer) {
    if domains.is_empty() {
        printer.data("No route names a host.");
        printer.hint("Give a service one in mainstay.toml: route = \"shop.example.com\"");
        return;
    }
    let columns = [
        Column::new("host"),
        Column::new("https"),
        Column::new("certificate").goes(2),
        Column::new("services").goes(1),
    ];
    let rows = domains.iter().map(|domain| {
        let services: Vec<&str> = domain.services.iter().map(|name| name.as_str()).collect();
        vec![
            domain.host.as_str().into(),
            state_word(domain.state).into(),
            certificate_words(domain).into(),
            services.join(", ").into(),
        ]
    });
    printer.table(&columns, rows);
    for domain in domains {
        if let Some(reason) = &domain.reason {
            let next = match domain.next_order_at_ms {
                Some(at_ms) if domain.failures > 0 && at_ms > now_ms() => {
                    format!("; tried again {}", until(at_ms, now_ms()))
                }
                _ => String::new(),
            };
            printer.note(&format!("{}: {reason}{next}", domain.host));
        }
    }
}

fn state_word(state: DomainState) -> &'static str {
    match state {
        DomainState::Secured => "secured",
        DomainState::Ordering => "being ordered",
        DomainState::Failing => "failing",
        DomainState::Expired => "expired",
        DomainState::NotSetUp => "not set up",
        DomainState::Local => "local",
        DomainState::Off => "off",
        DomainState::Unused => "unused",
    }
}

fn certificate_words(domain: &DomainView) -> String {
    let Some(certificate) = &domain.certificate else { return "none".into() };
    let end = match certificate.not_after_ms > now_ms() {
        true => format!("ends {}", until(certificate.not_after_ms, now_ms())),
        false => format!("ended {}", ago(certificate.not_after_ms, now_ms())),
    };
    let whose = match certificate.source {
        CertificateSource::User => "your own",
        CertificateSource::Acme => "automatic",
    };
    format!("{whose}, by {}, {end}", certificate.issuer)
}

async fn set_up(context: &Context, setup: Setup) -> Outcome {
    let client = context.client()?;
    let mut settings = client.acme().await?;
    if !setup.changes_something() {
        context.printer.either(&settings, show_settings);
        return Ok(Exit::Ok);
    }
    if setup.agree_to_terms || setup.off {
        settings.terms_agreed = setup.agree_to_terms;
    }
    if let Some(email) = setup.email {
        settings.contact = Some(email).filter(|email| !email.is_empty());
    }
    if let Some(directory) = setup.directory {
        settings.directory_url = directory;
    }
    if let Some(root) = setup.root {
        settings.root = Some(read(&root)?);
    }
    settings.challenge = match setup.challenge {
        None => settings.challenge,
        Some(Challenge::Auto) => ChallengeChoice::Auto,
        Some(Challenge::Http01) => ChallengeChoice::Http01,
        Some(Challenge::TlsAlpn01) => ChallengeChoice::TlsAlpn01,
    };
    let settings = client.acme_set(&settings).await?;
    context.printer.either(&settings, |settings, printer| {
        show_settings(settings, printer);
        if settings.terms_agreed {
            printer.hint("Certificates are ordered for every public host of a route; see `mainstay domains`");
        }
    });
    Ok(Exit::Ok)
}

fn show_settings(settings: &AcmeSettings, printer: &Printer) {
    let challenge = match settings.challenge {
        ChallengeChoice::Auto => "by port 80 where a gateway has it, else by port 443",
        ChallengeChoice::Http01 => "by port 80 (HTTP-01)",
        ChallengeChoice::TlsAlpn01 => "by port 443 (TLS-ALPN-01)",
    };
    if settings.terms_agreed {
        printer.data("Automatic HTTPS is on.");
        printer.data(&format!("authority  {}", settings.directory_url));
        printer.data(&format!("contact    {}", settings.contact.as_deref().unwrap_or("none")));
        printer.data(&format!("shown      {challenge}"));
        if settings.root.is_some() {
            printer.data("trusted    by a certificate of your own");
        }
    } else {
        printer.data("Automatic HTTPS is off: no certificate is ordered.");
        printer.hint(
            "Read the terms of the authority (https://letsencrypt.org/repository/), then: mainstay domains setup --agree-to-terms --email you@example.com",
        );
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let source: std::io::Result<Box<dyn Read>> = match file.as_os_str() == "-" {
        true => Ok(Box::new(std::io::stdin())),
        false => std::fs::File::open(file).map(|file| Box::new(file) as Box<dyn Read>),
    };
    let length = source.and_then(|source| source.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text));
    match length {
        Ok(0) => Err(Failure::usage(format!("{} is empty", file.display()))),
        Ok(length) if length as u64 > FILE_LIMIT_BYTES => {
            Err(Failure::usage(format!("{} is too large to be a certificate or a key", file.display())))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", file.display()))),
    }
}
