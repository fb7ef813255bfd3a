//! Python: `requirements.txt`, `pyproject.toml`, or a `main.py` alone.
//!
//! Dependencies go into `.venv` beside the code. Programs in it are started as `python -m NAME`: the
//! scripts in `.venv/bin` name the absolute path they were installed at, modules do not.

use super::{Guess, Kind, Run, Tree, has};

const PYTHON: &str = ".venv/bin/python";

pub fn guess(tree: &dyn Tree) -> Option<Guess> {
    let requirements = tree.read("requirements.txt");
    let pyproject = tree.read("pyproject.toml");
    let mut reasons = Vec::new();
    let install = if requirements.is_some() {
        reasons.push("there is a requirements.txt".to_owned());
        Some("-r requirements.txt")
    } else if pyproject.as_ref().is_some_and(|text| text.contains("[project]") || text.contains("[build-system]")) {
        reasons.push("there is a pyproject.toml".to_owned());
        Some(".")
    } else {
        None
    };
    let entry = ["main.py", "app.py", "wsgi.py", "asgi.py", "server.py"].into_iter().find(|f| has(tree, f));
    if install.is_none() && entry.is_none() && !has(tree, "manage.py") {
        return None;
    }
    let python = if install.is_some() { PYTHON } else { "python3" };
    let wanted =
        format!("{}\n{}", requirements.unwrap_or_default(), pyproject.unwrap_or_default()).to_ascii_lowercase();
    let run = run(tree, python, &wanted, &mut reasons);
    let build = install.map(|what| format!("python3 -m venv .venv && {PYTHON} -m pip install {what}"));
    Some(Guess {
        kind: Kind::Python,
        noun: "a Python project".into(),
        cache: Vec::new(),
        reasons,
        build,
        run,
        // Otherwise lines stay in a buffer and appear in the log late or never.
        env: vec![("PYTHONUNBUFFERED", "1")],
    })
}

fn run(tree: &dyn Tree, python: &str, wanted: &str, reasons: &mut Vec<String>) -> Run {
    if let Some(manage) = tree.read("manage.py").filter(|text| text.contains("DJANGO_SETTINGS_MODULE")) {
        let project = manage.split(['"', '\'']).find_map(|text| text.strip_suffix(".settings"));
        return match project.filter(|p| is_module(p)) {
            Some(project) if wanted.contains("gunicorn") => {
                reasons.push(format!("manage.py is Django's, its project is `{project}`, and gunicorn is installed"));
                Run::Command(format!("{python} -m gunicorn --bind 127.0.0.1:$PORT {project}.wsgi"))
            }
            _ => {
                reasons.push("manage.py is Django's; its development server is used because gunicorn is not among the dependencies".into());
                Run::Command(format!("{python} manage.py runserver --noreload 127.0.0.1:$PORT"))
            }
        };
    }
    for file in ["main.py", "app.py", "wsgi.py", "asgi.py", "server.py", "app/main.py", "src/main.py"] {
        let Some(text) = tree.read(file) else { continue };
        let module = file.trim_end_matches(".py").replace('/', ".");
        if let Some(app) = variable(&text, "FastAPI(") {
            reasons.push(format!("{file} makes a FastAPI application"));
            return Run::Command(format!("{python} -m uvicorn {module}:{app} --host 127.0.0.1 --port $PORT"));
        }
        if let Some(app) = variable(&text, "Flask(") {
            if wanted.contains("gunicorn") {
                reasons.push(format!("{file} makes a Flask application, and gunicorn is installed"));
                return Run::Command(format!("{python} -m gunicorn --bind 127.0.0.1:$PORT {module}:{app}"));
            }
            reasons.push(format!("{file} makes a Flask application; Flask's development server is used because gunicorn is not among the dependencies"));
            return Run::Command(format!("{python} -m flask --app {module}:{app} run --host 127.0.0.1 --port $PORT"));
        }
    }
    match ["main.py", "app.py", "server.py"].into_iter().find(|f| has(tree, f)) {
        Some(file) => {
            reasons.push(format!("there is {file}; it should listen on the port in PORT"));
            Run::Command(format!("{python} {file}"))
        }
        None => Run::Unknown("the Python project has no manage.py, main.py, app.py or server.py".into()),
    }
}

/// The module-level variable that is given what `constructor` makes.
fn variable<'t>(text: &'t str, constructor: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let name = name.split(':').next()?.trim_end();
        let value = value.trim_start();
        let made = value.starts_with(constructor)
            || value.split_once('.').is_some_and(|(_, rest)| rest.starts_with(constructor));
        (made && is_module(name) && !name.contains('.')).then_some(name)
    })
}

fn is_module(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
        && !text.starts_with(|c: char| c.is_ascii_digit())
}
