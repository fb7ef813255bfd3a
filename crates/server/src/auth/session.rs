//! The session cookie: a random text that means nothing without the sessions table.

use crate::state::AppState;
use api::UnixMillis;
use api::secret::Secret;
use axum::http::{HeaderMap, header};

pub const COOKIE: &str = "mainstay_session";

/// How long a session is good without signing in again.
pub const LIFETIME_MS: i64 = 14 * 24 * 60 * 60 * 1000;

/// A session just begun.
pub struct NewSession {
    pub token: Secret,
    pub expires_at_ms: UnixMillis,
}

/// The `Set-Cookie` of a new session: unreadable for scripts, not sent by other sites' forms.
pub fn cookie(session: &NewSession, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    let age_seconds = LIFETIME_MS / 1000;
    format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age_seconds}{secure}", session.token.expose())
}

/// The `Set-Cookie` that makes a browser forget.
pub fn no_cookie() -> String {
    format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// Whether the browser's side of the connection is TLS: a proxy in front says so, or the settings do.
pub fn is_secure(state: &AppState, headers: &HeaderMap) -> bool {
    let forwarded = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    forwarded || state.options().public_url.as_ref().is_some_and(|url| url.starts_with("https://"))
}

/// The session's text in a request's cookies.
pub fn of_request(headers: &HeaderMap) -> Option<Secret> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, value)| *name == COOKIE && !value.is_empty()).map(|(_, value)| Secret::new(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; xmainstay_session=no".parse().unwrap());
        headers.append(header::COOKIE, "b=2; mainstay_session=yes".parse().unwrap());
        assert_eq!(of_request(&headers).unwrap().expose(), "yes");
        headers.clear();
        headers.append(header::COOKIE, "mainstay_session=".parse().unwrap());
        assert!(of_request(&headers).is_none());
    }
}
