//! Worlds about a whole stack: what is deployed, and what the manifest says now.

use crate::samples::id;
use crate::words::Words;
use api::name::Name;
use api::plans::StackSpec;
use api::secret::Secret;
use api::services::*;
use plan::stack::{CurrentService, CurrentStack};
use std::collections::BTreeMap;

pub struct StackScript {
    pub deployed: Option<CurrentStack>,
    pub manifest: StackSpec,
    pub versions: BTreeMap<Name, SourceVersion>,
}

pub fn parse(file: &str, script: &str) -> StackScript {
    let name: Name = "shop".parse().unwrap();
    let mut stack = StackScript {
        deployed: None,
        manifest: StackSpec { name, project: None, services: BTreeMap::new() },
        versions: BTreeMap::new(),
    };
    for (index, line) in script.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = Words::of(file, index + 1, line);
        let part = words.take("deployed or manifest");
        if part == "deployed" && words.eat("version") {
            let version = words.parse("a version");
            stack.deployed = Some(CurrentStack { stack_id: id("stk", 1), version, services: BTreeMap::new() });
            words.end();
            continue;
        }
        let (spec, source_version) = service(&mut words);
        match (part.as_str(), &mut stack.deployed) {
            ("deployed", Some(deployed)) => {
                let replicas = spec.replicas.unwrap_or(1);
                deployed.services.insert(spec.name.clone(), CurrentService { spec, source_version, replicas });
            }
            ("manifest", _) => {
                stack.versions.insert(spec.name.clone(), source_version);
                stack.manifest.services.insert(spec.name.clone(), spec);
            }
            _ => words.fail("a line begins with `manifest`, or with `deployed` after `deployed version N`"),
        }
        words.end();
    }
    stack
}

fn service(words: &mut Words) -> (ServiceSpec, SourceVersion) {
    let mut spec = ServiceSpec {
        name: words.parse("a name"),
        source: SourceSpec::Git(GitSource {
            git: "https://example.com/shop.git".parse().unwrap(),
            reference: Some("main".parse().unwrap()),
            directory: String::new(),
            credential: None,
            submodules: false,
        }),
        build: None,
        run: RunSpec::Command { command: "run".into() },
        env: BTreeMap::new(),
        port: PortSpec::Injected,
        replicas: None,
        routes: Vec::new(),
        health: HealthSpec::with(HealthCheck::Tcp),
        limits: Limits::default(),
        restart: RestartSpec::default(),
        stop: StopSpec::default(),
        rollout: RolloutSpec::default(),
    };
    words.expect("commit");
    let digit = words.take("a digit of the commit");
    let commit = digit.repeat(40).parse().unwrap_or_else(|error| words.fail(error));
    while let Some(word) = words.next() {
        match word.as_str() {
            "command" => spec.run = RunSpec::Command { command: words.take("a command") },
            "build" => {
                let command = words.take("a command");
                spec.build = Some(BuildSpec { command, timeout_ms: 600_000, limits: Limits::default(), cache: vec![] });
            }
            "branch" => spec.source.git_mut().unwrap().reference = Some(words.parse("a branch")),
            "replicas" => spec.replicas = Some(words.parse("a number")),
            "port" => spec.port = PortSpec::Fixed { port: words.parse("a port") },
            "worker" => {
                spec.port = PortSpec::None;
                spec.health = HealthSpec::with(HealthCheck::Process);
            }
            "health" => spec.health = HealthSpec::with(HealthCheck::Http { path: words.take("a path") }),
            "drain" => spec.rollout.drain_ms = words.duration_ms(),
            "memory" => spec.limits.memory_bytes = Some(words.parse::<u64>("megabytes") << 20),
            "env" => {
                let pair = words.take("a variable such as KEY=value");
                let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
                spec.env.insert(key.into(), Secret::new(value));
            }
            "route" => {
                let address = words.take("a route");
                let (host, path) = address.split_at(address.find('/').unwrap_or(address.len()));
                let host = (host != "*").then(|| host.parse().unwrap_or_else(|error| words.fail(error)));
                let path = path.parse().unwrap_or_else(|error| words.fail(error));
                spec.routes.push(RouteSpec { host, path, strip_prefix: false, tls: Default::default() });
            }
            other => words.fail(format!("a service of a stack has no `{other}`")),
        }
    }
    (spec, commit)
}
