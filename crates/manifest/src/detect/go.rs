//! Go: `go.mod` with a main package at the root or as the only one below `cmd/`.

use super::{Guess, Kind, Run, Tree};

pub fn guess(tree: &dyn Tree) -> Option<Guess> {
    tree.read("go.mod")?;
    let mut reasons = vec!["there is a go.mod".to_owned()];
    let is_main = |folder: &str| {
        let files = tree.list(folder).into_iter().filter(|e| e.name.ends_with(".go") && !e.name.ends_with("_test.go"));
        files.take(50).any(|e| {
            let path = if folder.is_empty() { e.name } else { format!("{folder}/{}", e.name) };
            tree.read(&path).is_some_and(|text| text.lines().any(|line| line.trim() == "package main"))
        })
    };
    let commands: Vec<String> = tree
        .list("cmd")
        .into_iter()
        .filter(|e| e.is_folder && is_plain(&e.name) && is_main(&format!("cmd/{}", e.name)))
        .map(|e| e.name)
        .collect();
    let (package, run) = if is_main("") {
        reasons.push("its main package is at the root".into());
        (".".to_owned(), Run::Command("./bin/app".into()))
    } else if let [command] = commands.as_slice() {
        reasons.push(format!("its main package is cmd/{command}"));
        (format!("./cmd/{command}"), Run::Command("./bin/app".into()))
    } else if commands.is_empty() {
        ("./...".to_owned(), Run::Unknown("go.mod has no main package at the root or below cmd/".into()))
    } else {
        ("./...".to_owned(), Run::Unknown(format!("there are several main packages (cmd/{})", commands.join(", cmd/"))))
    };
    Some(Guess {
        kind: Kind::Go,
        noun: "a Go project".into(),
        reasons,
        build: Some(format!("go build -o bin/app {package}")),
        cache: Vec::new(),
        run,
        env: Vec::new(),
    })
}

fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) && !name.starts_with('-')
}
