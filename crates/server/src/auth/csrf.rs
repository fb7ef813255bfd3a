//! Whether a request that rides on a cookie was meant.
//!
//! A browser sends the session cookie along with requests that other sites cause. `SameSite=Lax`
//! stops most; this stops the rest: a request that changes something and is authenticated by cookie
//! must show that it comes from our own pages. Three things show it, any one will do: the browser's
//! own `Sec-Fetch-Site`, an `Origin` that names this host, or the header `x-mainstay-request`, which
//! a foreign page cannot set without a permission (CORS) that is never given.

use axum::http::{HeaderMap, Method, header};

pub const HEADER_OWN_REQUEST: &str = "x-mainstay-request";

/// Whether the request changes nothing, or comes from our own pages.
pub fn is_meant(method: &Method, headers: &HeaderMap) -> bool {
    if method.is_safe() {
        return true;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    if headers.contains_key(HEADER_OWN_REQUEST) {
        return true;
    }
    let origin = text(header::ORIGIN.as_str()).and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == text(header::HOST.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(method: Method, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        is_meant(&method, &headers)
    }

    #[test]
    fn a_change_must_show_that_it_comes_from_our_own_pages() {
        assert!(meant(Method::GET, &[]));
        assert!(meant(Method::POST, &[("sec-fetch-site", "same-origin")]));
        assert!(meant(Method::POST, &[("host", "a:4600"), ("origin", "http://a:4600")]));
        assert!(meant(Method::POST, &[("x-mainstay-request", "1")]));
        assert!(!meant(Method::POST, &[]));
        assert!(!meant(Method::POST, &[("sec-fetch-site", "cross-site"), ("x-mainstay-request", "1")]));
        assert!(!meant(Method::DELETE, &[("sec-fetch-site", "same-site")]));
        assert!(!meant(Method::POST, &[("host", "a:4600"), ("origin", "http://b:4600")]));
        assert!(!meant(Method::POST, &[("host", "a:4600"), ("origin", "null")]));
    }
}
