//! `docs/reference/json.md`: what every command prints with `--json`, from the types that it prints.

use anyhow::Result;
use cli::answers::{Described, Form};
use serde_json::{Map, Value};
use std::fmt::Write;

const INTRODUCTION: &str = "\
With `--json` a command prints one JSON document on stdout, or one on each line where something is watched. Notes, hints
and progress are left out or go to stderr. The exit code is the same as without ([exit-codes.md](exit-codes.md)).

- Fields may be added; none is removed or changes its meaning without a new major version. Ignore what you do not know.
- What is not known or does not apply is null or absent, never 0 or an empty text.
- `_ms` are milliseconds, `_at_ms` milliseconds since 1970 UTC, `_bytes` bytes.
- Ids are texts like `svc_` and 32 letters; names are for people and may be given where an id may.

The same as a JSON schema, for programs: [json.schema.json](json.schema.json).
";

pub fn page(note: &str) -> Result<String> {
    let schema = cli::answers::schema();
    let mut out = format!("# JSON of the command line\n\n{note}{INTRODUCTION}\n| command | prints |\n|---|---|\n");
    for Described { command, form, name } in cli::answers::all() {
        let link = link(&name);
        let what = match form {
            Form::One => link,
            Form::List => format!("list of {link}"),
            Form::Lines => format!("{link} on each line"),
        };
        let named = match command.split_once(", ") {
            _ if command.starts_with("any ") => command.to_owned(),
            Some((command, when)) => format!("`mainstay {command}`, {when}"),
            None => format!("`mainstay {command}`"),
        };
        let _ = writeln!(out, "| {named} | {what} |");
    }
    let _ = writeln!(
        out,
        "\nNo document of their own print: {}.",
        cli::answers::WITHOUT.map(|c| format!("`{c}`")).join(", ")
    );
    let empty = Map::new();
    let definitions = schema["$defs"].as_object().unwrap_or(&empty);
    let mut names: Vec<&String> = definitions.keys().collect();
    names.sort_by_key(|name| name.to_lowercase());
    for name in names {
        definition(&mut out, name, &definitions[name]);
    }
    Ok(out)
}

fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

fn definition(out: &mut String, name: &str, schema: &Value) {
    let _ = writeln!(out, "\n## {name}\n");
    let described = text(schema);
    if !described.is_empty() {
        let _ = writeln!(out, "{described}\n");
    }
    let mut parts = parts(schema);
    parts.retain(|part| part["properties"].is_object());
    if parts.is_empty() {
        let _ = writeln!(out, "{}.", capital(&kind(schema)));
        return;
    }
    let several = parts.len() > 1 && schema.get("oneOf").is_some();
    for (index, part) in parts.iter().enumerate() {
        if several && index > 0 {
            out.push_str("\nor\n\n");
        }
        let words = text(part);
        if several && !words.is_empty() {
            let _ = writeln!(out, "{words}\n");
        }
        fields(out, part);
    }
    for also in schema["allOf"].as_array().into_iter().flatten().filter(|part| part["$ref"].is_string()) {
        let _ = writeln!(out, "\nand the fields of {}.", kind(also));
    }
}

/// The objects that a schema consists of: itself, or what it joins or chooses between.
fn parts(schema: &Value) -> Vec<&Value> {
    let joined = ["allOf", "oneOf"].iter().find_map(|key| schema[*key].as_array());
    joined.map_or_else(|| vec![schema], |parts| parts.iter().flat_map(self::parts).collect())
}

fn fields(out: &mut String, schema: &Value) {
    out.push_str("| field | value | |\n|---|---|---|\n");
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (field, value) in schema["properties"].as_object().into_iter().flatten() {
        let optional = if required.contains(&field.as_str()) { "" } else { " (may be absent)" };
        let _ = writeln!(out, "| `{field}` | {}{optional} | {} |", kind(value), text(value));
    }
}

fn text(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

/// What may stand there, in words.
fn kind(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        return link(target);
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().map(|value| format!("`{}`", value.as_str().unwrap_or("null"))).collect();
        return values.join(", ");
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(choices) = schema[key].as_array() {
            let words: Vec<String> = choices.iter().map(kind).collect();
            return words.join(if key == "allOf" { " and " } else { " or " });
        }
    }
    let one = schema["type"].as_str().into_iter();
    let many = schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let words: Vec<String> = one.chain(many).map(|kind| of_type(kind, schema)).collect();
    if words.is_empty() { "anything".into() } else { words.join(" or ") }
}

fn of_type(name: &str, schema: &Value) -> String {
    match name {
        "string" => "text".into(),
        "integer" => "whole number".into(),
        "boolean" => "true or false".into(),
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {} by name", kind(&schema["additionalProperties"]))
        }
        other => other.into(),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
