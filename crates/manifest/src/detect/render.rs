//! Writes a manifest as a person would: short, in a fixed order, with the reasons as comments.

use super::Run;

pub struct Service {
    pub name: String,
    pub build: Option<String>,
    pub cache: Vec<String>,
    pub run: Run,
    pub is_worker: bool,
    pub route: Option<String>,
    pub env: Vec<(&'static str, &'static str)>,
}

pub fn manifest(stack: &str, what: &str, reasons: &[String], services: &[Service]) -> String {
    let mut out = String::new();
    comment(&mut out, what);
    for reason in reasons {
        comment(&mut out, &format!("- {reason}"));
    }
    out.push_str("# All fields: docs/reference/manifest.md of Mainstay. See what would happen: mainstay plan\n\n");
    out.push_str(&format!("name = {}\n", text(stack)));
    for service in services {
        out.push_str(&format!("\n[services.{}]\n", service.name));
        match &service.build {
            Some(command) if service.cache.is_empty() => out.push_str(&format!("build = {}\n", text(command))),
            Some(command) => {
                let cache: Vec<String> = service.cache.iter().map(|c| text(c)).collect();
                out.push_str(&format!("build = {{ command = {}, cache = [{}] }}\n", text(command), cache.join(", ")));
            }
            None => {}
        }
        match &service.run {
            Run::Command(command) => out.push_str(&format!("run = {}\n", text(command))),
            Run::Static(folder) => out.push_str(&format!("static = {}\n", text(folder))),
            Run::Unknown(reason) => comment(&mut out, &format!("run = …  ({reason})")),
        }
        if service.is_worker {
            out.push_str("port = false  # nothing listens\n");
        }
        if let Some(route) = &service.route {
            out.push_str(&format!("route = {}  # any host; or \"shop.example.com\"\n", text(route)));
            if !matches!(service.run, Run::Static(_)) {
                out.push_str("# health = \"/healthz\"  # a path that answers 200 when all is well; without it, an open port is enough\n");
            }
        }
        for (index, (name, value)) in service.env.iter().enumerate() {
            if index == 0 {
                out.push_str(&format!("\n[services.{}.env]\n", service.name));
            }
            out.push_str(&format!("{name} = {}\n", text(value)));
        }
    }
    out
}

/// Text from a project may hold anything; in a comment it must stay on its line.
fn comment(out: &mut String, line: &str) {
    out.push_str("# ");
    out.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    out.push('\n');
}

fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}
