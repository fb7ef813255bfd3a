//! Makes the files of `docs/reference`, or says which of them no longer say what the code does.

use super::Mode;
use crate::root;
use anyhow::{Context, Result, bail};
use clap::Command;
use serde_json::Value;
use std::fmt::Write;

const NOTE: &str = "<!-- Made from the code by `cargo xtask docs`; changes here are overwritten. -->\n\n";

pub fn run(mode: Mode) -> Result<()> {
    let files = [
        ("docs/reference/manifest.md", manifest()?),
        ("docs/reference/manifest.schema.json", format!("{:#}\n", manifest::schema())),
        ("docs/reference/cli.md", command_line()),
        ("docs/reference/exit-codes.md", exit_codes()?),
        ("docs/reference/json.md", super::json::page(NOTE)?),
        ("docs/reference/json.schema.json", format!("{:#}\n", cli::answers::schema())),
        ("docs/reference/api.md", api()?),
        ("docs/reference/openapi.json", format!("{:#}\n", serde_json::to_value(server::openapi())?)),
    ];
    let mut stale = Vec::new();
    for (file, wanted) in files {
        let path = root().join(file);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        if found == wanted {
            continue;
        }
        match mode {
            Mode::Check => stale.push(file),
            Mode::Write => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                std::fs::write(&path, wanted).with_context(|| format!("{file} cannot be written"))?;
                println!("written: {file}");
            }
        }
    }
    if !stale.is_empty() {
        bail!("these no longer say what the code does: {}; run `cargo xtask docs`", stale.join(", "));
    }
    Ok(())
}

fn manifest() -> Result<String> {
    let schema = manifest::schema();
    let source = std::fs::read_to_string(root().join("crates/manifest/src/raw.rs"))?;
    let mut out = format!("# The manifest, `mainstay.toml`\n\n{NOTE}");
    out.push_str(&paragraph(&schema));
    out.push_str("\nAnything that is not listed here is refused, with its line and what was probably meant.\n");
    out.push_str("The same as a JSON schema, for editors: [manifest.schema.json](manifest.schema.json).\n");
    out.push_str(EXAMPLE);
    section(&mut out, "At the top", &schema, "Manifest", &source);
    let tables = [
        ("`[services.NAME]`", "Service"),
        ("`build`, as a table", "BuildTable"),
        ("`route`, as a table", "RouteTable"),
        ("`health`, as a table", "HealthTable"),
        ("`[services.NAME.rollout]`", "Rollout"),
        ("`[services.NAME.stop]`", "Stop"),
        ("`[services.NAME.restart]`", "Restart"),
    ];
    for (title, name) in tables {
        let table = &schema["$defs"][name];
        if table.is_null() {
            bail!("the manifest has no `{name}` any more; mend xtask/src/docs/reference.rs");
        }
        section(&mut out, title, table, name, &source);
    }
    out.push_str("\n## Texts with a unit\n\n");
    for name in ["DurationText", "SizeText"] {
        let _ = writeln!(out, "- {}", paragraph(&schema["$defs"][name]).trim());
    }
    Ok(out)
}

const EXAMPLE: &str = r#"
```toml
name = "shop"

[services.web]
build = { command = "npm ci && npm run build", timeout = "5m", memory = "2G" }
run = "node server.js"
replicas = 2
route = "shop.example.com"
health = "/healthz"
memory = "512M"

[services.web.env]
NODE_ENV = "production"

[services.mail]
run = "node mail.js"
port = false
```
"#;

/// One table of the manifest: its fields in the order of the source.
fn section(out: &mut String, title: &str, schema: &Value, name: &str, source: &str) {
    let _ = write!(out, "\n## {title}\n\n");
    if name != "Manifest" {
        out.push_str(&paragraph(schema));
        out.push('\n');
    }
    out.push_str("| field | value | |\n|---|---|---|\n");
    let struct_source = source
        .split(&format!("pub struct {name} {{"))
        .nth(1)
        .and_then(|rest| rest.split("\n}").next())
        .unwrap_or_default();
    let mut fields: Vec<(&String, &Value)> = schema["properties"].as_object().into_iter().flatten().collect();
    fields.sort_by_key(|(field, _)| {
        let plain = struct_source.find(&format!("pub {field}:"));
        plain.or_else(|| struct_source.find(&format!("rename = \"{field}\""))).unwrap_or(usize::MAX)
    });
    for (field, schema) in fields {
        let description = schema["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(out, "| `{field}` | {} | {description} |", kinds(schema).join(" or "));
    }
}

/// What may be written for a field, in words.
fn kinds(schema: &Value) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return vec![match name {
            "DurationText" => "duration".into(),
            "SizeText" => "size".into(),
            "Build" => "text or table".into(),
            "Routes" => "text, table or list".into(),
            "Route" => "text or table".into(),
            "Health" => "text or table".into(),
            "Port" => "number or `false`".into(),
            "EnvValue" => "text, number or boolean".into(),
            _ => "table".into(),
        }];
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().filter(|c| c["type"] != "null").flat_map(kinds).collect();
    }
    let one = schema["type"].as_str().into_iter();
    let many = schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut words = Vec::new();
    for kind in one.chain(many).filter(|kind| *kind != "null") {
        words.push(match kind {
            "string" => "text".to_owned(),
            "integer" => "whole number".to_owned(),
            "array" => format!("list of {}", kinds(&schema["items"]).join(" or ")),
            "object" if schema["additionalProperties"].is_object() => {
                format!("table of {}", kinds(&schema["additionalProperties"]).join(" or "))
                    .replace("table of table", "tables by name")
            }
            "object" => "table".to_owned(),
            other => other.to_owned(),
        });
    }
    words
}

fn paragraph(schema: &Value) -> String {
    format!("{}\n", schema["description"].as_str().unwrap_or_default().replace('\n', " "))
}

fn command_line() -> String {
    let mut root = cli::command().term_width(100).mut_args(|argument| argument.hide_env_values(true));
    root.build();
    let mut out = format!("# The command line\n\n{NOTE}");
    out.push_str("Options of `mainstay` itself may stand after any command, too. Exit codes are listed in\n[exit-codes.md](exit-codes.md).\n");
    describe(&mut out, &mut root, 2);
    out
}

fn describe(out: &mut String, command: &mut Command, level: usize) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let _ = write!(out, "\n{} {name}\n\n```text\n", "#".repeat(level.min(4)));
    for line in command.render_long_help().to_string().trim_end().lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push_str("```\n");
    let visible = |c: &&mut Command| !c.is_hide_set() && c.get_name() != "help";
    for subcommand in command.get_subcommands_mut().filter(visible) {
        // Options that every command takes are described once, at the top.
        let plain = subcommand.clone().mut_args(|argument| {
            let is_global = argument.is_global_set();
            // What is set where this runs is nobody's business.
            let argument = argument.hide_env_values(true);
            if is_global { argument.hide(true) } else { argument }
        });
        *subcommand = plain;
        describe(out, subcommand, level + 1);
    }
}

/// The table in the documentation of the module that defines them.
fn exit_codes() -> Result<String> {
    let source = std::fs::read_to_string(root().join("crates/cli/src/exit.rs"))?;
    let table: Vec<&str> = source.lines().filter_map(|line| line.strip_prefix("//! |")).collect();
    if table.is_empty() {
        bail!("crates/cli/src/exit.rs has no table of exit codes in its documentation");
    }
    let mut out = format!(
        "# Exit codes\n\n{NOTE}Every command of `mainstay` ends with one of these, so that a script can decide.\n\n"
    );
    for line in table {
        let _ = writeln!(out, "|{line}");
    }
    Ok(out)
}

/// Every endpoint on a line; the whole description is openapi.json.
fn api() -> Result<String> {
    let document = serde_json::to_value(server::openapi())?;
    let mut out = format!("# The API\n\n{NOTE}");
    out.push_str("JSON over HTTP. Authenticate with `Authorization: Bearer TOKEN` (`mainstay tokens create --api`).\n");
    out.push_str("The whole description is in [openapi.json](openapi.json); a running control plane serves it at\n");
    out.push_str("`/api/v1/openapi.json`, and as pages at `/docs`.\n\n| | path | |\n|---|---|---|\n");
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let words =
                ["summary", "description"].iter().find_map(|field| operation[*field].as_str()).unwrap_or_default();
            let first = words.lines().next().unwrap_or_default().replace('|', "\\|");
            let _ = writeln!(out, "| {} | `{path}` | {first} |", method.to_uppercase());
        }
    }
    Ok(out)
}
