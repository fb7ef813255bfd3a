//! One service of a manifest.

use super::checker::{Checker, TEXT_VALUE_LIMIT_BYTES};
use super::{container, health, routes, source};
use crate::raw::{Build, BuildTable, EnvValue, Port, Service};
use api::name::Name;
use api::plans::DefaultSource;
use api::secret::Secret;
use api::services::{
    BuildSpec, Limits, PortSpec, REPLICAS_LIMIT, RestartSpec, RolloutSpec, RunSpec, ServiceSpec, StopSpec,
};
use std::collections::BTreeMap;

const BUILD_TIMEOUT_DEFAULT_MS: u64 = 15 * 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const ENV_VARIABLES_LIMIT: usize = 1000;
/// Given to instances by the agent; a fixed port in here would collide sooner or later.
const INSTANCE_PORTS: std::ops::RangeInclusive<i64> = 20_000..=29_999;

/// A service, or `None` after at least one complaint. Without a usable name the rest is still checked.
pub fn resolve(
    check: &mut Checker<'_, '_>,
    field: &str,
    name: Option<Name>,
    raw: &Service,
    default_source: Option<&DefaultSource>,
) -> Option<ServiceSpec> {
    let is_image = raw.image.is_some();
    let (source, build, run) = if is_image {
        let (source, run) = container::resolve(check, field, raw).unzip();
        (source, None, run)
    } else {
        container::refuse_what_is_of_images(check, field, raw);
        let source = source::resolve(check, field, raw, default_source);
        let build = raw.build.as_ref().map(|build| self::build(check, field, build));
        (source, build, run(check, field, raw))
    };
    let port = port(check, field, raw);
    let routes = routes::resolve(check, field, raw.route.as_ref());
    if !routes.is_empty() && port == Some(PortSpec::None) {
        let message = "a service on which nothing listens (`port = false`) cannot have a route".to_owned();
        check.fail(&format!("{field}.route"), message, Some("leave out one of the two".into()));
    }
    // A port that could not be read must not make the health check look wrong as well.
    let health_port = port.as_ref().unwrap_or(&PortSpec::Injected);
    let health = health::resolve(check, field, raw.health.as_ref(), health_port, is_image);
    let env = env(check, field, raw);
    let limits = Limits {
        memory_bytes: check.size(&format!("{field}.memory"), raw.memory.as_ref(), MEMORY_RANGE),
        cpu_millis: check.cpu(&format!("{field}.cpu"), raw.cpu),
        pids: check.count(&format!("{field}.pids"), raw.pids, PIDS_RANGE).map(u64::from),
    };
    let replicas = check.count(&format!("{field}.replicas"), raw.replicas, 1..=i64::from(REPLICAS_LIMIT));
    if let (Some(PortSpec::Fixed { port }), Some(2..), false) = (&port, replicas, is_image) {
        let message = format!("{} replicas cannot all listen on port {port}", replicas.unwrap_or(0));
        let help = "leave `port` out and listen on the port in PORT, or run one replica";
        check.fail(&format!("{field}.replicas"), message, Some(help.into()));
    }
    let written = run.as_ref().and_then(|run| match run {
        RunSpec::Container(container) => container.volumes.values().find(|mount| !mount.read_only),
        _ => None,
    });
    if let (Some(mount), Some(2..)) = (written, replicas) {
        let message = format!("{} replicas cannot all write to the volume `{}`", replicas.unwrap_or(0), mount.volume);
        let help = "mount it with `read_only = true`, or run one replica";
        check.fail(&format!("{field}.replicas"), message, Some(help.into()));
    }
    let rollout = rollout(check, field, raw);
    let stop = StopSpec {
        grace_ms: check.duration(
            &format!("{field}.stop.grace"),
            raw.stop.grace.as_ref(),
            StopSpec::default().grace_ms,
            0..=HOUR_MS,
        ),
    };
    let restart = restart(check, field, raw);
    Some(ServiceSpec {
        name: name?,
        source: source?,
        build: match build {
            Some(build) => Some(build?),
            None => None,
        },
        run: run?,
        env,
        port: port?,
        replicas,
        routes,
        health,
        limits,
        restart,
        stop,
        rollout,
    })
}

const MEMORY_RANGE: std::ops::RangeInclusive<u64> = (4 << 20)..=(64 << 40);
const PIDS_RANGE: std::ops::RangeInclusive<i64> = 1..=4_194_304;

fn build(check: &mut Checker<'_, '_>, field: &str, raw: &Build) -> Option<BuildSpec> {
    let field = format!("{field}.build");
    let table = match raw {
        Build::Command(command) => &BuildTable { command: Some(command.clone()), ..BuildTable::default() },
        Build::Table(table) => table,
    };
    let command_field = if matches!(raw, Build::Command(_)) { field.clone() } else { format!("{field}.command") };
    let command = match &table.command {
        Some(text) => check.command(&command_field, text),
        None => check.missing(&command_field, "the build has no command", "write `command = \"…\"`"),
    };
    let cache_entries = table.cache.iter().enumerate();
    let cache = cache_entries
        .filter_map(|(index, text)| {
            let field = format!("{field}.cache[{index}]");
            let folder = check.folder(&field, "", text, "the source directory")?;
            if folder.is_empty() {
                check.fail(
                    &field,
                    format!("`{text}` is the whole source directory"),
                    Some("name the folder to keep, such as \"target\"".into()),
                );
                return None;
            }
            Some(folder)
        })
        .collect();
    let at = |name: &str| format!("{field}.{name}");
    let limits = Limits {
        memory_bytes: check.size(&at("memory"), table.memory.as_ref(), MEMORY_RANGE),
        cpu_millis: check.cpu(&at("cpu"), table.cpu),
        pids: check.count(&at("pids"), table.pids, PIDS_RANGE).map(u64::from),
    };
    let timeout_ms = check.duration(&at("timeout"), table.timeout.as_ref(), BUILD_TIMEOUT_DEFAULT_MS, 1_000..=DAY_MS);
    Some(BuildSpec { command: command?, timeout_ms, limits, cache })
}

fn run(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> Option<RunSpec> {
    match (&raw.run, &raw.static_files) {
        (Some(_), Some(_)) => {
            let help = "keep `run` for a program, or `static` for a folder of files";
            check.fail(&format!("{field}.static"), "`run` and `static` are both given".into(), Some(help.into()));
            None
        }
        (Some(text), None) => check.command(&format!("{field}.run"), text).map(|command| RunSpec::Command { command }),
        (None, Some(text)) => {
            let directory = check.folder(&format!("{field}.static"), "", text, "the source directory")?;
            Some(RunSpec::Static { directory: if directory.is_empty() { ".".into() } else { directory } })
        }
        (None, None) => {
            let help = "write `run = \"…\"` with the command that starts it, `static = \"public\"` for a folder of files, or `image = \"…\"`";
            // The complaint stands at the service's header, where the missing line belongs.
            check.missing(&format!("{field}.run"), "the service has nothing to run", help)
        }
    }
}

fn port(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> Option<PortSpec> {
    let field = format!("{field}.port");
    match &raw.port {
        None => Some(PortSpec::Injected),
        Some(Port::Flag(false)) if raw.static_files.is_some() => {
            check.fail(&field, "static files need a port to be served on".into(), Some("leave `port` out".into()));
            None
        }
        Some(Port::Flag(false)) => Some(PortSpec::None),
        Some(Port::Flag(true)) => {
            let help = "leave `port` out to be given one in PORT, or write its number";
            check.fail(&field, "`true` does not say which port".into(), Some(help.into()));
            None
        }
        Some(Port::Number(number)) if INSTANCE_PORTS.contains(number) && raw.image.is_none() => {
            let help = "choose another, or leave `port` out and listen on the port in PORT";
            let message = format!("port {number} is among those that Mainstay hands out itself (20000 to 29999)");
            check.fail(&field, message, Some(help.into()));
            None
        }
        Some(Port::Number(number)) => match u16::try_from(*number) {
            Ok(port) if port > 0 => Some(PortSpec::Fixed { port }),
            _ => {
                check.fail(
                    &field,
                    format!("{number} is not a port"),
                    Some("a port is a number from 1 to 65535".into()),
                );
                None
            }
        },
    }
}

fn env(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> BTreeMap<String, Secret> {
    if raw.env.len() > ENV_VARIABLES_LIMIT {
        let message = format!("{} variables; a service may have at most {ENV_VARIABLES_LIMIT}", raw.env.len());
        check.fail(&format!("{field}.env"), message, None);
    }
    let mut env = BTreeMap::new();
    for (name, value) in raw.env.iter().take(ENV_VARIABLES_LIMIT) {
        let field = format!("{field}.env.{name}");
        let shown: String = name.chars().take(80).collect::<String>().escape_debug().to_string();
        let first_is_fine = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first_is_fine || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || name.len() > 256 {
            let help = "use letters, digits and underscores, not beginning with a digit";
            check.fail(&field, format!("`{shown}` is not the name of an environment variable"), Some(help.into()));
            continue;
        }
        if name == "PORT" {
            let help = "leave it out; a program that always listens on one port is described by `port = 3000`";
            check.fail(&field, "PORT is set by Mainstay".into(), Some(help.into()));
            continue;
        }
        let text = match value {
            EnvValue::Text(text) => text.clone(),
            EnvValue::Number(number) => number.to_string(),
            EnvValue::Flag(flag) => flag.to_string(),
        };
        // The value may be secret and is never repeated.
        if text.contains('\0') || text.len() > TEXT_VALUE_LIMIT_BYTES {
            let message = "the value holds a NUL character or is longer than 64 KiB, which no program can be given";
            check.fail(&field, message.into(), Some("put it into a file and name the file".into()));
            continue;
        }
        env.insert(name.clone(), Secret::new(text));
    }
    env
}

fn rollout(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> RolloutSpec {
    let default = RolloutSpec::default();
    let at = |name: &str| format!("{field}.rollout.{name}");
    RolloutSpec {
        healthy_within_ms: check.duration(
            &at("healthy_within"),
            raw.rollout.healthy_within.as_ref(),
            default.healthy_within_ms,
            1_000..=DAY_MS,
        ),
        drain_ms: check.duration(&at("drain"), raw.rollout.drain.as_ref(), default.drain_ms, 0..=DAY_MS),
        bake_ms: check.duration(&at("bake"), raw.rollout.bake.as_ref(), default.bake_ms, 0..=DAY_MS),
        warm_ms: check.duration(&at("warm"), raw.rollout.warm.as_ref(), default.warm_ms, 0..=7 * DAY_MS),
    }
}

fn restart(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> RestartSpec {
    let default = RestartSpec::default();
    let at = |name: &str| format!("{field}.restart.{name}");
    let spec = RestartSpec {
        backoff_ms: check.duration(&at("backoff"), raw.restart.backoff.as_ref(), default.backoff_ms, 100..=HOUR_MS),
        backoff_limit_ms: check.duration(
            &at("backoff_limit"),
            raw.restart.backoff_limit.as_ref(),
            default.backoff_limit_ms,
            100..=DAY_MS,
        ),
        crash_loop_after: check
            .count(&at("crash_loop_after"), raw.restart.crash_loop_after, 2..=1000)
            .unwrap_or(default.crash_loop_after),
        crash_loop_window_ms: check.duration(
            &at("crash_loop_window"),
            raw.restart.crash_loop_window.as_ref(),
            default.crash_loop_window_ms,
            1_000..=DAY_MS,
        ),
    };
    if spec.backoff_ms > spec.backoff_limit_ms {
        let help = "raise `backoff_limit` or lower `backoff`";
        check.fail(&at("backoff"), "the first wait is longer than the longest".into(), Some(help.into()));
    }
    spec
}
