//! From branches and tags to exact commits, once per plan, so that all servers run identical code.
//!
//! Services that share a repository and reference are asked for once. All repositories are asked at
//! the same time, a few at most, each with a limit of time: one that hangs delays nobody for longer
//! than that, and every service whose source is not usable is named in one error.

use crate::error::HttpError;
use crate::state::AppState;
use api::desired::GitCredential;
use api::error::{ErrorCode, ErrorDetail};
use api::name::Name;
use api::plans::StackSpec;
use api::services::{CommitSha, GitRef, GitUrl, ServiceSpec};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::time::Duration;

/// Of one call of git.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Of all calls about one source.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(45);
/// Of all sources of a stack.
const STACK_TIMEOUT: Duration = Duration::from_secs(100);
const AT_ONCE: usize = 6;

/// What a service's source is at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub commit: CommitSha,
    pub subject: String,
    /// The branch or tag that led there, also where the manifest names none.
    pub reference: Option<GitRef>,
}

/// Who knows where a branch stands.
pub trait Repositories: Send + Sync {
    fn resolve<'a>(
        &'a self,
        environment: &'a git::Environment,
        url: &'a GitUrl,
        reference: Option<&'a GitRef>,
        credential: Option<&'a GitCredential>,
    ) -> BoxFuture<'a, Result<git::ResolvedReference, git::GitError>>;
}

/// The repositories themselves, asked by git.
#[derive(Debug, Default)]
pub struct GitRepositories {
    subjects: git::Subjects,
}

impl Repositories for GitRepositories {
    fn resolve<'a>(
        &'a self,
        environment: &'a git::Environment,
        url: &'a GitUrl,
        reference: Option<&'a GitRef>,
        credential: Option<&'a GitCredential>,
    ) -> BoxFuture<'a, Result<git::ResolvedReference, git::GitError>> {
        Box::pin(git::resolve_reference(environment, url, reference, credential, TIMEOUT, &self.subjects))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    git: GitUrl,
    reference: Option<GitRef>,
    credential: Option<Name>,
}

impl Question {
    fn of(spec: &ServiceSpec) -> Self {
        let source = &spec.source;
        Self { git: source.git.clone(), reference: source.reference.clone(), credential: source.credential.clone() }
    }
}

/// The commit of every service, or everything that stands in the way.
pub async fn resolve(
    state: &AppState,
    stack: &StackSpec,
    credentials: &BTreeMap<Name, GitCredential>,
) -> Result<BTreeMap<Name, Resolved>, HttpError> {
    let mut questions: BTreeMap<Question, Vec<Name>> = BTreeMap::new();
    for (name, spec) in &stack.services {
        questions.entry(Question::of(spec)).or_default().push(name.clone());
    }
    let answers = stream::iter(questions).map(|(question, names)| async move {
        let answer = ask(state, &question, credentials).await;
        (question, names, answer)
    });
    let answers: Vec<_> = match tokio::time::timeout(STACK_TIMEOUT, answers.buffer_unordered(AT_ONCE).collect()).await {
        Ok(answers) => answers,
        Err(_) => {
            let message = format!(
                "the repositories did not all answer within {} s; nothing was changed",
                STACK_TIMEOUT.as_secs()
            );
            return Err(HttpError::new(ErrorCode::SourceUnavailable, message)
                .help("deploy fewer services at once with `mainstay deploy SERVICE…`"));
        }
    };

    let mut resolved = BTreeMap::new();
    let mut details = Vec::new();
    for (question, names, answer) in answers {
        for name in names {
            match &answer {
                Ok(found) => {
                    resolved.insert(name, found.clone());
                }
                Err(problem) => details.push(problem.detail(&name, &question)),
            }
        }
    }
    if details.is_empty() { Ok(resolved) } else { Err(unavailable(details)) }
}

fn unavailable(mut details: Vec<ErrorDetail>) -> HttpError {
    details.sort_by(|a, b| a.field.cmp(&b.field));
    let message = match details.as_slice() {
        [only] => format!("{}; nothing was changed", only.message),
        many => format!("{} sources cannot be used; nothing was changed", many.len()),
    };
    HttpError::new(ErrorCode::SourceUnavailable, message).details(details)
}

/// Why a question has no answer.
struct Problem {
    /// Part of the manifest's `services.NAME` that it is about.
    field: &'static str,
    message: String,
    help: Option<String>,
}

impl Problem {
    fn detail(&self, name: &Name, question: &Question) -> ErrorDetail {
        let value = match self.field {
            "branch" => question.reference.as_ref().map(ToString::to_string),
            _ => None,
        };
        let about = value.map(|v| format!(" (`{v}`)")).unwrap_or_default();
        ErrorDetail {
            field: Some(format!("services.{name}.{}", self.field)),
            line: None,
            column: None,
            message: format!("service {name}{about}: {}", self.message),
            help: self.help.clone(),
        }
    }
}

async fn ask(
    state: &AppState,
    question: &Question,
    credentials: &BTreeMap<Name, GitCredential>,
) -> Result<Resolved, Problem> {
    if question.git.local_path().is_some() && !state.options().allow_local_sources {
        return Err(Problem {
            field: "git",
            message: format!("{} is a folder on the control plane's machine, which this control plane does not deploy from", question.git),
            help: Some("push the repository somewhere and name that address, or start the control plane with --allow-local-sources".into()),
        });
    }
    let credential = match &question.credential {
        None => None,
        Some(name) => Some(credentials.get(name).ok_or_else(|| Problem {
            field: "credential",
            message: format!("there is no git credential `{name}`"),
            help: Some(format!("store it with `mainstay credentials add {name}`")),
        })?),
    };
    let call = state.repositories.resolve(state.git(), &question.git, question.reference.as_ref(), credential);
    let answered = tokio::time::timeout(SOURCE_TIMEOUT, call).await.map_err(|_| Problem {
        field: "git",
        message: format!("{} did not answer within {} s", question.git, SOURCE_TIMEOUT.as_secs()),
        help: Some("check whether the repository can be reached from the control plane's machine".into()),
    })?;
    let found = answered.map_err(|error| {
        let field = if matches!(error, git::GitError::NoSuchReference { .. }) { "branch" } else { "git" };
        let (message, help) = match &error {
            // The control plane's own trouble: its disk is full, a folder is not there.
            git::GitError::Io { source, .. } => {
                let help =
                    "the control plane's own machine is the reason, not the repository; see whether its disk is full";
                (format!("{error} on the control plane's machine: {source}"), Some(help.into()))
            }
            _ => (error.to_string(), None),
        };
        Problem { field, message, help }
    })?;
    Ok(Resolved { commit: found.commit, subject: found.subject.unwrap_or_default(), reference: found.reference })
}
