//! Whose route is it: one host and path lead to one service, across all stacks that share a gateway.

use crate::error::HttpError;
use api::error::ErrorDetail;
use api::name::Name;
use api::services::RouteSpec;
use std::collections::BTreeMap;

/// A service of another stack and the routes that it has.
pub struct Taken {
    pub stack: Name,
    pub service: Name,
    pub routes: Vec<RouteSpec>,
}

/// Refuses a stack one of whose routes belongs to a service of another stack; names both.
pub fn refuse_conflicts(wanted: &BTreeMap<Name, Vec<RouteSpec>>, taken: &[Taken]) -> Result<(), HttpError> {
    let mut details = Vec::new();
    for (name, routes) in wanted {
        for route in routes {
            let same = |other: &RouteSpec| other.host == route.host && other.path == route.path;
            if let Some(holder) = taken.iter().find(|t| t.routes.iter().any(same)) {
                details.push(ErrorDetail {
                    field: Some(format!("services.{name}.route")),
                    line: None,
                    column: None,
                    message: format!(
                        "the route {} of service {name} belongs to service {} of stack {}",
                        route.label(),
                        holder.service,
                        holder.stack
                    ),
                    help: Some(format!("choose another host or path, or remove the stack {} first", holder.stack)),
                });
            }
        }
    }
    match details.first() {
        None => Ok(()),
        Some(first) => {
            let message = format!("{}; nothing was changed", first.message);
            Err(HttpError::conflict(message).help("two services cannot answer on one route").details(details))
        }
    }
}
