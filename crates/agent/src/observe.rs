//! What follows from looking at the machine: names, addresses and conditions, computed. Pure; the
//! looking itself is in [`crate::reconcile`].

use crate::drivers::dns::DnsDesired;
use api::desired::{DesiredState, InstanceDesired, InstanceIntent, ServiceDesired, StackDesired, Traffic};
use api::gateway::GatewayObserved;
use api::ids::{InstanceId, ServiceId};
use api::observed::{
    InstanceObserved, InstanceState, ObservedState, PreparationObserved, PreparationState, StackCondition,
    StackObserved,
};
use api::secret::Secret;
use api::services::PortSpec;
use plan::host::{ConfigKind, ConfigView, Failure, Subject};
use std::collections::BTreeMap;

/// Services that listen on a port, as opposed to workers.
pub fn listening_services(desired: &DesiredState) -> impl Iterator<Item = (&StackDesired, &ServiceDesired)> {
    desired.services().filter(|(_, service)| service.revisions.iter().any(|r| r.port != PortSpec::None))
}

/// The internal names that should resolve on this machine.
pub fn dns_desired(desired: &DesiredState) -> DnsDesired {
    let settings = &desired.dns;
    let mut names: Vec<String> = if settings.enabled {
        listening_services(desired).map(|(_, service)| format!("{}.{}", service.name, settings.domain)).collect()
    } else {
        Vec::new()
    };
    names.sort();
    names.dedup();
    DnsDesired { names, domain: settings.domain.clone(), responder_port: settings.port }
}

/// `SERVICE_<NAME>_URL` for every service of the same project, by name where names resolve, and by
/// loopback port elsewhere.
pub fn service_urls(
    desired: &DesiredState,
    service_id: &ServiceId,
    names_resolve: bool,
    ports: &BTreeMap<ServiceId, u16>,
) -> BTreeMap<String, Secret> {
    let project = desired.services().find(|(_, s)| &s.service_id == service_id).map(|(stack, _)| &stack.project_id);
    let mut urls = BTreeMap::new();
    for (stack, service) in listening_services(desired) {
        if Some(&stack.project_id) != project {
            continue;
        }
        let url = if names_resolve && desired.dns.enabled {
            let port = match desired.gateway.internal_port {
                80 => String::new(),
                port => format!(":{port}"),
            };
            format!("http://{}.{}{port}", service.name, desired.dns.domain)
        } else {
            match ports.get(&service.service_id) {
                Some(port) => format!("http://127.0.0.1:{port}"),
                None => continue,
            }
        };
        urls.insert(format!("SERVICE_{}_URL", service.name.to_env()), Secret::new(url));
    }
    urls
}

/// Whether an instance gets no new requests but its open ones still run: then the loop looks often.
pub fn is_draining(desired: &DesiredState) -> bool {
    desired.services().any(|(_, s)| s.instances.iter().any(|i| i.traffic == Traffic::Draining))
}

/// What judging the stacks looks at.
pub struct Evidence<'a> {
    pub instances: &'a [InstanceObserved],
    pub preparations: &'a [PreparationObserved],
    pub configs: &'a [ConfigView],
    pub failures: &'a [Failure],
    pub gateway: &'a GatewayObserved,
}

/// Applied, on its way, or degraded with the reasons.
pub fn stack_conditions(desired: &DesiredState, evidence: &Evidence<'_>) -> Vec<StackObserved> {
    desired.stacks.iter().map(|stack| stack_condition(stack, evidence)).collect()
}

fn stack_condition(stack: &StackDesired, evidence: &Evidence<'_>) -> StackObserved {
    let mut problems = Vec::new();
    let mut pending = false;
    for service in &stack.services {
        // What goes wrong with one instance mostly goes wrong with all, each with a port of its own in the reason.
        let mut bad: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for instance in &service.instances {
            match judge(instance, evidence) {
                Judgement::Good => {}
                Judgement::Pending => pending = true,
                Judgement::Bad { what, why } => bad.entry(what).or_default().push(why),
            }
        }
        problems.extend(bad.into_iter().map(|(what, reasons)| said_once(service, what, reasons)));
    }
    let concerned = stack.services.iter().any(|s| s.instances.iter().any(|i| i.intent == InstanceIntent::Run));
    if concerned {
        // A peer that is not set up yet takes nothing from what runs here; it is told with the mesh.
        let concerns = |config: &&ConfigView| config.kind != ConfigKind::Mesh;
        let differs = |config: &&ConfigView| config.live_digest.as_ref() != Some(&config.desired_digest);
        for config in evidence.configs.iter().filter(concerns).filter(differs) {
            pending = true;
            problems.extend(config_problem(config.kind, evidence));
        }
        if let Some(problem) = &evidence.gateway.problem
            && evidence.gateway.running
            && stack.services.iter().any(|s| !s.routes.is_empty())
        {
            problems.push(format!("routes: {problem}"));
        }
    }
    problems.sort();
    let condition = match (problems.is_empty(), pending) {
        (false, _) => StackCondition::Degraded,
        (true, true) => StackCondition::Applying,
        (true, false) => StackCondition::Applied,
    };
    StackObserved {
        stack_id: stack.stack_id.clone(),
        version: stack.version,
        hash: stack.hash.clone(),
        condition,
        problems,
    }
}

fn config_problem(kind: ConfigKind, evidence: &Evidence<'_>) -> Option<String> {
    let failure = evidence.failures.iter().find(|f| f.subject == Subject::Config(kind))?;
    Some(format!("{}: {}", kind.as_str(), failure.message))
}

enum Judgement {
    Good,
    Pending,
    /// `is unhealthy`, and the reason.
    Bad {
        what: &'static str,
        why: String,
    },
}

/// `web is unhealthy (3 instances): connection refused`, with the reason of one of them.
fn said_once(service: &ServiceDesired, what: &str, mut reasons: Vec<String>) -> String {
    reasons.sort();
    let how_many = match reasons.len() {
        1 => String::new(),
        n => format!(" ({})", api::words::count(n, "instance")),
    };
    format!("{} {what}{how_many}: {}", service.name, reasons.swap_remove(0))
}

fn judge(instance: &InstanceDesired, evidence: &Evidence<'_>) -> Judgement {
    let seen = evidence.instances.iter().find(|i| i.instance_id == instance.instance_id);
    let state = seen.map_or(InstanceState::Absent, |s| s.state);
    if instance.intent == InstanceIntent::Stop {
        return match state {
            InstanceState::Absent | InstanceState::Exited => Judgement::Good,
            _ => Judgement::Pending,
        };
    }
    let exit = || {
        let described = seen.and_then(|s| s.last_exit.as_ref()).map(|e| e.describe());
        described.unwrap_or_else(|| "ended".into())
    };
    if seen.is_some_and(|s| s.crash_looping) {
        return Judgement::Bad { what: "keeps crashing", why: format!("its process {}", exit()) };
    }
    match state {
        InstanceState::Healthy => Judgement::Good,
        InstanceState::Unhealthy => {
            let probe =
                seen.and_then(|s| s.problem.clone().or_else(|| s.last_probe.as_ref().map(|p| p.message.clone())));
            Judgement::Bad { what: "is unhealthy", why: probe.unwrap_or_else(|| "its check fails".into()) }
        }
        InstanceState::Running => Judgement::Pending,
        InstanceState::Transient if seen.is_some_and(|s| s.restarts > 0 && !s.stopping) => {
            Judgement::Bad { what: "is started again", why: format!("its process {}", exit()) }
        }
        InstanceState::Transient => Judgement::Pending,
        InstanceState::Absent | InstanceState::Exited => not_running(instance, evidence),
    }
}

fn not_running(instance: &InstanceDesired, evidence: &Evidence<'_>) -> Judgement {
    let about = |subject: &Subject| evidence.failures.iter().find(|f| &f.subject == subject);
    if let Some(failure) = about(&Subject::Instance(instance.instance_id.clone())) {
        return Judgement::Bad { what: "could not be started", why: failure.message.clone() };
    }
    let preparation = evidence.preparations.iter().find(|p| p.revision_id == instance.revision_id);
    if let Some(failed) = preparation.filter(|p| p.state == PreparationState::Failed) {
        return Judgement::Bad { what: "could not be prepared", why: failed.error.clone().unwrap_or_default() };
    }
    match about(&Subject::Preparation(instance.revision_id.clone())) {
        Some(failure) => Judgement::Bad { what: "could not be prepared", why: failure.message.clone() },
        None => Judgement::Pending,
    }
}

/// An instance that could not even be started has no other place to say why.
pub fn absent_with_problem(desired: &DesiredState, id: &InstanceId, problem: String) -> Option<InstanceObserved> {
    let (service, instance) = desired
        .services()
        .find_map(|(_, s)| s.instances.iter().find(|i| &i.instance_id == id).map(|instance| (s, instance)))?;
    Some(InstanceObserved {
        instance_id: id.clone(),
        service_id: service.service_id.clone(),
        revision_id: instance.revision_id.clone(),
        state: InstanceState::Absent,
        pid: None,
        port: None,
        address: None,
        started_at_ms: None,
        restarts: 0,
        crash_looping: false,
        stopping: false,
        last_exit: None,
        last_probe: None,
        problem: Some(problem),
        log_tail: Vec::new(),
        memory_bytes: None,
        cpu_ms: None,
    })
}

/// The part of an observation that is news when it differs: without clocks, counters and gauges.
pub fn significant(observed: &ObservedState) -> ObservedState {
    let mut kept = observed.clone();
    kept.observed_at_ms = 0;
    kept.resources = Default::default();
    kept.gateway.services.clear();
    kept.gateway.access_log_dropped = 0;
    kept.mesh.clear_gauges();
    for instance in &mut kept.instances {
        instance.memory_bytes = None;
        instance.cpu_ms = None;
        // That a check failed for another reason is news; that it succeeded again is not.
        match &mut instance.last_probe {
            Some(probe) if !probe.ok => {
                probe.at_ms = 0;
                probe.duration_ms = 0;
            }
            probe => *probe = None,
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(internal_port: u16) -> DesiredState {
        let service = |n: u32, name: &str, port: serde_json::Value| {
            serde_json::json!({
                "service_id": format!("svc_{n:032x}"), "name": name, "routes": [], "instances": [
                    { "instance_id": format!("ins_{n:032x}"), "revision_id": format!("rev_{n:032x}"),
                      "deployment_id": format!("dep_{n:032x}"), "ordinal": 0, "intent": "run", "traffic": "active" }],
                "revisions": [{ "revision_id": format!("rev_{n:032x}"), "number": 1, "deployment_id": format!("dep_{n:032x}"),
                    "source": { "git": "file:///r", "commit": "0".repeat(40), "directory": "" }, "build_key": "b",
                    "run": { "kind": "command", "command": "true" }, "env": {}, "port": port,
                    "health": { "check": { "kind": "tcp" }, "interval_ms": 1, "timeout_ms": 1, "healthy_after": 1, "unhealthy_after": 1, "start_grace_ms": 1 },
                    "restart": api::services::RestartSpec::default(), "stop": api::services::StopSpec::default() }],
            })
        };
        let stack = |n: u32, services: Vec<serde_json::Value>| {
            serde_json::json!({ "stack_id": format!("stk_{n:032x}"), "project_id": format!("prj_{n:032x}"),
                "name": format!("stack-{n}"), "version": 1, "hash": "h", "services": services })
        };
        let injected = serde_json::json!({ "kind": "injected" });
        let none = serde_json::json!({ "kind": "none" });
        serde_json::from_value(serde_json::json!({
            "server_id": format!("srv_{:032x}", 1), "server_name": "local", "generation": 1, "issued_at_ms": 0,
            "poll_interval_ms": 10000, "security_mode": "closed",
            "gateway": { "port": 80, "internal_port": internal_port, "response_timeout_ms": 1, "connect_timeout_ms": 1, "idle_timeout_ms": 1 },
            "dns": { "enabled": true, "domain": "svc.internal", "port": 5353 },
            "stacks": [
                stack(1, vec![service(1, "my-api", injected.clone()), service(2, "worker", none)]),
                stack(2, vec![service(3, "stranger", injected)]),
            ],
        }))
        .unwrap()
    }

    fn urls(desired: &DesiredState, names_resolve: bool, ports: &[(&str, u16)]) -> Vec<(String, String)> {
        let of = format!("svc_{:032x}", 2).parse().unwrap();
        let ports = ports.iter().map(|(id, port)| (id.parse().unwrap(), *port)).collect();
        let urls = service_urls(desired, &of, names_resolve, &ports);
        urls.into_iter().map(|(name, url)| (name, url.expose().to_owned())).collect()
    }

    #[test]
    fn a_service_learns_the_addresses_of_its_own_project_and_of_nothing_else() {
        let expected = |url: &str| vec![("SERVICE_MY_API_URL".to_owned(), url.to_owned())];
        assert_eq!(urls(&desired(80), true, &[]), expected("http://my-api.svc.internal"));
        assert_eq!(urls(&desired(8080), true, &[]), expected("http://my-api.svc.internal:8080"));
        let port = [(&*format!("svc_{:032x}", 1), 18_000)];
        assert_eq!(urls(&desired(80), false, &port), expected("http://127.0.0.1:18000"));
    }

    #[test]
    fn only_services_that_listen_get_an_internal_name() {
        assert_eq!(dns_desired(&desired(80)).names, ["my-api.svc.internal", "stranger.svc.internal"]);
    }

    #[test]
    fn a_stack_is_applied_only_when_every_instance_is_healthy_and_says_why_not() {
        let desired = desired(80);
        let healthy = |n: u32, state| {
            let id = format!("ins_{n:032x}").parse().unwrap();
            let mut instance = absent_with_problem(&desired, &id, String::new()).unwrap();
            instance.state = state;
            instance
        };
        let condition = |instances: &[InstanceObserved]| {
            let gateway = GatewayObserved::default();
            let evidence = Evidence { instances, preparations: &[], configs: &[], failures: &[], gateway: &gateway };
            let all = stack_conditions(&desired, &evidence);
            (all[0].condition, all[0].problems.clone())
        };
        let good = [healthy(1, InstanceState::Healthy), healthy(2, InstanceState::Healthy)];
        assert_eq!(condition(&good), (StackCondition::Applied, vec![]));
        assert_eq!(condition(&good[..1]), (StackCondition::Applying, vec![]));
        let mut looping = good.clone();
        looping[1].crash_looping = true;
        let (state, problems) = condition(&looping);
        assert_eq!(state, StackCondition::Degraded);
        assert!(problems[0].contains("worker keeps crashing"), "{problems:?}");
    }

    #[test]
    fn what_is_wrong_with_several_instances_of_a_service_is_said_once() {
        let mut desired = desired(80);
        let worker = &mut desired.stacks[0].services[1];
        let mut second = worker.instances[0].clone();
        second.instance_id = format!("ins_{:032x}", 9).parse().unwrap();
        worker.instances.push(second);
        let instances = desired.stacks[0].services[1].instances.clone();
        let refused = |(n, one): (usize, &InstanceDesired)| {
            let problem = format!("GET http://127.0.0.1:2000{n}/: connection refused");
            let seen = absent_with_problem(&desired, &one.instance_id, problem).unwrap();
            InstanceObserved { state: InstanceState::Unhealthy, ..seen }
        };
        let seen: Vec<_> = instances.iter().enumerate().map(refused).collect();
        let gateway = GatewayObserved::default();
        let evidence = Evidence { instances: &seen, preparations: &[], configs: &[], failures: &[], gateway: &gateway };
        let said = "worker is unhealthy (2 instances): GET http://127.0.0.1:20000/: connection refused";
        assert_eq!(stack_conditions(&desired, &evidence)[0].problems, [said]);
    }

    #[test]
    fn a_gauge_that_moved_is_no_news_and_a_new_reason_is() {
        let desired = desired(80);
        let id = format!("ins_{:032x}", 1).parse().unwrap();
        let mut observed = ObservedState {
            server_id: desired.server_id.clone(),
            generation: 1,
            observed_at_ms: 1,
            fleet_generation: 0,
            agent: Default::default(),
            stacks: vec![],
            instances: vec![absent_with_problem(&desired, &id, "a".into()).unwrap()],
            preparations: vec![],
            gateway: Default::default(),
            dns: Default::default(),
            mesh: Default::default(),
            blocked: vec![],
            resources: Default::default(),
        };
        let before = significant(&observed);
        observed.observed_at_ms = 2;
        observed.instances[0].cpu_ms = Some(5);
        observed.resources.load_1m = 1.0;
        assert_eq!(significant(&observed), before);
        observed.instances[0].problem = Some("b".into());
        assert_ne!(significant(&observed), before);
    }
}
