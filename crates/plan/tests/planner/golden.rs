//! Golden plans: every file of `../worlds` is a world and, below `--- plan`, what the planner says
//! of it, in the words of `mainstay plan`. `UPDATE_WORLDS=1 cargo test -p plan golden` writes the
//! lower parts anew; the difference is then read in review like any other.

use crate::stack_script;
use crate::world::{World, with_names};
use plan::host::HostInput;
use plan::render;
use std::path::{Path, PathBuf};

const SEPARATOR: &str = "--- plan\n";

fn worlds(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/worlds").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("read {}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "world"))
        .collect();
    files.sort();
    files
}

/// Plans every world of a kind and compares; all differences are shown, not only the first.
fn check(kind: &str, at_least: usize, planned: impl Fn(&str, &str) -> String) {
    let update = std::env::var_os("UPDATE_WORLDS").is_some();
    let files = worlds(kind);
    assert!(files.len() >= at_least, "only {} worlds of kind {kind} are left", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let name = format!("{kind}/{}", file.file_name().unwrap_or_default().to_string_lossy());
        let text = std::fs::read_to_string(&file).unwrap();
        let (script, expected) = text.split_once(SEPARATOR).unwrap_or((&text, ""));
        let title = script.lines().next().unwrap_or_default();
        assert!(title.starts_with("# ") && title.ends_with('.'), "{name}: the first line is a sentence behind `# `");
        let plan = format!("{}\n", planned(&name, script));
        if plan == expected {
            continue;
        }
        if update {
            std::fs::write(&file, format!("{}\n\n{SEPARATOR}{plan}", script.trim_end())).unwrap();
        } else {
            wrong.push(format!("{name}\n{title}\n--- expected\n{expected}--- planned\n{plan}"));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_WORLDS=1 takes what is planned:\n\n{}", wrong.join("\n"));
}

#[test]
fn golden_plans_of_machines() {
    check("host", 10, |file, script| {
        let world = World::parse(file, script);
        let desired = world.desired();
        let plan = plan::host::plan(HostInput {
            desired: world.verified.then_some(&desired),
            instances: &world.observed(),
            preparations: &world.preparations(),
            configs: &world.configs,
            gateway_active: &world.gateway_active(),
            failures: &world.failures,
            now_ms: world.now_ms,
        });
        with_names(&render::host_plan(&plan, world.now_ms).plain())
    });
}

#[test]
fn golden_plans_of_rollouts() {
    check("rollout", 20, |file, script| {
        let world = World::parse(file, script);
        let plan = plan::rollout::plan(&world.rollout());
        with_names(&render::rollout_plan(&plan, world.now_ms).plain())
    });
}

#[test]
fn golden_configurations_of_gateways() {
    check("gateway", 4, |file, script| {
        let world = World::parse(file, script);
        let config = plan::gateway::render(&world.desired(), &world.observed(), &world.preparations(), &world.context);
        with_names(&render::gateway_config(&config).plain())
    });
}

#[test]
fn golden_plans_of_stacks() {
    check("stack", 5, |file, script| {
        let stack = stack_script::parse(file, script);
        let plan = plan::stack::diff(stack.deployed.as_ref(), &stack.manifest, &stack.versions);
        render::stack_plan(&plan).plain()
    });
}
