//! Where a service is reached from outside.

use super::checker::Checker;
use crate::raw::{Route, RouteTable, Routes, Tls};
use api::name::{HostName, Name, PathPrefix};
use api::services::{RouteSpec, ServiceSpec};
use api::tls::TlsMode;
use std::collections::BTreeMap;

const ROUTES_LIMIT: usize = 100;

pub fn resolve(check: &mut Checker<'_, '_>, field: &str, raw: Option<&Routes>) -> Vec<RouteSpec> {
    let field = format!("{field}.route");
    match raw {
        None => Vec::new(),
        Some(Routes::Text(text)) => from_text(check, &field, text).into_iter().collect(),
        Some(Routes::Table(table)) => from_table(check, &field, table).into_iter().collect(),
        Some(Routes::List(list)) if list.len() > ROUTES_LIMIT => {
            let message = format!("{} routes; a service may have at most {ROUTES_LIMIT}", list.len());
            check.fail(&field, message, None);
            Vec::new()
        }
        Some(Routes::List(list)) => {
            let items = list.iter().enumerate();
            items
                .filter_map(|(index, route)| {
                    let field = format!("{field}[{index}]");
                    match route {
                        Route::Text(text) => from_text(check, &field, text),
                        Route::Table(table) => from_table(check, &field, table),
                    }
                })
                .collect()
        }
    }
}

/// `shop.example.com/api`, `/api` or `*/api`.
fn from_text(check: &mut Checker<'_, '_>, field: &str, text: &str) -> Option<RouteSpec> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let message = format!("`{}` is not a route: it has a scheme", shortened(text));
        let known = matches!(scheme, "http" | "https");
        check.fail(field, message, known.then(|| format!("write \"{}\"", shortened(rest))));
        return None;
    }
    let (host, path) = match text.find('/') {
        Some(cut) => (&text[..cut], &text[cut..]),
        None => (text, "/"),
    };
    if text.is_empty() {
        check.fail(
            field,
            "the route is empty".into(),
            Some("write \"shop.example.com\", or \"/\" for any host".into()),
        );
        return None;
    }
    let host = match host {
        "" | "*" => None,
        host => Some(self::host(check, field, host)?),
    };
    Some(RouteSpec { host, path: self::path(check, field, path)?, strip_prefix: false, tls: TlsMode::Auto })
}

fn from_table(check: &mut Checker<'_, '_>, field: &str, table: &RouteTable) -> Option<RouteSpec> {
    let host = table.host.as_ref().map(|text| host(check, &format!("{field}.host"), text));
    let path = table.path.as_ref().map(|text| path(check, &format!("{field}.path"), text));
    let host = match host {
        Some(host) => Some(host?),
        None => None,
    };
    let path = match path {
        Some(path) => path?,
        None => PathPrefix::default(),
    };
    let tls = match table.tls {
        None | Some(Tls::Auto) => TlsMode::Auto,
        Some(Tls::Optional) => TlsMode::Optional,
        Some(Tls::Off) => TlsMode::Off,
    };
    Some(RouteSpec { host, path, strip_prefix: table.strip_prefix.unwrap_or(false), tls })
}

fn host(check: &mut Checker<'_, '_>, field: &str, text: &str) -> Option<HostName> {
    text.parse()
        .map_err(|error: api::name::NameError| {
            check.fail(field, error.to_string(), Some("write it like \"shop.example.com\"".into()))
        })
        .ok()
}

fn path(check: &mut Checker<'_, '_>, field: &str, text: &str) -> Option<PathPrefix> {
    text.parse()
        .map_err(|error: api::name::NameError| {
            check.fail(field, error.to_string(), Some("write it like \"/api\"".into()))
        })
        .ok()
}

/// One host and path can lead to one service only.
pub fn refuse_shared(check: &mut Checker<'_, '_>, services: &BTreeMap<Name, ServiceSpec>) {
    let mut takers: BTreeMap<(Option<HostName>, PathPrefix), &Name> = BTreeMap::new();
    for (name, spec) in services {
        for route in &spec.routes {
            let Some(other) = takers.insert((route.host.clone(), route.path.clone()), name) else { continue };
            let field = format!("services.{name}.route");
            let (message, help) = if other == name {
                (format!("the route `{}` is written twice", route.label()), "keep one of the two")
            } else {
                (
                    format!("the route `{}` already leads to service `{other}`", route.label()),
                    "give one of them another host or a longer path",
                )
            };
            check.fail(&field, message, Some(help.into()));
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
