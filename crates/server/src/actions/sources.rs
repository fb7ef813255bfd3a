//! From branches and tags to exact commits and image digests, once per plan, so that all servers run identical code.
//!
//! Services that share a repository and reference, or an image, are asked for once. All are asked at
//! the same time, a few at most, each with a limit of time: one that hangs delays nobody for longer
//! than that, and every service whose source is not usable is named in one error.

use crate::error::HttpError;
use crate::registry::RegistryError;
use crate::state::AppState;
use api::desired::GitCredential;
use api::error::{ErrorCode, ErrorDetail};
use api::images::{ImageReference, PullPolicy, RegistryCredential};
use api::name::Name;
use api::plans::StackSpec;
use api::services::{GitRef, GitUrl, ServiceSpec, SourceSpec, SourceVersion};
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
    pub version: SourceVersion,
    /// First line of the commit's message, or the image as it is written.
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
enum Question {
    Git { git: GitUrl, reference: Option<GitRef>, credential: Option<Name> },
    Image { image: ImageReference, pull: PullPolicy, credential: Option<Name> },
}

impl Question {
    fn of(spec: &ServiceSpec) -> Self {
        match spec.source.clone() {
            SourceSpec::Git(source) => {
                Self::Git { git: source.git, reference: source.reference, credential: source.credential }
            }
            SourceSpec::Image(source) => {
                Self::Image { image: source.image, pull: source.pull, credential: source.credential }
            }
        }
    }

    /// What is told with a problem of a part of the manifest.
    fn value(&self, field: &str) -> Option<String> {
        match self {
            Self::Git { reference, .. } if field == "branch" => reference.as_ref().map(ToString::to_string),
            Self::Git { .. } | Self::Image { .. } => None,
        }
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
        let about = question.value(self.field).map(|v| format!(" (`{v}`)")).unwrap_or_default();
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
    let stored = |name: &Option<Name>| match name {
        None => Ok(None),
        Some(name) => credentials.get(name).map(Some).ok_or_else(|| Problem {
            field: "credential",
            message: format!("there is no credential `{name}`"),
            help: Some(format!("store it with `mainstay credentials add {name}`")),
        }),
    };
    match question {
        Question::Git { git, reference, credential } => {
            ask_repository(state, git, reference.as_ref(), stored(credential)?).await
        }
        Question::Image { image, pull, credential } => ask_registry(state, image, *pull, stored(credential)?).await,
    }
}

async fn ask_registry(
    state: &AppState,
    image: &ImageReference,
    pull: PullPolicy,
    credential: Option<&GitCredential>,
) -> Result<Resolved, Problem> {
    let found = |version| Resolved { version, subject: image.to_string(), reference: None };
    if pull == PullPolicy::Never {
        return Ok(found(SourceVersion::local(image)));
    }
    if let Some(digest) = image.digest() {
        return Ok(found(digest.into()));
    }
    let credential = match credential {
        None => None,
        Some(GitCredential::Token { user, token }) => {
            Some(RegistryCredential { user: user.clone(), password: token.clone() })
        }
        Some(GitCredential::DeployKey { .. }) => {
            return Err(Problem {
                field: "credential",
                message: "a deploy key opens no registry".into(),
                help: Some(
                    "store user and token: `mainstay credentials add NAME --user USER --git-token-file FILE`".into(),
                ),
            });
        }
    };
    let asked = tokio::time::timeout(SOURCE_TIMEOUT, state.registries.resolve(image, credential.as_ref()));
    let answered = asked.await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", SOURCE_TIMEOUT.as_secs());
        Err(RegistryError::Unreachable { registry: image.registry().to_owned(), reason })
    });
    let digest =
        answered.map_err(|error| Problem { field: "image", message: error.to_string(), help: error.help() })?;
    Ok(found(digest.into()))
}

async fn ask_repository(
    state: &AppState,
    url: &GitUrl,
    reference: Option<&GitRef>,
    credential: Option<&GitCredential>,
) -> Result<Resolved, Problem> {
    if url.local_path().is_some() && !state.options().allow_local_sources {
        return Err(Problem {
            field: "git",
            message: format!("{} is a folder on the control plane's machine, which this control plane does not deploy from", url),
            help: Some("push the repository somewhere and name that address, or start the control plane with --allow-local-sources".into()),
        });
    }
    let call = state.repositories.resolve(state.git(), url, reference, credential);
    let answered = tokio::time::timeout(SOURCE_TIMEOUT, call).await.map_err(|_| Problem {
        field: "git",
        message: format!("{} did not answer within {} s", url, SOURCE_TIMEOUT.as_secs()),
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
    Ok(Resolved {
        version: found.commit.into(),
        subject: found.subject.unwrap_or_default(),
        reference: found.reference,
    })
}
