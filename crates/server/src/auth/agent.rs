//! Requests of agents, believed only as they were signed.
//!
//! The signature is checked over the raw body before anything looks into it: what an attacker can
//! reach without a machine's secret is a hash function and one read of the store. The order is
//! headers, identity, body and signature, clock, and the nonce last, so that nobody can burn the
//! nonces of another machine or fill the table, and so that a machine whose clock is all that is wrong
//! can be told from one that is switched off ([`crate::wrong_clocks`]).

use crate::clock;
use crate::error::HttpError;
use crate::requests::CurrentRequest;
use crate::state::AppState;
use api::cause::Actor;
use api::error::ErrorCode;
use api::ids::{RequestId, ServerId};
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use store::Scope;
use wire::request::{HEADER_CONTENT, HEADER_NONCE, HEADER_SERVER, HEADER_SIGNATURE, HEADER_TIMESTAMP, RequestParts};
use wire::{RequestSignature, RequestSigner, SignatureError};

/// Who does not get its body across in this time may not hold the connection any longer: the
/// long-poll has no other limit.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A full report of a large machine is some hundred kilobytes; a batch of logs is compressed.
const BODY_LIMIT_BYTES: usize = 8 * 1024 * 1024;

/// A request that a known machine made, once, just now.
pub struct SignedRequest {
    pub server: store::Server,
    pub scope: Scope,
    pub request_id: RequestId,
    pub body: Bytes,
    /// The address that it came from, as far as that can be known.
    pub from: Option<IpAddr>,
}

impl FromRequest<AppState> for SignedRequest {
    type Rejection = HttpError;
    async fn from_request(request: Request, state: &AppState) -> Result<Self, HttpError> {
        let (mut parts, body) = request.into_parts();
        let CurrentRequest(request_id) = CurrentRequest::from_request_parts(&mut parts, state).await?;
        let (server_id, signature) = read_headers(&parts.headers).map_err(refuse)?;
        // Of the moment at which it came: the body may take its time.
        let now_ms = clock::now_ms();
        let body = read_body(body).await?;
        let Some((organization, server)) = state.store().server_authenticate(&server_id).await? else {
            return Err(HttpError::new(
                ErrorCode::SignatureRefused,
                "this server is not known here: it was removed, or it joined after the backup that this control plane was restored from",
            )
            .help(
                "what runs on it goes on. To let it join again, stop its agent, move agent/identity.json and \
                 agent/ledger.db away from its data directory, and run: mainstay agent --join URL --token TOKEN",
            ));
        };
        let signer = RequestSigner::from_base64(&server.secret).map_err(HttpError::internal)?;
        let signed = RequestParts {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            body: &body,
        };
        signer.verify(&signed, &signature, signature.timestamp_ms).map_err(refuse)?;
        let difference_ms = signature.timestamp_ms.saturating_sub(now_ms);
        if difference_ms.saturating_abs() > wire::CLOCK_WINDOW_MS {
            state.wrong_clocks.note(&server_id, difference_ms);
            return Err(refuse(SignatureError::Clock { difference_ms }));
        }
        let keep_until_ms = signature.timestamp_ms + wire::NONCE_LIFETIME_MS;
        let claimed = state.store().nonce_claim(&server_id, &signature.nonce, keep_until_ms).await;
        // That it cannot be written down is our trouble; the machine is there.
        if !claimed.inspect_err(|_| state.excuse(&server_id, state.steady.now_ms()))? {
            return Err(HttpError::new(
                ErrorCode::SignatureRefused,
                "this request was made before: its nonce is used up",
            ));
        }
        state.wrong_clocks.forget(&server_id);
        let actor = Actor::Agent { server: server.name.to_string() };
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let from = came_from(peer, &parts.headers);
        Ok(Self { server, scope: Scope { organization, actor }, request_id, body, from })
    }
}

/// Behind a proxy on this machine, the address that the proxy saw: the last that it added. Whoever else sends such a
/// header is not believed.
fn came_from(peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
    let peer = peer?.to_canonical();
    if !peer.is_loopback() {
        return Some(peer);
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    forwarded.rsplit(',').next()?.trim().parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

async fn read_body(body: axum::body::Body) -> Result<Bytes, HttpError> {
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, BODY_LIMIT_BYTES)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let message = format!("the body is broken off or larger than {BODY_LIMIT_BYTES} bytes");
            Err(HttpError::new(ErrorCode::TooLarge, message))
        }
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(HttpError::new(ErrorCode::InvalidInput, message))
        }
    }
}

fn refuse(error: SignatureError) -> HttpError {
    let refused = HttpError::new(ErrorCode::SignatureRefused, format!("the request's signature is refused: {error}"));
    match error {
        SignatureError::Clock { .. } => {
            refused.help("set the machine's clock, for example with systemd-timesyncd or chrony")
        }
        _ => refused,
    }
}

fn read_headers(headers: &HeaderMap) -> Result<(ServerId, RequestSignature), SignatureError> {
    // Exactly one of each: with two, another part of the way could believe the other one.
    let text = |name: &'static str| {
        let mut values = headers.get_all(name).iter();
        let only = values.next().filter(|_| values.next().is_none());
        only.and_then(|value| value.to_str().ok()).ok_or(SignatureError::Header(name))
    };
    let server_id = text(HEADER_SERVER)?.parse().map_err(|_| SignatureError::Header(HEADER_SERVER))?;
    let timestamp_ms = text(HEADER_TIMESTAMP)?.parse().map_err(|_| SignatureError::Header(HEADER_TIMESTAMP))?;
    let signature = RequestSignature {
        timestamp_ms,
        nonce: text(HEADER_NONCE)?.to_owned(),
        content_sha256: text(HEADER_CONTENT)?.to_owned(),
        signature: text(HEADER_SIGNATURE)?.to_owned(),
    };
    Ok((server_id, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: Option<&str>, forwarded: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        forwarded.iter().for_each(|value| {
            headers.append("x-forwarded-for", value.parse().unwrap());
        });
        came_from(peer.map(|address| address.parse().unwrap()), &headers).map(|address| address.to_string())
    }

    #[test]
    fn a_request_comes_from_its_peer_or_from_whom_a_proxy_on_this_machine_saw() {
        assert_eq!(from(Some("203.0.113.9"), &["198.51.100.1"]).as_deref(), Some("203.0.113.9"));
        assert_eq!(from(Some("::ffff:203.0.113.9"), &[]).as_deref(), Some("203.0.113.9"));
        // What the visitor wrote itself stands before what the proxy adds.
        assert_eq!(from(Some("127.0.0.1"), &["10.0.0.1, 203.0.113.9"]).as_deref(), Some("203.0.113.9"));
        assert_eq!(from(Some("::1"), &["10.0.0.1", "203.0.113.9"]).as_deref(), Some("203.0.113.9"));
        assert_eq!(from(Some("127.0.0.1"), &["somewhere"]), None);
        assert_eq!(from(Some("127.0.0.1"), &[]), None);
        assert_eq!(from(None, &["203.0.113.9"]), None);
    }
}
