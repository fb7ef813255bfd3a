//! Rust: `Cargo.toml` with one program.

use super::{Guess, Kind, Run, Tree, has};

pub fn guess(tree: &dyn Tree) -> Option<Guess> {
    let cargo: toml::Table = tree.read("Cargo.toml")?.parse().ok()?;
    let package = cargo.get("package").and_then(|p| p.get("name")).and_then(|n| n.as_str());
    let programs = programs(tree, &cargo, package);
    let mut reasons = vec!["there is a Cargo.toml".to_owned()];
    let run = match programs.as_slice() {
        [program] if is_plain(program) => {
            reasons.push(format!("its program is `{program}`"));
            Run::Command(format!("./target/release/{program}"))
        }
        [] if package.is_none() => {
            Run::Unknown("Cargo.toml is a workspace; which of its programs to run is for you to say".into())
        }
        [] => Run::Unknown("Cargo.toml has no program (src/main.rs or [[bin]])".into()),
        several => Run::Unknown(format!(
            "Cargo.toml has several programs ({}); `default-run` would say which",
            several.join(", ")
        )),
    };
    let locked = if has(tree, "Cargo.lock") { " --locked" } else { "" };
    Some(Guess {
        kind: Kind::Rust,
        noun: "a Rust project".into(),
        reasons,
        build: Some(format!("cargo build --release{locked}")),
        cache: vec!["target".into()],
        run,
        env: Vec::new(),
    })
}

fn programs(tree: &dyn Tree, cargo: &toml::Table, package: Option<&str>) -> Vec<String> {
    if let Some(chosen) = cargo.get("package").and_then(|p| p.get("default-run")).and_then(|n| n.as_str()) {
        return vec![chosen.to_owned()];
    }
    let named = cargo.get("bin").and_then(|b| b.as_array()).into_iter().flatten();
    let mut programs: Vec<String> = named.filter_map(|bin| Some(bin.get("name")?.as_str()?.to_owned())).collect();
    let has_main = tree.list("src").iter().any(|entry| entry.name == "main.rs");
    if programs.is_empty() && has_main {
        programs.extend(package.map(str::to_owned));
    }
    programs.extend(tree.list("src/bin").into_iter().filter_map(|e| e.name.strip_suffix(".rs").map(str::to_owned)));
    programs.dedup();
    programs
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}
