//! How it is found out whether an instance is well.

use super::checker::Checker;
use crate::raw::{Health, HealthTable};
use api::services::{HealthCheck, HealthSpec, PortSpec};

pub fn resolve(
    check: &mut Checker<'_, '_>,
    field: &str,
    raw: Option<&Health>,
    port: &PortSpec,
    is_image: bool,
) -> HealthSpec {
    let field = format!("{field}.health");
    let default = if *port == PortSpec::None { HealthCheck::Process } else { HealthCheck::Tcp };
    let Some(raw) = raw else { return HealthSpec::with(default) };
    let (found, spec) = match raw {
        Health::Path(path) => {
            let found = http(check, &field, path);
            (found, HealthSpec::with(default))
        }
        Health::Table(table) => (kind(check, &field, table), times(check, &field, table, HealthSpec::with(default))),
    };
    let needs_port = matches!(found, Some(HealthCheck::Http { .. } | HealthCheck::Tcp));
    if needs_port && *port == PortSpec::None {
        let help = "leave `health` out, or check with a `command`";
        check.fail(&field, "the service has no port (`port = false`) that could be checked".into(), Some(help.into()));
    }
    if found == Some(HealthCheck::Image) && !is_image {
        let help = "check with `http`, `tcp` or a `command`";
        check.fail(&format!("{field}.image"), "only an image brings a health check".into(), Some(help.into()));
    }
    HealthSpec { check: found.unwrap_or_else(|| spec.check.clone()), ..spec }
}

fn kind(check: &mut Checker<'_, '_>, field: &str, table: &HealthTable) -> Option<HealthCheck> {
    let tcp = table.tcp.unwrap_or(false);
    let image = table.image.unwrap_or(false);
    let named = [table.http.is_some(), tcp, table.command.is_some(), image].into_iter().filter(|n| *n).count();
    if named > 1 {
        let help = "keep one of `http`, `tcp`, `command` and `image`";
        check.fail(field, "more than one kind of check is given".into(), Some(help.into()));
        return None;
    }
    if let Some(path) = &table.http {
        return http(check, &format!("{field}.http"), path);
    }
    if let Some(command) = &table.command {
        return check.command(&format!("{field}.command"), command).map(|command| HealthCheck::Command { command });
    }
    if image {
        return Some(HealthCheck::Image);
    }
    tcp.then_some(HealthCheck::Tcp)
}

fn http(check: &mut Checker<'_, '_>, field: &str, path: &str) -> Option<HealthCheck> {
    let shown: String = path.chars().take(80).collect::<String>().escape_debug().to_string();
    let problem = match path {
        _ if !path.starts_with('/') => "it must begin with `/`",
        _ if path.len() > 1024 => "it may have at most 1024 characters",
        _ if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'<' | b'>' | b'\\')) => {
            "use printable characters without `#`, quotes or spaces"
        }
        _ => return Some(HealthCheck::Http { path: path.to_owned() }),
    };
    let help = "write a path such as \"/healthz\", or a table such as { tcp = true }";
    check.fail(field, format!("`{shown}` is not a path to check: {problem}"), Some(help.into()));
    None
}

fn times(check: &mut Checker<'_, '_>, field: &str, table: &HealthTable, default: HealthSpec) -> HealthSpec {
    let day_ms = 86_400_000;
    let at = |name: &str| format!("{field}.{name}");
    HealthSpec {
        interval_ms: check.duration(&at("interval"), table.interval.as_ref(), default.interval_ms, 100..=3_600_000),
        timeout_ms: check.duration(&at("timeout"), table.timeout.as_ref(), default.timeout_ms, 100..=300_000),
        healthy_after: check.count(&at("healthy_after"), table.healthy_after, 1..=100).unwrap_or(default.healthy_after),
        unhealthy_after: check
            .count(&at("unhealthy_after"), table.unhealthy_after, 1..=100)
            .unwrap_or(default.unhealthy_after),
        start_grace_ms: check.duration(
            &at("start_grace"),
            table.start_grace.as_ref(),
            default.start_grace_ms,
            0..=day_ms,
        ),
        check: default.check,
    }
}
