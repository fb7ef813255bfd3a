//! Who looks at a page, and the one layer around all pages.
//!
//! A handler that takes a [`Visitor`] has a signed-in caller and the frame for its page. A handler
//! that takes a [`Submitted`] has, besides, the fields of a form that came from a page of this very
//! session. Errors are the API's own; the layer turns them into pages, and the error "not signed in"
//! into the way to the sign-in page.

use super::frame::{Frame, Message, Undo};
use super::problems::problem_page;
use crate::auth::Caller;
use crate::clock;
use crate::error::HttpError;
use crate::requests::CurrentRequest;
use crate::state::AppState;
use api::error::{ApiError, ErrorCode};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use subtle::ConstantTimeEq;

/// Holds the message that the next page shows once.
const MESSAGE_COOKIE: &str = "mainstay_message";
/// Longest message that travels in a cookie.
const MESSAGE_LIMIT: usize = 600;

/// Only what this server sends itself, nothing inline, no frames, forms only to here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// A signed-in caller who looks at a page.
pub struct Visitor {
    pub caller: Caller,
    pub frame: Frame,
}

/// Where an extractor leaves the frame for the page of an error that comes later.
#[derive(Clone, Default)]
struct FrameSlot(Arc<OnceLock<Frame>>);

impl FromRequestParts<AppState> for Visitor {
    type Rejection = HttpError;
    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, HttpError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let frame =
            Frame { user: Some(caller.name().to_owned()), csrf: form_token(&caller), ..anonymous_frame(parts, state) };
        if let Some(slot) = parts.extensions.get::<FrameSlot>() {
            let _ = slot.0.set(Frame { message: None, ..frame.clone() });
        }
        Ok(Self { caller, frame })
    }
}

/// The frame of a page that anyone may see.
pub fn anonymous_frame(parts: &Parts, state: &AppState) -> Frame {
    Frame {
        user: None,
        csrf: String::new(),
        now_ms: clock::now_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        path: parts.uri.path().to_owned(),
        message: message_of(&parts.headers),
        address: address_of(&parts.headers, state),
    }
}

/// The address to show in commands: the configured one, else the one that this browser used.
fn address_of(headers: &HeaderMap, state: &AppState) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let plain = |host: &&str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
    };
    match (&state.options().public_url, host.filter(plain)) {
        (None, Some(host)) => format!("http://{host}"),
        _ => state.public_url(),
    }
}

/// What the forms of one session carry. It follows from the session's secret, so no other site can
/// know it, and says nothing about that secret. Callers with a token need none: a browser does not
/// send tokens by itself.
fn form_token(caller: &Caller) -> String {
    caller
        .session()
        .map(|secret| wire::sha256_hex(format!("mainstay form {}", secret.expose()).as_bytes()))
        .unwrap_or_default()
}

/// A form from a page of this session.
pub struct Submitted {
    pub visitor: Visitor,
    fields: BTreeMap<String, String>,
}

impl Submitted {
    /// A field's text without space around it; empty when it was not sent.
    pub fn text(&self, name: &str) -> &str {
        self.fields.get(name).map(|value| value.trim()).unwrap_or_default()
    }

    /// A field's text exactly as it was sent: a password or a value may begin with a space.
    pub fn raw(&self, name: &str) -> &str {
        self.fields.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Refuses unless the name was written out that a destructive form asks for.
    pub fn confirm(&self, name: &str) -> Result<(), HttpError> {
        if self.text("confirm") == name {
            return Ok(());
        }
        Err(HttpError::invalid("confirm", format!("nothing was removed: to confirm, write `{name}`")))
    }
}

impl FromRequest<AppState> for Submitted {
    type Rejection = HttpError;
    async fn from_request(request: Request, state: &AppState) -> Result<Self, HttpError> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, state).await?;
        let fields = form_fields(Request::from_parts(parts, body), state).await?;
        let sent = fields.get("csrf").map(String::as_str).unwrap_or_default();
        let expected = visitor.frame.csrf.as_str();
        if !bool::from(sent.as_bytes().ct_eq(expected.as_bytes())) {
            return Err(HttpError::new(
                ErrorCode::InvalidInput,
                "this form does not come from a page of this session, so nothing was changed",
            )
            .help("go back, load the page again and send the form once more"));
        }
        Ok(Self { visitor, fields })
    }
}

/// The fields of a form; of a field that was sent twice, the last.
pub async fn form_fields(request: Request, state: &AppState) -> Result<BTreeMap<String, String>, HttpError> {
    let body = Bytes::from_request(request, state).await.map_err(|rejection| {
        HttpError::new(ErrorCode::TooLarge, format!("the form cannot be read: {}", rejection.body_text()))
    })?;
    Ok(url::form_urlencoded::parse(&body).into_owned().collect())
}

/// Back to a page, which shows a message once.
pub fn redirect(path: &str, message: Option<Message>) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, location);
    if let Some(cookie) = message.and_then(|message| HeaderValue::from_str(&message_cookie(&message)).ok()) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The end of a form that changes something: back to where it was sent from, with what came of it.
/// What a person can understand and mend is a message there; what is ours is a page of its own.
pub fn finish<T, M: Into<Message>>(
    result: Result<T, HttpError>,
    path: &str,
    good: impl FnOnce(T) -> M,
) -> Result<Response, HttpError> {
    match result {
        Ok(value) => Ok(redirect(path, Some(good(value).into()))),
        Err(HttpError::Answer(answer)) if answer.code != ErrorCode::NotFound => {
            let help = answer.help.as_deref().map(super::problems::sentence).unwrap_or_default();
            let text = format!("{} {help}", super::problems::sentence(&answer.message));
            Ok(redirect(path, Some(Message::bad(text.trim_end()))))
        }
        Err(error) => Err(error),
    }
}

fn message_cookie(message: &Message) -> String {
    let text: String = message.text.chars().take(MESSAGE_LIMIT).collect();
    let kind = if message.good { "good" } else { "bad" };
    let mut value = url::form_urlencoded::Serializer::new(String::new());
    value.append_pair("text", &text);
    if let Some(undo) = &message.undo {
        value.append_pair("undo", &undo.label).append_pair("path", &undo.path);
    }
    let value = value.finish();
    format!("{MESSAGE_COOKIE}={kind}.{value}; Path=/; HttpOnly; SameSite=Strict; Max-Age=60")
}

fn message_of(headers: &HeaderMap) -> Option<Message> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (kind, value) = pairs.find(|(name, _)| *name == MESSAGE_COOKIE)?.1.split_once('.')?;
    let fields: BTreeMap<String, String> = url::form_urlencoded::parse(value.as_bytes()).into_owned().collect();
    let text = fields.get("text")?.chars().take(MESSAGE_LIMIT).collect();
    // A cookie is not to be trusted with where a link leads.
    let undo = fields
        .get("undo")
        .zip(fields.get("path"))
        .map(|(label, path)| Undo { label: label.chars().take(80).collect(), path: safe_next(path).to_owned() });
    Some(Message { good: kind == "good", text, undo })
}

/// Where a sign-in may lead on to: a path of this server, nothing else.
pub fn safe_next(next: &str) -> &str {
    let inside =
        next.starts_with('/') && !next.starts_with("//") && !next.contains('\\') && !next.chars().any(char::is_control);
    if inside && next.len() < 1_000 { next } else { "/" }
}

/// The layer around all pages.
pub async fn around_pages(mut request: Request, next: Next) -> Response {
    let slot = FrameSlot::default();
    request.extensions_mut().insert(slot.clone());
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let wanted = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let had_message = message_of(request.headers()).is_some();
    let stream = request.uri().path().ends_with("/stream");
    let request_id = request.extensions().get::<CurrentRequest>().map(|current| current.0.clone());

    let mut response = next.run(request).await;
    if let Some(mut error) = response.extensions_mut().remove::<ApiError>() {
        error.request_id = request_id;
        // What was sent in a form would be lost on the way; it is told instead.
        let answered = if error.code == ErrorCode::Unauthenticated && slot.0.get().is_none() && safe && !stream {
            to_sign_in(&wanted)
        } else {
            let frame = slot.0.get().cloned().unwrap_or_else(nobody);
            (response.status(), problem_page(&error, &frame)).into_response()
        };
        let kept = response.headers_mut().remove(header::RETRY_AFTER);
        response = answered;
        if let Some(wait) = kept {
            response.headers_mut().insert(header::RETRY_AFTER, wait);
        }
    }
    finish_headers(&mut response, had_message);
    response
}

/// Turns errors outside of the pages into pages for those who read pages: a mistyped address.
pub async fn errors_for_people(mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let accepts = request
        .headers()
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("text/html")));
    if !accepts || path.starts_with("/api/") {
        return next.run(request).await;
    }
    let request_id = request.extensions().get::<CurrentRequest>().map(|current| current.0.clone());
    let slot = FrameSlot::default();
    request.extensions_mut().insert(slot.clone());
    let mut response = next.run(request).await;
    if let Some(mut error) = response.extensions_mut().remove::<ApiError>() {
        error.request_id = request_id;
        let frame = slot.0.get().cloned().unwrap_or_else(nobody);
        response = (response.status(), problem_page(&error, &frame)).into_response();
        finish_headers(&mut response, false);
    }
    response
}

/// For whoever answers at an address that leads nowhere: if a person looks, their page has the navigation to go on with.
pub async fn remember_visitor(parts: &mut Parts, state: &AppState) {
    if parts.extensions.get::<FrameSlot>().is_some() {
        // A stranger gets the page without it.
        let _ = Visitor::from_request_parts(parts, state).await;
    }
}

fn to_sign_in(next: &str) -> Response {
    let next: String = url::form_urlencoded::byte_serialize(safe_next(next).as_bytes()).collect();
    if next == "%2F" { redirect("/login", None) } else { redirect(&format!("/login?next={next}"), None) }
}

fn nobody() -> Frame {
    Frame {
        user: None,
        csrf: String::new(),
        now_ms: clock::now_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        path: String::new(),
        message: None,
        address: String::new(),
    }
}

fn finish_headers(response: &mut Response, had_message: bool) {
    let is_page =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    if is_page && had_message {
        let forget = HeaderValue::from_static("mainstay_message=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
        headers.append(header::SET_COOKIE, forget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_its_cookie_and_is_bounded() {
        let message =
            Message::bad("no; such=thing & more, “ü” <b>\n").undo("Start it again", "/stacks/a/services/b/start");
        let cookie = message_cookie(&message);
        let pair = cookie.split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("other=1; {pair}").parse().unwrap());
        assert_eq!(message_of(&headers), Some(message));
        assert!(message_cookie(&Message::good("x".repeat(9_000))).len() < 1_000);
    }

    #[test]
    fn a_sign_in_leads_on_to_this_server_only() {
        assert_eq!(safe_next("/stacks/shop?filter=a"), "/stacks/shop?filter=a");
        for bad in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/a\r\nset-cookie: x",
            "",
            "javascript:alert(1)",
        ] {
            assert_eq!(safe_next(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn a_mistake_goes_back_as_a_message_and_a_failure_of_ours_does_not() {
        let conflict: Result<(), _> = Err(HttpError::conflict("there is nothing to go back to"));
        let back = finish(conflict, "/stacks/shop", |()| String::new()).unwrap();
        assert_eq!(back.status(), StatusCode::SEE_OTHER);
        assert!(
            back.headers()["set-cookie"].to_str().unwrap().starts_with("mainstay_message=bad.text=There+is+nothing")
        );
        let ours: Result<(), _> = Err(HttpError::internal(anyhow::anyhow!("x")));
        assert!(finish(ours, "/", |()| String::new()).is_err());
    }
}
