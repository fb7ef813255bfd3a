//! How a command ends: the exit codes a script can rely on, and the failure a person reads.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed for a reason that has no code of its own |
//! | 2 | wrong usage; or, with `plan --detailed-exitcode`, there are differences |
//! | 3 | a deployment failed or was rolled back |
//! | 4 | the control plane cannot be reached |
//! | 5 | refused: no credential, or one that is not good |
//! | 6 | the plan is stale: what it was made against has changed |
//! | 7 | waited as long as allowed, or until Ctrl-C, and it is still going on |
//!
//! A [`Failure`] carries what happened, the places in the input that are wrong, and the next step. It
//! is printed once, by `main`, to stderr: as text, or with `--json` as one JSON object.

use crate::doctor::judge;
use crate::excerpt;
use crate::printer::{self, Paint, Printer};
use crate::wrap::wrapped;
use api::error::{ApiError, ErrorCode, ErrorDetail};
use client::ClientError;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    /// Usage; `plan --detailed-exitcode` with differences.
    Usage = 2,
    DeploymentFailed = 3,
    Unreachable = 4,
    Refused = 5,
    StalePlan = 6,
    TimedOut = 7,
}

impl Exit {
    /// What `plan --detailed-exitcode` ends with when there is something to do.
    pub const DIFFERENCES: Exit = Exit::Usage;
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A text that complaints with a line and column are about.
#[derive(Debug, Clone)]
pub struct SourceText {
    pub path: String,
    pub text: String,
}

/// Whether more can be said about a failure by whoever knows this command's circumstances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    Unauthenticated,
    /// The other side does not know what it was asked, or answers what makes no sense here.
    Foreign,
    #[default]
    Other,
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub help: Option<String>,
    /// Boxed: most results are good ones, and they should not carry the room for this around.
    more: Box<More>,
}

/// What stands on stderr with `--json` when a command failed
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct FailureAnswer {
    pub error: FailureDetails,
    /// As the process ends with.
    pub exit_code: u8,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct FailureDetails {
    /// Of the API, if it was the control plane that refused.
    pub code: Option<ErrorCode>,
    pub message: String,
    /// Places in a manifest, or fields of a request, that are wrong.
    pub details: Vec<ErrorDetail>,
    /// The last probe, the end of a log.
    pub evidence: Vec<String>,
    /// What to do next.
    pub help: Option<String>,
    /// Of use where the control plane itself is at fault: its log has it.
    pub request_id: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct More {
    details: Vec<ErrorDetail>,
    source: Option<SourceText>,
    /// Lines between the message and the help: the last probe, the end of a log.
    evidence: Vec<String>,
    code: Option<ErrorCode>,
    request_id: Option<String>,
    kind: Kind,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None, more: Box::default() }
    }

    /// The ordinary failure, code 1.
    pub fn general(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn exits(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    pub fn evidence(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.more.evidence.extend(lines);
        self
    }

    /// The text that lines and columns of the details count in.
    pub fn about(mut self, source: SourceText) -> Self {
        self.more.source = Some(source);
        self
    }

    pub fn kind(&self) -> Kind {
        self.more.kind
    }

    /// The same refusal of the control plane, in other words.
    pub fn code_of(mut self, other: &Self) -> Self {
        self.more.code = other.more.code;
        self
    }

    /// Writes it to stderr.
    pub fn print(&self, printer: &Printer) {
        if printer.json() {
            let json = serde_json::to_string(&self.to_json()).expect("a failure serializes to JSON");
            printer.error_text(&json);
        } else {
            printer.error_text(&self.to_text(printer.paint_err(), printer::error_width()));
        }
    }

    /// For a terminal of so many columns; without, a sentence is one line.
    pub fn to_text(&self, paint: Paint, width: Option<usize>) -> String {
        let mut text = wrapped(&format!("{} {}", paint.red_bold("error:"), self.message), width, 0);
        text.push('\n');
        for detail in &self.more.details {
            text.push('\n');
            // The one thing that is wrong was said above; what is left is how to mend it.
            let said = detail.line.is_none() && detail.message == self.message;
            match &detail.help {
                Some(help) if said => {
                    text.push_str(&wrapped(&format!("  {} {help}", paint.cyan("help:")), width, 2));
                    text.push('\n');
                }
                None if said => {}
                _ => text.push_str(&excerpt::render(detail, self.more.source.as_ref(), paint)),
            }
        }
        if !self.more.evidence.is_empty() {
            text.push('\n');
            for line in &self.more.evidence {
                // What a program wrote is told apart by its margin, and stays as it was written.
                let margin = line.starts_with("  | ");
                text.push_str(&wrapped(&format!("  {line}"), width.filter(|_| !margin), 2));
                text.push('\n');
            }
        }
        if let Some(help) = &self.help {
            text.push('\n');
            text.push_str(&wrapped(&format!("{} {help}", paint.cyan("next:")), width, 0));
            text.push('\n');
        }
        if let Some(request) = &self.more.request_id {
            text.push_str(&format!("{}\n", paint.dim(&format!("request {request}"))));
        }
        text.trim_end().to_owned()
    }

    fn to_json(&self) -> FailureAnswer {
        let More { details, evidence, code, request_id, .. } = *self.more.clone();
        let error = FailureDetails {
            code,
            message: self.message.clone(),
            details,
            evidence,
            help: self.help.clone(),
            request_id,
        };
        FailureAnswer { error, exit_code: self.exit as u8 }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = match error.code {
            ErrorCode::Unauthenticated | ErrorCode::SignatureRefused => Exit::Refused,
            ErrorCode::TokenUsed | ErrorCode::TokenExpired | ErrorCode::TokenUnknown => Exit::Refused,
            ErrorCode::StalePlan => Exit::StalePlan,
            _ => Exit::Failed,
        };
        let help = error.help.or_else(|| match error.code {
            ErrorCode::Unauthenticated => {
                Some("sign in with `mainstay login`, or pass --token or MAINSTAY_TOKEN".into())
            }
            ErrorCode::StalePlan => {
                Some("make a new plan with `mainstay plan`, look at it again and apply that one".into())
            }
            ErrorCode::Internal => Some("look for the request below in the control plane's log".into()),
            _ => None,
        });
        // The id is of use to somebody only where the control plane itself is at fault.
        let request_id =
            error.request_id.filter(|_| matches!(error.code, ErrorCode::Internal | ErrorCode::Unavailable));
        let kind = match error.code {
            ErrorCode::Unauthenticated => Kind::Unauthenticated,
            ErrorCode::NotFound if error.message.contains("page or endpoint") => Kind::Foreign,
            ErrorCode::InvalidInput if error.message.contains("is not possible on /api/") => Kind::Foreign,
            _ => Kind::Other,
        };
        let more = More {
            kind,
            details: error.details,
            code: Some(error.code),
            request_id: request_id.map(|id| id.to_string()),
            ..More::default()
        };
        Self { help, more: Box::new(more), ..Self::new(exit, error.message) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api { error, .. } => (*error).into(),
            ClientError::Unreachable { url, reason } => {
                let help = if judge::about_certificate(&reason) {
                    judge::MEND_CERTIFICATE
                } else {
                    "is it running? start it with `mainstay up` or name another with --server"
                };
                Self::new(Exit::Unreachable, format!("cannot reach the control plane at {url}: {reason}")).help(help)
            }
            ClientError::TimedOut { .. } => Self::new(Exit::Unreachable, error.to_string()),
            ClientError::NotMainstay { .. } => {
                let mut failure = Self::new(Exit::Unreachable, error.to_string());
                failure.more.kind = Kind::Foreign;
                failure
            }
            ClientError::Address { .. } => Self::usage(error.to_string()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::general(crate::system::with_causes(error.as_ref()))
    }
}

pub type Outcome = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_there_and_not_trusted_is_not_asked_whether_it_runs() {
        let help = |reason: &str| {
            let unreachable = ClientError::Unreachable { url: "https://m.example.com".into(), reason: reason.into() };
            Failure::from(unreachable).help.unwrap()
        };
        assert_eq!(help("invalid peer certificate: UnknownIssuer"), judge::MEND_CERTIFICATE);
        assert!(help("connection refused").starts_with("is it running?"));
    }
}
