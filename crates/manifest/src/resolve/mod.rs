//! The meaning of a manifest: texts become types, defaults are filled in, contradictions refused.
//!
//! [`Checker`] collects complaints; each `resolve` function gives back what it could make and goes
//! on, so that one mistake does not hide another.

mod checker;
mod container;
mod health;
mod routes;
mod service;
mod source;

use crate::shape::Document;
use api::error::ErrorDetail;
use api::name::Name;
use api::plans::{DefaultSource, StackSpec};
use api::services::ServiceSpec;
use checker::Checker;
use std::collections::BTreeMap;

const SERVICES_LIMIT: usize = 200;

/// The stack of a document. `None` comes with at least one complaint.
pub fn stack(
    document: &Document<'_>,
    default_source: Option<&DefaultSource>,
    errors: &mut Vec<ErrorDetail>,
) -> Option<StackSpec> {
    let manifest = &document.manifest;
    let mut check = Checker::new(&document.places, errors);
    let name = match &manifest.name {
        Some(text) => check.name("name", text),
        None => check.missing("name", "the stack has no name", "write `name = \"…\"` in the first line"),
    };
    let project = manifest.project.as_ref().and_then(|text| check.name("project", text));

    if manifest.services.is_empty() {
        check.missing::<()>(
            "services",
            "the manifest has no service",
            "add one: `[services.web]` with a `run` command or an `image`",
        );
    }
    if manifest.services.len() > SERVICES_LIMIT {
        let message = format!("{} services; a stack may have at most {SERVICES_LIMIT}", manifest.services.len());
        check.fail("services", message, Some("split it into several stacks".into()));
    }
    let mut services = BTreeMap::new();
    for (text, raw) in manifest.services.iter().take(SERVICES_LIMIT) {
        let field = format!("services.{text}");
        let name = check.name(&field, text);
        if let (Some(spec), Some(name)) =
            (service::resolve(&mut check, &field, name.clone(), raw, default_source), name)
        {
            services.insert(name, spec);
        }
    }
    routes::refuse_shared(&mut check, &services);
    refuse_shared_ports(&mut check, &services);
    Some(StackSpec { name: name?, project, services })
}

fn refuse_shared_ports(check: &mut Checker<'_, '_>, services: &BTreeMap<Name, ServiceSpec>) {
    let mut takers: BTreeMap<u16, &Name> = BTreeMap::new();
    for (name, spec) in services {
        let Some(port) = spec.machine_port() else { continue };
        if let Some(other) = takers.insert(port, name) {
            let message = format!("port {port} is also the port of service `{other}`");
            let help = "give one of them another port, or leave `port` out and read PORT".to_owned();
            check.fail(&format!("services.{name}.port"), message, Some(help));
        }
    }
}
