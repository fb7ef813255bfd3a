//! What can go wrong with a repository, told apart by what a person has to do about it.
//!
//! Git itself says it in prose. [`classify`] reads that prose (always in English: `LC_ALL=C`) once,
//! here, so that nobody else has to.

use api::nearest::nearest;
use api::services::{CommitSha, GitRef, GitUrl};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("git is not installed on this machine; install it (`apt-get install git`) and try again")]
    NotInstalled,
    #[error("the repository {url} cannot be reached: {detail}; check the address and this machine's network")]
    Unreachable { url: String, detail: String },
    #[error("the repository {url} refused access: {detail}; {}", credential_hint(*had_credential))]
    Authentication { url: String, detail: String, had_credential: bool },
    #[error(
        "there is no repository at {url}: {detail}; check the address{}",
        if *had_credential { "" } else { " (a private repository also answers this without a credential)" }
    )]
    NoSuchRepository { url: String, detail: String, had_credential: bool },
    #[error(
        "the host key of {url} is not the one known before; if the server really changed it, remove its line from {known_hosts}"
    )]
    HostKey { url: String, known_hosts: String },
    #[error(
        "the certificate of {url} is not trusted: {detail}; if its authority is your own, add it to this machine's \
         (`update-ca-certificates`), or start Mainstay with GIT_SSL_CAINFO naming its file"
    )]
    Certificate { url: String, detail: String },
    #[error("{url} has no branch or tag `{reference}`{}", suggestion(similar, known))]
    NoSuchReference { url: String, reference: String, similar: Option<String>, known: Vec<String> },
    #[error("the repository {url} is empty: it has no commit yet; push one and deploy again")]
    Empty { url: String },
    #[error(
        "commit {commit} was not found in {url}, neither by itself nor on any branch or tag; push it and deploy again"
    )]
    NoSuchCommit { url: String, commit: CommitSha },
    #[error("{operation} took longer than {} s and was stopped; check whether {url} is slow or does not answer", after.as_secs())]
    TimedOut { operation: String, url: String, after: Duration },
    #[error("{operation} was cancelled")]
    Cancelled { operation: String },
    #[error("{operation} failed: {detail}")]
    Failed { operation: String, detail: String },
    #[error("could not {operation}")]
    Io {
        operation: String,
        #[source]
        source: std::io::Error,
    },
}

impl GitError {
    /// Whether the same call could succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Io { .. })
    }

    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled { .. })
    }

    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { operation: operation.into(), source }
    }

    pub(crate) fn no_such_reference(url: &GitUrl, reference: &GitRef, known: Vec<String>) -> Self {
        let similar = nearest(reference.as_str(), known.iter().map(String::as_str)).map(str::to_owned);
        Self::NoSuchReference { url: url.to_string(), reference: reference.to_string(), similar, known }
    }
}

fn credential_hint(had_credential: bool) -> &'static str {
    if had_credential {
        "the stored credential does not open it: check that it is valid and may read this repository"
    } else {
        "store a deploy key or token with `mainstay credentials add` and name it in `credential`"
    }
}

fn suggestion(similar: &Option<String>, known: &[String]) -> String {
    if let Some(similar) = similar {
        return format!("; did you mean `{similar}`?");
    }
    match known {
        [] => String::new(),
        _ => {
            let shown: Vec<String> = known.iter().take(8).map(|name| format!("`{name}`")).collect();
            let more = if known.len() > 8 { ", …" } else { "" };
            format!("; it has {}{more}", shown.join(", "))
        }
    }
}

/// What git's last words mean. `stderr` holds its last lines, newest last.
pub(crate) fn classify(
    operation: &str,
    url: Option<&GitUrl>,
    had_credential: bool,
    known_hosts: &std::path::Path,
    stderr: &[String],
) -> GitError {
    let detail = detail_of(stderr);
    let Some(url) = url.map(ToString::to_string) else {
        return GitError::Failed { operation: operation.into(), detail };
    };
    let all = stderr.join("\n").to_ascii_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| all.contains(text));
    if says(&["host key verification failed", "remote host identification has changed"]) {
        return GitError::HostKey { url, known_hosts: known_hosts.display().to_string() };
    }
    if says(&["certificate verif", "certificate problem", "certificate subject name", "certificate has expired"]) {
        return GitError::Certificate { url, detail };
    }
    if says(&[
        "authentication failed",
        "could not read username",
        "could not read password",
        "permission denied (",
        "invalid username or",
        "terminal prompts disabled",
        "returned error: 401",
        "returned error: 403",
        "unable to read askpass",
        "too many authentication failures",
        "load key",
    ]) {
        return GitError::Authentication { url, detail, had_credential };
    }
    if says(&[
        "could not resolve host",
        "connection refused",
        "connection timed out",
        "operation timed out",
        "timed out",
        "unable to connect",
        "failed to connect",
        "couldn't connect",
        "could not connect",
        "network is unreachable",
        "no route to host",
        "connection reset",
        "early eof",
        "temporary failure in name resolution",
        "name or service not known",
        "unable to look up",
        "hung up unexpectedly",
        "rpc failed",
        "unexpected disconnect",
        "returned error: 5",
        "connection closed by",
        "kex_exchange_identification",
        "ssl",
        "tls",
        "operation too slow",
        "returned error: 429",
    ]) {
        return GitError::Unreachable { url, detail };
    }
    if says(&[
        "repository not found",
        "does not appear to be a git repository",
        "returned error: 404",
        "not exported",
        "' not found",
        "no such file or directory",
        "does not exist",
        "not a git repository",
        "not found:",
    ]) {
        return GitError::NoSuchRepository { url, detail, had_credential };
    }
    GitError::Failed { operation: format!("{operation} of {url}"), detail }
}

/// The lines that matter: those that git marks, else the last one.
fn detail_of(stderr: &[String]) -> String {
    let marked: Vec<&str> = stderr
        .iter()
        .map(|line| line.trim())
        .filter(|line| ["fatal:", "error:", "remote:", "ssh:", "ERROR:"].iter().any(|mark| line.starts_with(mark)))
        .filter(|line| !line.contains("Please make sure you have the correct access rights"))
        .map(|line| line.trim_start_matches("fatal: ").trim_start_matches("error: ").trim_end_matches('.'))
        .collect();
    let chosen = match marked.as_slice() {
        [] => stderr.last().map(|line| line.trim().to_owned()).unwrap_or_else(|| "git gave no reason".into()),
        many => many[many.len().saturating_sub(3)..].join("; "),
    };
    chosen.chars().take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(stderr: &str) -> GitError {
        let url: GitUrl = "https://example.com/a.git".parse().unwrap();
        let lines: Vec<String> = stderr.lines().map(str::to_owned).collect();
        classify("fetching", Some(&url), false, std::path::Path::new("/k"), &lines)
    }

    #[test]
    fn what_git_says_becomes_what_a_person_can_do() {
        let unreachable =
            kind("fatal: unable to access 'https://example.com/a.git/': Could not resolve host: example.com");
        assert!(matches!(unreachable, GitError::Unreachable { .. }) && unreachable.retryable());
        let refused = kind("fatal: could not read Username for 'https://example.com': terminal prompts disabled");
        assert!(matches!(refused, GitError::Authentication { .. }) && !refused.retryable());
        assert!(refused.to_string().contains("mainstay credentials add"), "{refused}");
        let key =
            kind("git@example.com: Permission denied (publickey).\nfatal: Could not read from remote repository.");
        assert!(matches!(key, GitError::Authentication { .. }), "{key}");
        let gone = kind("remote: Repository not found.\nfatal: repository 'https://example.com/a.git/' not found");
        assert!(matches!(gone, GitError::NoSuchRepository { .. }) && !gone.retryable());
        assert!(matches!(kind("Host key verification failed."), GitError::HostKey { .. }));
        for says in [
            "fatal: unable to access 'https://x/a.git/': server certificate verification failed. CAfile: none CRLfile: none",
            "fatal: unable to access 'https://x/a.git/': SSL certificate problem: unable to get local issuer certificate",
            "fatal: unable to access 'https://x/a.git/': SSL: no alternative certificate subject name matches target host name 'x'",
        ] {
            let error = kind(says);
            assert!(matches!(error, GitError::Certificate { .. }) && !error.retryable(), "{error}");
        }
        assert!(matches!(kind("fatal: something new"), GitError::Failed { .. }));
    }

    #[test]
    fn a_mistyped_branch_gets_the_closest_name() {
        let url: GitUrl = "file:///srv/a".parse().unwrap();
        let known = vec!["main".to_owned(), "release/1.0".to_owned()];
        let error = GitError::no_such_reference(&url, &"mian".parse().unwrap(), known.clone());
        assert!(error.to_string().contains("did you mean `main`"), "{error}");
        let error = GitError::no_such_reference(&url, &"production".parse().unwrap(), known);
        assert!(error.to_string().contains("it has `main`, `release/1.0`"), "{error}");
    }
}
