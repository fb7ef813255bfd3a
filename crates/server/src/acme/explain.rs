//! What an authority said, in words that say what to do.

use api::name::HostName;
use api::tls::ChallengeKind;
use instant_acme::{Error, Problem};
use plan::certificates::Blame;

/// Why an order failed, and whose fault that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub blame: Blame,
}

impl Failure {
    pub fn of_authority(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), blame: Blame::Authority }
    }

    pub fn of_host(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), blame: Blame::Host }
    }
}

pub fn error(host: &HostName, kind: ChallengeKind, error: &Error) -> Failure {
    match error {
        Error::Api(problem) => of_problem(host, kind, problem),
        Error::Timeout(_) => Failure::of_authority("the authority had not decided when the time for it was over"),
        other => Failure::of_authority(format!("the authority cannot be spoken to: {}", chain(other))),
    }
}

pub fn of_problem(host: &HostName, kind: ChallengeKind, problem: &Problem) -> Failure {
    let said = shown(problem.detail.as_deref().unwrap_or("it gave no reason"));
    let port = match kind {
        ChallengeKind::Http01 => 80,
        ChallengeKind::TlsAlpn01 => 443,
    };
    let name = problem.r#type.as_deref().unwrap_or_default();
    let (blame, text) = match name.rsplit(':').next().unwrap_or_default() {
        "dns" => (
            Blame::Host,
            format!("the authority found no address for {host}: let its DNS lead to your servers. It said: {said}"),
        ),
        "connection" => (
            Blame::Host,
            format!(
                "the authority could not reach {host} on port {port}: does its DNS lead to your servers, and does a \
                 firewall let port {port} through? It said: {said}"
            ),
        ),
        "unauthorized" | "incorrectResponse" => (
            Blame::Host,
            format!(
                "somebody else answered the authority at {host} on port {port}: does its DNS lead to your servers, and \
                 to no other? It said: {said}"
            ),
        ),
        "tls" => (Blame::Host, format!("the authority's handshake with {host} on port {port} failed. It said: {said}")),
        "caa" => (
            Blame::Host,
            format!("a CAA record in the DNS of {host} forbids this authority: change it. It said: {said}"),
        ),
        "rateLimited" => (Blame::TooMany, format!("the authority has had too many orders. It said: {said}")),
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            (Blame::Host, format!("the authority gives no certificate for {host}. It said: {said}"))
        }
        "serverInternal" => (Blame::Authority, format!("the authority has trouble of its own. It said: {said}")),
        "userActionRequired" | "externalAccountRequired" | "accountDoesNotExist" | "invalidContact" => (
            Blame::Authority,
            format!("the authority does not accept the account: see `mainstay domains setup`. It said: {said}"),
        ),
        _ => (Blame::Authority, format!("the authority refused. It said: {said}")),
    };
    Failure { reason: text, blame }
}

/// An error with what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    shown(&text)
}

/// As much as a page shows; an authority's text is somebody else's.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_says_becomes_what_to_do_and_whose_fault_it_is() {
        let host: HostName = "shop.example.com".parse().unwrap();
        let said = |name: &str| {
            let problem = Problem {
                r#type: Some(format!("urn:ietf:params:acme:error:{name}")),
                detail: Some("10.0.0.1: refused\n".into()),
                status: Some(400),
                subproblems: vec![],
            };
            of_problem(&host, ChallengeKind::Http01, &problem)
        };
        let refused = said("connection");
        assert_eq!(refused.blame, Blame::Host);
        assert!(
            refused.reason.contains("shop.example.com on port 80") && refused.reason.ends_with("10.0.0.1: refused ")
        );
        assert_eq!(said("rateLimited").blame, Blame::TooMany);
        assert_eq!(said("serverInternal").blame, Blame::Authority);
        assert_eq!(said("somethingNew").blame, Blame::Authority);
    }
}
