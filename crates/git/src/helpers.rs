//! What this binary does when git calls it under another name.
//!
//! `main` looks at `argv[0]` first and hands over: [`ssh`] for `mainstay-git-ssh`, [`askpass`] for
//! `mainstay-git-askpass`. Both learn what they need from environment variables that name files, so
//! that no key or token stands in an argument list or in an environment.

use crate::environment::{ASKPASS_HELPER, SSH_HELPER};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

pub(crate) const KNOWN_HOSTS: &str = "MAINSTAY_GIT_KNOWN_HOSTS";
pub(crate) const KEY_FILE: &str = "MAINSTAY_GIT_KEY_FILE";
pub(crate) const TOKEN_FILE: &str = "MAINSTAY_GIT_TOKEN_FILE";
pub(crate) const USER: &str = "MAINSTAY_GIT_USER";
pub(crate) const HOST: &str = "MAINSTAY_GIT_HOST";

/// Act as a helper if `argv[0]` is one of their names; `None`: this is an ordinary call.
pub fn dispatch() -> Option<ExitCode> {
    let program = std::env::args_os().next()?;
    match Path::new(&program).file_name().and_then(OsStr::to_str)? {
        SSH_HELPER => Some(ssh()),
        ASKPASS_HELPER => Some(askpass()),
        _ => None,
    }
}

/// `GIT_SSH`: become `ssh` that never asks, trusts a host's key on first sight only, and offers the
/// deploy key alone when there is one.
pub fn ssh() -> ExitCode {
    let mut command = Command::new("ssh");
    command.args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", "ConnectTimeout=20"]);
    if let Some(file) = std::env::var_os(KNOWN_HOSTS) {
        let mut option = std::ffi::OsString::from("UserKnownHostsFile=");
        option.push(file);
        command.arg("-o").arg(option);
    }
    if let Some(key) = std::env::var_os(KEY_FILE) {
        command.args(["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i"]).arg(key);
    }
    command.args(std::env::args_os().skip(1));
    let error = command.exec();
    eprintln!("ssh: could not be started: {error}; install it (`apt-get install openssh-client`)");
    ExitCode::from(127)
}

/// `GIT_ASKPASS`: answer git's question on stdout, but only about the host that the credential is for.
/// A submodule on another host never sees it.
pub fn askpass() -> ExitCode {
    let question = std::env::args().nth(1).unwrap_or_default();
    let host = std::env::var(HOST).unwrap_or_default();
    let user = std::env::var(USER).unwrap_or_default();
    let token = std::env::var_os(TOKEN_FILE).and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    match answer(&question, &host, &user, &token) {
        Some(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("mainstay: no credential is stored for this: {question}");
            ExitCode::FAILURE
        }
    }
}

/// The answer to `Username for 'https://host': ` or `Password for 'https://user@host': `.
fn answer<'a>(question: &str, host: &str, user: &'a str, token: &'a str) -> Option<&'a str> {
    let (what, rest) = question.split_once(" for '")?;
    let asked = authority(rest.split('\'').next()?)?;
    if host.is_empty() || !asked.eq_ignore_ascii_case(host) {
        return None;
    }
    match what {
        "Username" if !user.is_empty() => Some(user),
        "Password" if !token.is_empty() => Some(token),
        _ => None,
    }
}

/// Host and port of a URL, without the user.
pub(crate) fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    Some(authority.rsplit('@').next().unwrap_or(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_to_its_own_host_only() {
        let ask = |question| answer(question, "git.example.com", "deploy", "t0ken");
        assert_eq!(ask("Username for 'https://git.example.com': "), Some("deploy"));
        assert_eq!(ask("Password for 'https://deploy@git.example.com': "), Some("t0ken"));
        assert_eq!(ask("Password for 'https://deploy@evil.example.com': "), None);
        assert_eq!(ask("Password for 'https://git.example.com@evil.example.com': "), None);
        assert_eq!(ask("Password for 'https://git.example.com:8443': "), None);
        assert_eq!(answer("Password for 'https://x': ", "", "u", "t"), None);
    }
}
