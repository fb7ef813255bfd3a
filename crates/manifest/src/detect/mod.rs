//! What kind of project is this, and how would it be run?
//!
//! A project without a manifest is looked at: its root and, where a kind of project needs it, one
//! folder below. Each kind gives a [`Guess`] or nothing. One guess becomes a manifest, written out
//! with the reasons, so that a person can see what was decided and change it. Two equally good guesses
//! are said and not chosen between: running the wrong half of a repository helps nobody.
//!
//! Detection only reads; it never runs anything of the project, not even its package manager.

mod go;
mod node;
mod php;
mod procfile;
mod python;
mod render;
mod rust;
mod static_files;
mod tree;

pub use tree::{Entry, Folder, Tree};

use api::name::Name;
use std::fmt;

/// A manifest that was worked out from a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// One sentence: `This is a Node project; it is built with npm and started with "npm start".`
    pub what: String,
    /// What was seen that led to it, and what a person should know before deploying.
    pub reasons: Vec<String>,
    /// Text of a `mainstay.toml`, with comments; [`crate::parse`] accepts it.
    pub manifest: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetectError {
    #[error(
        "there is no mainstay.toml in `{folder}`, and what kind of project it is could not be seen: no Procfile, package.json with a \
         start script, requirements.txt, pyproject.toml, Cargo.toml with a program, go.mod, index.php or index.html was found{}",
        seen.as_ref().map(|s| format!(" ({s})")).unwrap_or_default()
    )]
    Unknown { folder: String, seen: Option<String> },
    #[error("`{folder}` could be more than one kind of project: {}", list(candidates))]
    Ambiguous { folder: String, candidates: Vec<String> },
}

impl DetectError {
    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => {
                "write a mainstay.toml with `name = \"…\"` and `[services.web]` with `run = \"…\"`, or a Procfile with `web: COMMAND`"
            }
            Self::Ambiguous { .. } => "say which by a mainstay.toml, or by a Procfile with `web: COMMAND`",
        }
    }
}

/// How one kind of project would be built and run.
#[derive(Debug, Clone)]
struct Guess {
    kind: Kind,
    /// `a Node project`
    noun: String,
    reasons: Vec<String>,
    build: Option<String>,
    cache: Vec<String>,
    run: Run,
    env: Vec<(&'static str, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Node,
    Python,
    Rust,
    Go,
    Php,
    Static,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Run {
    Command(String),
    Static(String),
    /// It can be built, but nothing says how it is started; a Procfile may.
    Unknown(String),
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => write!(f, "started with `{command}`"),
            Self::Static(folder) if folder == "." => write!(f, "served as static files"),
            Self::Static(folder) => write!(f, "its folder `{folder}` is served as static files"),
            Self::Unknown(_) => write!(f, "not started by anything that could be seen"),
        }
    }
}

/// Looks at a project and writes a manifest for it.
pub fn detect(tree: &dyn Tree) -> Result<Detection, DetectError> {
    let tree = &TextOnly(tree);
    let guesses = guesses(tree);
    if let Some(processes) = procfile::read(tree) {
        return procfile::detection(tree, processes, guesses.first());
    }
    let (usable, unusable): (Vec<_>, Vec<_>) = guesses.into_iter().partition(|g| !matches!(g.run, Run::Unknown(_)));
    match usable.as_slice() {
        [] => Err(DetectError::Unknown { folder: tree.name(), seen: unusable.iter().find_map(unknown_reason) }),
        [guess] => Ok(detection(tree, guess, &unusable)),
        several => {
            let candidates = several.iter().map(|g| format!("{}, {}", g.noun, g.run)).collect();
            Err(DetectError::Ambiguous { folder: tree.name(), candidates })
        }
    }
}

/// A file with a NUL character is not text, and what it holds could not be a command.
struct TextOnly<'t>(&'t dyn Tree);

impl Tree for TextOnly<'_> {
    fn name(&self) -> String {
        self.0.name()
    }

    fn list(&self, folder: &str) -> Vec<Entry> {
        self.0.list(folder)
    }

    fn read(&self, path: &str) -> Option<String> {
        self.0.read(path).filter(|text| !text.contains('\0') && !path.contains('\0'))
    }
}

/// All that apply. Static files only count when there is no program: nearly every project has some.
fn guesses(tree: &dyn Tree) -> Vec<Guess> {
    let detectors = [node::guess, python::guess, rust::guess, go::guess, php::guess];
    let mut found: Vec<Guess> = detectors.iter().filter_map(|detect| detect(tree)).collect();
    // A package.json beside a program in another language usually holds its front-end tools.
    let is_program = |g: &Guess| matches!(g.run, Run::Command(_));
    if found.iter().filter(|g| is_program(g)).any(|g| g.kind != Kind::Node) {
        found.retain(|g| g.kind != Kind::Node || is_program(g));
    }
    if found.iter().all(|g| matches!(g.run, Run::Unknown(_))) {
        found.extend(static_files::guess(tree));
    }
    found
}

fn detection(tree: &dyn Tree, guess: &Guess, unusable: &[Guess]) -> Detection {
    let mut reasons = guess.reasons.clone();
    reasons.extend(unusable.iter().filter_map(unknown_reason));
    let what = match &guess.build {
        Some(build) => format!("This is {}: built with `{build}`, {}.", guess.noun, guess.run),
        None => format!("This is {}: nothing to build, {}.", guess.noun, guess.run),
    };
    // Named like the stack and not `web`: internal names are shared by all stacks of a machine.
    let stack = stack_name(tree);
    let service = render::Service {
        name: stack.clone(),
        build: guess.build.clone(),
        cache: guess.cache.clone(),
        run: guess.run.clone(),
        is_worker: false,
        route: Some("/".into()),
        env: guess.env.clone(),
    };
    let manifest = render::manifest(&stack, &what, &reasons, &[service]);
    Detection { what, reasons, manifest }
}

fn unknown_reason(guess: &Guess) -> Option<String> {
    match &guess.run {
        Run::Unknown(reason) => Some(reason.clone()),
        _ => None,
    }
}

fn stack_name(tree: &dyn Tree) -> String {
    Name::suggest(&tree.name()).map_or_else(|| "app".to_owned(), String::from)
}

/// Whether the root holds a file of this name.
fn has(tree: &dyn Tree, name: &str) -> bool {
    tree.list("").iter().any(|entry| entry.name == name && !entry.is_folder)
}

fn list(items: &[String]) -> String {
    items.join("; or ")
}
