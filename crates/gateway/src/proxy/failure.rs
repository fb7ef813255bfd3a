//! What a visitor is told when a request cannot be answered by a service.
//!
//! One enum of reasons, one small page in three forms (HTML, JSON, plain text, as the client
//! accepts). A page names the service and what is wrong with it, the request id under which the
//! operator finds it, and what to do next. It never holds an address or a port: those are the
//! operator's, and the access log and the agent's report have them.

use api::name::Name;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use std::time::Duration;

/// Why a request got no answer from a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    BadRequest {
        what: &'static str,
    },
    /// Too many header lines, or too long ones.
    HeadTooLarge,
    MethodRefused {
        method: String,
    },
    NoRoute,
    NoSuchInternalName {
        host: String,
    },
    /// The service has no instance that gets requests.
    Unavailable {
        service: Name,
        reason: String,
    },
    /// Every instance that was tried refused the connection.
    Refused {
        service: Name,
    },
    ConnectTimeout {
        service: Name,
        limit: Duration,
    },
    /// The instance closed the connection or sent what is not HTTP.
    Broken {
        service: Name,
    },
    AnswerTimeout {
        service: Name,
        limit: Duration,
    },
    /// The client stopped sending in the middle of its body.
    BodyTimeout,
    BodyBroken,
}

impl Failure {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest { .. } | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::MethodRefused { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute | Self::NoSuchInternalName { .. } => StatusCode::NOT_FOUND,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused { .. } | Self::Broken { .. } => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout { .. } | Self::AnswerTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }

    fn service(&self) -> Option<&Name> {
        match self {
            Self::Unavailable { service, .. }
            | Self::Refused { service }
            | Self::ConnectTimeout { service, .. }
            | Self::Broken { service }
            | Self::AnswerTimeout { service, .. } => Some(service),
            _ => None,
        }
    }

    /// What happened, as a sentence.
    fn reason(&self) -> String {
        match self {
            Self::BadRequest { what } => format!("This request cannot be understood: {what}."),
            Self::HeadTooLarge => "This request has more or longer headers than are passed on.".into(),
            Self::MethodRefused { method } => format!("The method {method} is not passed on."),
            Self::NoRoute => "Nothing is served at this address.".into(),
            Self::NoSuchInternalName { host } => format!("No service on this machine is called {host}."),
            Self::Unavailable { service, reason } if reason.is_empty() => format!("{service} is not running."),
            Self::Unavailable { reason, .. } => format!("{}.", reason.trim_end_matches('.')),
            Self::Refused { service } => format!("{service} does not accept connections."),
            Self::ConnectTimeout { service, limit } => {
                format!("{service} could not be reached within {}.", seconds(*limit))
            }
            Self::Broken { service } => format!("{service} broke off the connection before it had answered."),
            Self::AnswerTimeout { service, limit } => format!("{service} did not answer within {}.", seconds(*limit)),
            Self::BodyTimeout => "The request stopped arriving before it was complete.".into(),
            Self::BodyBroken => "The request ended before it was complete.".into(),
        }
    }

    /// What to do next.
    fn advice(&self) -> String {
        match self {
            Self::BadRequest { .. } | Self::HeadTooLarge | Self::MethodRefused { .. } => {
                "Check the client that sent it.".into()
            }
            Self::NoRoute => "Check the address. If it is yours, see its routes with `mainstay status`.".into(),
            Self::NoSuchInternalName { .. } => "See the names with `mainstay status`.".into(),
            Self::Unavailable { service, .. } => {
                format!("Try again in a moment. If it is yours, see `mainstay status {service}`.")
            }
            Self::Refused { service } | Self::Broken { service } => {
                format!("Try again in a moment. If it is yours, see `mainstay logs {service}`.")
            }
            Self::ConnectTimeout { service, .. } | Self::AnswerTimeout { service, .. } => {
                format!("Try again later. If it is yours, see `mainstay logs {service}`.")
            }
            Self::BodyTimeout | Self::BodyBroken => "Check the connection and send it again.".into(),
        }
    }

    /// Whether what follows the request can be read as the next one.
    fn leaves_readable(&self) -> bool {
        !matches!(self, Self::BadRequest { .. } | Self::HeadTooLarge | Self::BodyTimeout | Self::BodyBroken)
    }

    /// The answer without its body's owner; the caller wraps the text.
    pub fn page(&self, form: Form, request_id: &str) -> Response<Bytes> {
        let (content_type, text) = match form {
            Form::Html => ("text/html; charset=utf-8", self.html(request_id)),
            Form::Json => ("application/json", self.json(request_id)),
            Form::Plain => ("text/plain; charset=utf-8", self.plain(request_id)),
        };
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        if matches!(self, Self::Unavailable { .. }) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }

    fn title(&self) -> String {
        let status = self.status();
        format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
    }

    fn plain(&self, request_id: &str) -> String {
        format!("{}\n\n{}\n{}\n\nRequest id: {request_id}\n", self.title(), self.reason(), self.advice())
    }

    fn json(&self, request_id: &str) -> String {
        let value = serde_json::json!({
            "status": self.status().as_u16(),
            "service": self.service(),
            "reason": self.reason(),
            "advice": self.advice(),
            "request_id": request_id,
        });
        format!("{value}\n")
    }

    fn html(&self, request_id: &str) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <meta name=\"robots\" content=\"noindex\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <main>\n<p class=\"code\">{title}</p>\n<h1>{reason}</h1>\n<p>{advice}</p>\n\
             <p class=\"id\">Request id <code>{request_id}</code></p>\n</main>\n</html>\n",
            title = escape(&self.title()),
            reason = escape(&self.reason()),
            advice = code_marks(&escape(&self.advice())),
            request_id = escape(request_id),
        )
    }
}

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1c2024;--soft:#60646c;--page:#fcfcfd;--line:#e0e1e6}\
@media(prefers-color-scheme:dark){:root{--ink:#edeef0;--soft:#b0b4ba;--page:#111113;--line:#2e3135}}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--page);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif}main{max-width:34rem;padding:2rem}h1{font-size:1.5rem;line-height:1.3;margin:.25rem 0 1rem}\
p{margin:0 0 1rem}.code,.id{color:var(--soft);font-size:.875rem}.id{border-top:1px solid var(--line);padding-top:1rem}\
code{font-family:ui-monospace,monospace;overflow-wrap:anywhere}";

/// What is answered in place of a service.
#[derive(Debug)]
pub enum Instead {
    Failure(Failure),
    /// Nothing is wrong: it is for the gateway to answer.
    Own(Box<Response<Bytes>>),
}

impl From<Failure> for Instead {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Response<Bytes>> for Instead {
    fn from(response: Response<Bytes>) -> Self {
        Self::Own(Box::new(response))
    }
}

impl Instead {
    pub fn page(self, form: Form, request_id: &str) -> Response<Bytes> {
        match self {
            Self::Failure(failure) => failure.page(form, request_id),
            Self::Own(response) => *response,
        }
    }

    /// Whether what follows the request can be read as the next one.
    pub fn leaves_readable(&self) -> bool {
        match self {
            Self::Failure(failure) => failure.leaves_readable(),
            Self::Own(_) => true,
        }
    }
}

/// What the client would like to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Html,
    Json,
    Plain,
}

impl Form {
    /// By an `Accept` header. Quality values are not weighed: whoever names HTML is a browser, and
    /// whoever names JSON and not HTML is a program.
    pub fn of(accept: &[u8]) -> Self {
        let mut form = Self::Plain;
        for range in accept.split(|byte| *byte == b',') {
            let kind = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            if kind.eq_ignore_ascii_case(b"text/html") {
                return Self::Html;
            }
            if kind.eq_ignore_ascii_case(b"application/json") {
                form = Self::Json;
            }
        }
        form
    }
}

fn seconds(limit: Duration) -> String {
    let ms = limit.as_millis();
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// `` `x` `` as code.
fn code_marks(escaped: &str) -> String {
    let mut out = String::with_capacity(escaped.len() + 16);
    for (index, part) in escaped.split('`').enumerate() {
        match index {
            0 => {}
            odd if odd % 2 == 1 => out.push_str("<code>"),
            _ => out.push_str("</code>"),
        }
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(failure: &Failure, accept: &str) -> (Response<Bytes>, String) {
        let response = failure.page(Form::of(accept.as_bytes()), "r-1");
        let text = String::from_utf8(response.body().to_vec()).unwrap();
        (response, text)
    }

    #[test]
    fn a_page_says_which_service_and_why_in_the_form_that_the_client_reads() {
        let reason = "web crashed: exited with code 1 <script>".to_owned();
        let failure = Failure::Unavailable { service: "web".parse().unwrap(), reason };
        let (response, html) = render(&failure, "text/html,application/xhtml+xml,*/*;q=0.8");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert!(html.contains("web crashed: exited with code 1 &lt;script&gt;"), "{html}");
        assert!(html.contains("r-1") && html.contains("<code>mainstay status web</code>"), "{html}");
        let (_, json) = render(&failure, "application/json");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["service"], "web");
        assert_eq!(json["status"], 503);
        assert_eq!(json["request_id"], "r-1");
        let (response, text) = render(&failure, "*/*");
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        assert!(text.starts_with("503 Service Unavailable\n\nweb crashed: exited with code 1"), "{text}");
    }
}
