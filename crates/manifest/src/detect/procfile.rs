//! `Procfile`: one line per process, `web: COMMAND`. It is the author's own word, so it wins over
//! everything that is guessed; only the build is taken from the kind of project.

use super::{DetectError, Detection, Guess, Run, Tree, render, stack_name};
use api::name::Name;

pub struct Process {
    pub kind: String,
    pub command: String,
}

/// The processes, or `None` without a Procfile.
pub fn read(tree: &dyn Tree) -> Option<Vec<Process>> {
    let text = tree.read("Procfile")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let processes = lines.filter_map(|line| {
        let (kind, command) = line.split_once(':')?;
        let (kind, command) = (kind.trim(), command.trim());
        (!kind.is_empty() && !command.is_empty())
            .then(|| Process { kind: kind.to_owned(), command: command.to_owned() })
    });
    Some(processes.take(50).collect())
}

pub fn detection(tree: &dyn Tree, processes: Vec<Process>, guess: Option<&Guess>) -> Result<Detection, DetectError> {
    let mut reasons = vec!["there is a Procfile".to_owned()];
    let mut services: Vec<render::Service> = Vec::new();
    for process in &processes {
        if process.kind == "release" {
            reasons.push(format!(
                "its `release` command is not run: Mainstay has no release phase; do `{}` at the start of `run` if it may run once per instance",
                process.command
            ));
            continue;
        }
        let Some(name) = Name::suggest(&process.kind).map(String::from) else {
            reasons.push(format!("the process `{}` has no usable name and is left out", process.kind));
            continue;
        };
        if services.iter().any(|s| s.name == name) {
            reasons.push(format!(
                "the process `{}` would have the name `{name}` a second time and is left out",
                process.kind
            ));
            continue;
        }
        if name != process.kind {
            reasons.push(format!("the process `{}` is called `{name}`, which is safe in DNS", process.kind));
        }
        let is_web = name == "web";
        services.push(render::Service {
            build: guess.and_then(|g| g.build.clone()),
            cache: guess.map(|g| g.cache.clone()).unwrap_or_default(),
            run: Run::Command(process.command.clone()),
            is_worker: !is_web,
            route: is_web.then(|| "/".to_owned()),
            env: guess.map(|g| g.env.clone()).unwrap_or_default(),
            name,
        });
    }
    if services.is_empty() {
        let seen = Some("its Procfile names no process to run: lines look like `web: COMMAND`".to_owned());
        return Err(DetectError::Unknown { folder: tree.name(), seen });
    }
    if let Some(guess) = guess {
        reasons.extend(guess.reasons.iter().cloned());
    }
    let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
    let noun = guess.map_or("a project", |g| g.noun.as_str());
    let what = format!("This is {noun} with a Procfile: it runs {}.", names.join(", "));
    let manifest = render::manifest(&stack_name(tree), &what, &reasons, &services);
    Ok(Detection { what, reasons, manifest })
}
