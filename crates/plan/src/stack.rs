//! One stack: from what is deployed and what the manifest says to what would change.
//!
//! Specs are compared field by field through their JSON form, so a field that is added later is
//! compared without anybody thinking of it. Values of environment variables are secret: the
//! difference says that one changes, never to what.
//!
//! The caller resolves versions first and computes the fingerprint afterwards: both need IO or
//! hashing, and neither is a decision.

use api::ids::StackId;
use api::name::Name;
use api::plans::{Difference, ServicePlan, ServicePlanAction, StackPlan, StackSpec};
use api::secret::Secret;
use api::services::{HealthCheck, PortSpec, RunSpec, ServiceSpec, SourceVersion};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A stack as it is deployed.
#[derive(Debug, Clone, PartialEq)]
pub struct CurrentStack {
    pub stack_id: StackId,
    pub version: u64,
    pub services: BTreeMap<Name, CurrentService>,
}

/// A service as its newest wanted revision has it.
#[derive(Debug, Clone, PartialEq)]
pub struct CurrentService {
    pub spec: ServiceSpec,
    pub source_version: SourceVersion,
    pub replicas: u32,
}

/// What would change. The fingerprint is left empty for the caller.
pub fn diff(current: Option<&CurrentStack>, next: &StackSpec, versions: &BTreeMap<Name, SourceVersion>) -> StackPlan {
    StackPlan {
        stack_id: current.map(|stack| stack.stack_id.clone()),
        stack: next.name.clone(),
        base_version: current.map_or(0, |stack| stack.version),
        fingerprint: String::new(),
        services: services(current, next, versions),
    }
}

/// Goes through the three maps side by side: all are in the order of names, and looking each name up costs more
/// than all else where nothing has changed.
fn services(
    current: Option<&CurrentStack>,
    next: &StackSpec,
    versions: &BTreeMap<Name, SourceVersion>,
) -> Vec<ServicePlan> {
    let empty = BTreeMap::new();
    let mut deployed = current.map_or(&empty, |stack| &stack.services).iter().peekable();
    let mut wanted = next.services.iter().peekable();
    let mut versions = versions.iter().peekable();
    let mut plans = Vec::with_capacity(next.services.len());
    loop {
        let name = match (deployed.peek(), wanted.peek()) {
            (Some((before, _)), Some((after, _))) => *before.min(after),
            (Some((name, _)), None) | (None, Some((name, _))) => *name,
            (None, None) => return plans,
        };
        while versions.next_if(|(other, _)| *other < name).is_some() {}
        let version = versions.next_if(|(other, _)| *other == name).map(|(_, version)| version);
        let current = deployed.next_if(|(other, _)| *other == name).map(|(_, current)| current);
        let spec = wanted.next_if(|(other, _)| *other == name).map(|(_, spec)| spec);
        plans.push(service(name, current, spec, version));
    }
}

fn service(
    name: &Name,
    current: Option<&CurrentService>,
    next: Option<&ServiceSpec>,
    version: Option<&SourceVersion>,
) -> ServicePlan {
    let (action, differences) = match (current, next) {
        (None, Some(spec)) => (ServicePlanAction::Create, differences(None, Some((spec, version)))),
        (Some(_), None) => (ServicePlanAction::Remove, Vec::new()),
        (Some(current), Some(spec)) => {
            let found = differences(Some(current), Some((spec, version)));
            (if found.is_empty() { ServicePlanAction::Keep } else { ServicePlanAction::Update }, found)
        }
        (None, None) => (ServicePlanAction::Keep, Vec::new()),
    };
    let notes = match next {
        Some(spec) => notes(spec, current, action),
        None => vec!["its instances are drained and stopped; its history is kept".into()],
    };
    ServicePlan { service: name.clone(), action, source_version: version.cloned(), differences, notes }
}

/// What differs between two revisions of a service. How many replicas it has is not part of a revision.
pub fn between(from: (&ServiceSpec, &SourceVersion), to: (&ServiceSpec, &SourceVersion)) -> Vec<Difference> {
    let current = CurrentService { spec: from.0.clone(), source_version: from.1.clone(), replicas: 1 };
    let next = ServiceSpec { replicas: None, ..to.0.clone() };
    differences(Some(&current), Some((&next, Some(to.1))))
}

fn differences(
    current: Option<&CurrentService>,
    next: Option<(&ServiceSpec, Option<&SourceVersion>)>,
) -> Vec<Difference> {
    if let (Some(current), Some((spec, version))) = (current, next)
        && is_unchanged(current, spec, version)
    {
        return Vec::new();
    }
    let before = current.map(|c| fields(&c.spec, Some(&c.source_version), Some(c.replicas))).unwrap_or_default();
    // A manifest that names no number keeps what `mainstay scale` asked for.
    let after = next
        .map(|(spec, version)| {
            let replicas = spec.replicas.or(current.map(|c| c.replicas)).unwrap_or(1);
            fields(spec, version, Some(replicas))
        })
        .unwrap_or_default();
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut found: Vec<Difference> = keys
        .into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| Difference { field: key.clone(), from: before.get(key).cloned(), to: after.get(key).cloned() })
        .collect();
    let (before, after) = (current.map(|c| &c.spec), next.map(|(spec, _)| spec));
    found.extend(secret_differences("env", before.map(|spec| &spec.env), after.map(|spec| &spec.env)));
    found.extend(secret_differences("files", before.and_then(files), after.and_then(files)));
    found
}

fn files(spec: &ServiceSpec) -> Option<&BTreeMap<String, Secret>> {
    match &spec.run {
        RunSpec::Container(container) => Some(&container.files),
        RunSpec::Command { .. } | RunSpec::Static { .. } => None,
    }
}

/// Whether nothing differs, for certain: to find that out field by field costs a hundred times as much, and
/// of a large stack nearly every service is as it was. What is not equal here may still not differ.
fn is_unchanged(current: &CurrentService, spec: &ServiceSpec, version: Option<&SourceVersion>) -> bool {
    version == Some(&current.source_version)
        && spec.replicas.is_none_or(|replicas| replicas == current.replicas)
        && current.spec == *spec
}

fn secret_differences(
    group: &str,
    before: Option<&BTreeMap<String, Secret>>,
    after: Option<&BTreeMap<String, Secret>>,
) -> Vec<Difference> {
    let empty = BTreeMap::new();
    let (before, after) = (before.unwrap_or(&empty), after.unwrap_or(&empty));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let shown = |present: bool, word: &str| present.then(|| word.to_owned());
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| {
            let (had, has) = (before.contains_key(name), after.contains_key(name));
            Difference {
                field: format!("{group}.{name}"),
                from: shown(had, if has { "(old value)" } else { "(set)" }),
                to: shown(has, if had { "(new value)" } else { "(set)" }),
            }
        })
        .collect()
}

/// Every field of a spec as text, apart from the name and the environment.
fn fields(spec: &ServiceSpec, version: Option<&SourceVersion>, replicas: Option<u32>) -> BTreeMap<String, String> {
    let bare = ServiceSpec { env: BTreeMap::new(), replicas, ..spec.clone() };
    let mut value = serde_json::to_value(&bare).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove("env");
        object.remove("name");
        // Which branch led to the commit changes nothing that runs; the commit does.
        if let Some(source) = object.get_mut("source").and_then(Value::as_object_mut) {
            source.remove("reference");
        }
        // Secret, as the environment: compared apart, and never shown.
        if let Some(run) = object.get_mut("run").and_then(Value::as_object_mut) {
            run.remove("files");
        }
    }
    let mut out = BTreeMap::new();
    flatten("", &value, &mut out);
    if let Some(version) = version {
        out.insert(version.noun().into(), version.as_str().to_owned());
    }
    out
}

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(object) => {
            for (key, inner) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, inner, out);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, inner) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), inner, out);
            }
        }
        Value::Null => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        other => {
            let (path, text) = readable(path, other);
            out.insert(path, text);
        }
    }
}

/// Units belong to the value for a person: `drain_ms 30000` reads `drain 30s`.
fn readable(path: &str, value: &Value) -> (String, String) {
    let number = value.as_u64();
    if let (Some(stem), Some(ms)) = (path.strip_suffix("_ms"), number) {
        return (stem.to_owned(), duration(ms));
    }
    if let (Some(stem), Some(bytes)) = (path.strip_suffix("_bytes"), number) {
        return (stem.to_owned(), size(bytes));
    }
    if let (Some(stem), Some(millis)) = (path.strip_suffix("_millis"), number) {
        return (stem.to_owned(), format!("{} cores", millis as f64 / 1000.0));
    }
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (path.to_owned(), text)
}

pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0 => "0s".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    let unit = UNITS.iter().find(|(factor, _)| bytes >= *factor && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{bytes} bytes"), |(factor, letter)| format!("{}{letter}", bytes / factor))
}

/// What a person should know before agreeing.
fn notes(spec: &ServiceSpec, current: Option<&CurrentService>, action: ServicePlanAction) -> Vec<String> {
    let mut notes = Vec::new();
    if action == ServicePlanAction::Keep {
        return notes;
    }
    if let (Some(port), Some(_)) = (spec.machine_port(), current) {
        notes.push(format!(
            "it listens on the fixed port {port}, so the running release is stopped before the new one starts: \
             expect a short gap (let it read PORT to avoid that)"
        ));
    }
    notes.extend(volume_notes(spec, current.map(|current| &current.spec)));
    if spec.port != PortSpec::None && spec.routes.is_empty() && current.is_none() {
        notes.push("it has no route: it is reachable from services on the same machine only".into());
    }
    if matches!(spec.health.check, HealthCheck::Tcp) && current.is_none() {
        notes.push("no health path is given: it counts as healthy as soon as its port accepts a connection".into());
    }
    notes
}

/// What becomes of data.
fn volume_notes(spec: &ServiceSpec, before: Option<&ServiceSpec>) -> Vec<String> {
    let volumes = |spec: &ServiceSpec| -> BTreeSet<Name> {
        let RunSpec::Container(container) = &spec.run else { return BTreeSet::new() };
        container.volumes.values().map(|mount| mount.volume.clone()).collect()
    };
    let (had, has) = (before.map(volumes).unwrap_or_default(), volumes(spec));
    let mut notes = Vec::new();
    if let (Some(volume), Some(_)) = (spec.written_volume(), before) {
        notes.push(format!(
            "it writes to the volume `{volume}`, so the running release is stopped before the new one starts: expect a \
             short gap"
        ));
    }
    notes.extend(has.difference(&had).map(|volume| {
        format!(
            "the volume `{volume}` is new to it: it is empty, unless a service of this project had one of this name on \
             the same server"
        )
    }));
    notes.extend(had.difference(&has).map(|volume| {
        format!("it no longer has the volume `{volume}`; the volume stays on its server with what is in it")
    }));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::services::{GitSource, HealthSpec, SourceSpec};

    fn spec(command: &str) -> ServiceSpec {
        ServiceSpec {
            name: "web".parse().unwrap(),
            source: SourceSpec::Git(GitSource {
                git: "https://example.com/shop.git".parse().unwrap(),
                reference: Some("main".parse().unwrap()),
                directory: String::new(),
                credential: None,
                submodules: false,
            }),
            build: None,
            run: RunSpec::Command { command: command.into() },
            env: BTreeMap::from([("KEY".to_string(), Secret::new("hunter2"))]),
            port: PortSpec::Injected,
            replicas: None,
            routes: vec![],
            health: HealthSpec::with(HealthCheck::Http { path: "/".into() }),
            limits: Default::default(),
            restart: Default::default(),
            stop: Default::default(),
            rollout: Default::default(),
        }
    }

    fn commit(digit: char) -> SourceVersion {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn stack(services: &[ServiceSpec]) -> StackSpec {
        StackSpec {
            name: "shop".parse().unwrap(),
            project: None,
            services: services.iter().map(|s| (s.name.clone(), s.clone())).collect(),
        }
    }

    #[test]
    fn two_revisions_differ_by_commit_setting_and_variable_but_not_by_values_or_replicas() {
        let (old, mut new) = (ServiceSpec { replicas: Some(3), ..spec("serve") }, spec("serve --fast"));
        new.env.insert("KEY".into(), Secret::new("hunter3"));
        let found = between((&old, &commit('a')), (&new, &commit('b')));
        let fields: Vec<_> = found.iter().map(|difference| difference.field.as_str()).collect();
        assert_eq!(fields, ["commit", "run.command", "env.KEY"]);
        assert!(!format!("{found:?}").contains("hunter"), "{found:?}");
        assert_eq!(between((&old, &commit('a')), (&old, &commit('a'))), vec![]);
    }

    #[test]
    fn a_spec_that_is_equal_may_still_differ_by_commit_and_by_replicas() {
        let deployed = |replicas| CurrentService { spec: spec("serve"), source_version: commit('a'), replicas };
        let found = |current: &CurrentService, spec: &ServiceSpec, digit| {
            let found = differences(Some(current), Some((spec, Some(&commit(digit)))));
            found.into_iter().map(|difference| difference.field).collect::<Vec<_>>()
        };
        assert_eq!(found(&deployed(3), &spec("serve"), 'a'), Vec::<String>::new());
        assert_eq!(found(&deployed(3), &spec("serve"), 'b'), ["commit"]);
        let two = ServiceSpec { replicas: Some(2), ..spec("serve") };
        let scaled = CurrentService { spec: two.clone(), ..deployed(3) };
        assert_eq!(found(&scaled, &two, 'a'), ["replicas"]);
        assert_eq!(found(&scaled, &ServiceSpec { replicas: Some(3), ..two.clone() }, 'a'), Vec::<String>::new());
        assert_eq!(differences(Some(&deployed(1)), Some((&spec("serve"), None))).len(), 1, "the commit is unknown");
    }

    fn current(spec: ServiceSpec) -> CurrentStack {
        let service = CurrentService { source_version: commit('a'), replicas: 3, spec: spec.clone() };
        CurrentStack {
            stack_id: "stk_00000000000000000000000000000001".parse().unwrap(),
            version: 4,
            services: BTreeMap::from([(spec.name, service)]),
        }
    }

    fn versions(digit: char) -> BTreeMap<Name, SourceVersion> {
        BTreeMap::from([("web".parse().unwrap(), commit(digit))])
    }

    #[test]
    fn the_same_spec_and_commit_change_nothing_even_after_scaling() {
        let plan = diff(Some(&current(spec("run"))), &stack(&[spec("run")]), &versions('a'));
        assert!(plan.is_empty(), "{plan:?}");
        assert_eq!(plan.base_version, 4);
    }

    #[test]
    fn another_branch_at_the_same_commit_changes_nothing() {
        let mut next = spec("run");
        next.source.git_mut().unwrap().reference = Some("release".parse().unwrap());
        assert!(diff(Some(&current(spec("run"))), &stack(&[next]), &versions('a')).is_empty());
    }

    #[test]
    fn every_field_that_changes_is_named_with_both_values_and_units() {
        let mut next = spec("serve");
        next.rollout.drain_ms = 5_000;
        next.limits.memory_bytes = Some(512 << 20);
        next.replicas = Some(2);
        let plan = diff(Some(&current(spec("run"))), &stack(&[next]), &versions('b'));
        let text: Vec<String> = plan.services[0]
            .differences
            .iter()
            .map(|d| format!("{}: {} -> {}", d.field, d.from.as_deref().unwrap_or("-"), d.to.as_deref().unwrap_or("-")))
            .collect();
        let a = "a".repeat(40);
        let b = "b".repeat(40);
        assert_eq!(
            text,
            [
                format!("commit: {a} -> {b}"),
                "limits.memory: - -> 512M".into(),
                "replicas: 3 -> 2".into(),
                "rollout.drain: 30s -> 5s".into(),
                "run.command: run -> serve".into(),
            ]
        );
    }

    #[test]
    fn a_changed_environment_value_is_named_but_never_shown() {
        let mut next = spec("run");
        next.env.insert("KEY".into(), Secret::new("swordfish"));
        let plan = diff(Some(&current(spec("run"))), &stack(&[next]), &versions('a'));
        assert_eq!(plan.services[0].differences[0].field, "env.KEY");
        let text = format!("{plan:?}{}", serde_json::to_string(&plan).unwrap());
        assert!(!text.contains("hunter2") && !text.contains("swordfish"), "{text}");
    }

    #[test]
    fn a_service_that_left_the_manifest_is_removed_and_a_new_one_created() {
        let mut other = spec("run");
        other.name = "api".parse().unwrap();
        let plan = diff(Some(&current(spec("run"))), &stack(&[other]), &BTreeMap::new());
        let actions: Vec<_> = plan.services.iter().map(|s| (s.service.as_str(), s.action)).collect();
        assert_eq!(actions, [("api", ServicePlanAction::Create), ("web", ServicePlanAction::Remove)]);
    }

    #[test]
    fn a_volume_is_announced_when_it_comes_and_when_it_goes() {
        let with = |volumes: &[&str]| {
            let mount = |name: &&str| {
                let mount = api::images::VolumeMount { volume: name.parse().unwrap(), read_only: false };
                (format!("/{name}"), mount)
            };
            let volumes = volumes.iter().map(mount).collect();
            let run = RunSpec::Container(api::images::ContainerSpec { volumes, ..Default::default() });
            ServiceSpec { run, ..spec("x") }
        };
        let first = volume_notes(&with(&["data"]), None);
        assert!(first.len() == 1 && first[0].contains("`data` is new to it"), "{first:?}");
        let notes = volume_notes(&with(&["other"]), Some(&with(&["data"])));
        assert!(notes[0].contains("stopped before the new one starts"), "{notes:?}");
        assert!(notes[1].contains("`other` is new") && notes[2].contains("`data`; the volume stays"), "{notes:?}");
        assert_eq!(volume_notes(&spec("x"), Some(&spec("y"))), Vec::<String>::new());
    }

    #[test]
    fn a_fixed_port_is_announced_as_a_gap() {
        let mut next = spec("serve");
        next.port = PortSpec::Fixed { port: 3000 };
        let plan = diff(Some(&current(spec("run"))), &stack(&[next]), &versions('a'));
        assert!(plan.services[0].notes[0].contains("short gap"), "{:?}", plan.services[0].notes);
    }
}
