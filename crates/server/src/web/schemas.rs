//! JSON schemas of the OpenAPI document as text, tables and examples.

use super::frame::{Frame, Live, breadcrumb, page};
use super::reference::marked;
use maud::{Markup, html};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// How deep an example goes into nested schemas.
const EXAMPLE_DEPTH: usize = 4;

/// All named schemas.
pub struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    pub fn of(document: &Value) -> Self {
        let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
        Self(
            schemas
                .map(|all| all.iter().map(|(name, schema)| (name.clone(), schema.clone())).collect())
                .unwrap_or_default(),
        )
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        reference_name(schema).and_then(|name| self.0.get(name)).unwrap_or(schema)
    }

    /// The page of one schema.
    pub fn page(&self, name: &str, schema: &Value, frame: &Frame) -> Markup {
        page(
            frame,
            name,
            Live::No,
            html! {
                (breadcrumb(&[("/docs", "API reference")]))
                div.title {
                    h1 { span.kind { "Schema" } " " (name) }
                    p.lead { (marked(schema.get("description").and_then(Value::as_str).unwrap_or_default())) }
                }
                section.card aria-labelledby="fields-title" { h2 #fields-title { "What it holds" } p { (self.kind(schema)) } (self.fields(schema)) }
                section.card aria-labelledby="example-title" {
                    h2 #example-title { "For example" }
                    pre.code tabindex="0" { code { (serde_json::to_string_pretty(&example(self, schema)).unwrap_or_default()) } }
                }
            },
        )
    }

    /// The type in words, with links to named schemas.
    pub fn kind(&self, schema: &Value) -> Markup {
        if let Some(name) = reference_name(schema) {
            return html! { a href={ "/docs/schemas/" (name) } { (name) } };
        }
        if let Some(choices) = choices(schema) {
            return html! { @for (n, choice) in choices.iter().enumerate() { @if n > 0 { " or " } (self.kind(choice)) } };
        }
        if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
            return html! { @for (n, part) in parts.iter().enumerate() { @if n > 0 { " with " } (self.kind(part)) } };
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return html! { @for (n, value) in values.iter().enumerate() { @if n > 0 { " or " } code { (plain(value)) } } };
        }
        if let Some(value) = schema.get("const") {
            return html! { code { (plain(value)) } };
        }
        match schema.get("type") {
            Some(Value::Array(types)) => {
                html! { @for (n, name) in types.iter().enumerate() { @if n > 0 { " or " } (type_word(name.as_str().unwrap_or_default(), schema)) } }
            }
            Some(Value::String(name)) if name == "array" => {
                html! { "list of " @match schema.get("items") { Some(items) => (self.kind(items)), None => "anything" } }
            }
            Some(Value::String(name)) if name == "object" && schema.get("properties").is_none() => {
                match schema.get("additionalProperties") {
                    Some(values) if values.is_object() => html! { "map of text to " (self.kind(values)) },
                    _ => html! { "object" },
                }
            }
            Some(Value::String(name)) => type_word(name, schema),
            _ => html! { "anything" },
        }
    }

    /// A table of fields for every alternative.
    pub fn fields(&self, schema: &Value) -> Markup {
        let schema = self.resolve(schema);
        if let Some(choices) = choices(schema) {
            return html! { @for choice in &choices {
                @let choice = self.resolve(choice);
                @if let Some(text) = choice.get("description").and_then(Value::as_str) { p { (marked(text)) } }
                (self.table(choice))
            } };
        }
        self.table(schema)
    }

    fn table(&self, schema: &Value) -> Markup {
        let fields = self.fields_of(schema, EXAMPLE_DEPTH);
        html! {
            @if !fields.is_empty() {
                table {
                    thead { tr { th scope="col" { "Field" } th scope="col" { "Type" } th scope="col" { "Meaning" } } }
                    tbody { @for (name, field, required) in &fields { tr {
                        th scope="row" data-label="Field" { code { (name) } @if *required { " " span.soft { "required" } } }
                        td data-label="Type" { (self.kind(field)) }
                        td data-label="Meaning" { (marked(field.get("description").and_then(Value::as_str).unwrap_or_default())) }
                    } } }
                }
            }
        }
    }

    /// Name, schema and whether it is required, with those of all parts of a composed schema.
    fn fields_of<'a>(&'a self, schema: &'a Value, depth: usize) -> Vec<(&'a str, &'a Value, bool)> {
        let schema = self.resolve(schema);
        let required = |name: &str| {
            schema.get("required").and_then(Value::as_array).is_some_and(|all| all.iter().any(|v| v == name))
        };
        let own = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let mut fields: Vec<_> = own.map(|(name, field)| (name.as_str(), field, required(name))).collect();
        if depth > 0 {
            let parts = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
            fields.extend(parts.flat_map(|part| self.fields_of(part, depth - 1)));
        }
        fields
    }
}

fn reference_name(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.rsplit('/').next()
}

fn choices(schema: &Value) -> Option<Vec<Value>> {
    schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array).cloned()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn type_word(name: &str, schema: &Value) -> Markup {
    let word = match name {
        "string" => "text",
        "integer" => "whole number",
        "number" => "number",
        "boolean" => "true or false",
        "array" => "list",
        other => other,
    };
    let format = schema.get("format").and_then(Value::as_str);
    html! { (word) @if let Some(format) = format { " " span.soft { "(" (format) ")" } } }
}

/// Whether an example of it could go deeper.
fn holds_others(schema: &Value) -> bool {
    ["properties", "oneOf", "anyOf", "allOf", "items", "$ref"].iter().any(|key| schema.get(key).is_some())
}

/// A value that fits the schema, as small as it can be while showing every field.
pub fn example(schemas: &Schemas, schema: &Value) -> Value {
    example_at(schemas, schema, EXAMPLE_DEPTH)
}

fn example_at(schemas: &Schemas, schema: &Value, depth: usize) -> Value {
    if let Some(given) = schema.get("example").or_else(|| schema.get("default")).or_else(|| schema.get("const")) {
        return given.clone();
    }
    if let Some(name) = reference_name(schema) {
        return match schemas.get(name) {
            // What holds nothing else is always shown; of the rest, so much is enough.
            Some(target) if depth == 0 && holds_others(target) => json!({}),
            Some(target) => example_at(schemas, target, depth.saturating_sub(1)),
            None => Value::Null,
        };
    }
    if let Some(choices) = choices(schema) {
        let first = choices.iter().find(|choice| choice.get("type") != Some(&json!("null")));
        return first.map_or(Value::Null, |choice| example_at(schemas, choice, depth));
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        let mut whole = Map::new();
        for part in parts {
            if let Value::Object(fields) = example_at(schemas, part, depth) {
                whole.extend(fields);
            }
        }
        return Value::Object(whole);
    }
    if let Some(first) = schema.get("enum").and_then(Value::as_array).and_then(|values| values.first()) {
        return first.clone();
    }
    let name = match schema.get("type") {
        Some(Value::String(name)) => name.as_str(),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null")
        }
        _ => "object",
    };
    match name {
        "string" => json!("text"),
        "integer" => json!(1),
        "number" => json!(0.5),
        "boolean" => json!(false),
        "array" if depth == 0 => json!([]),
        "array" => json!([schema.get("items").map_or(Value::Null, |items| example_at(schemas, items, depth - 1))]),
        "null" => Value::Null,
        _ => {
            let fields = schema.get("properties").and_then(Value::as_object);
            Value::Object(
                fields
                    .into_iter()
                    .flatten()
                    .map(|(name, field)| (name.clone(), example_at(schemas, field, depth)))
                    .collect(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_of_a_schema_that_holds_itself_ends() {
        let document = json!({ "components": { "schemas": { "Tree": { "type": "object", "properties": { "children": { "type": "array", "items": { "$ref": "#/components/schemas/Tree" } } } } } } });
        let schemas = Schemas::of(&document);
        assert!(example(&schemas, &json!({ "$ref": "#/components/schemas/Tree" })).to_string().len() < 200);
    }

    #[test]
    fn a_type_is_told_in_words_with_links() {
        let schemas = Schemas::of(&json!({}));
        let kind = |schema: Value| schemas.kind(&schema).into_string();
        assert_eq!(kind(json!({ "type": ["string", "null"] })), "text or null");
        assert_eq!(
            kind(json!({ "type": "array", "items": { "$ref": "#/components/schemas/StackView" } })),
            "list of <a href=\"/docs/schemas/StackView\">StackView</a>"
        );
        assert_eq!(kind(json!({ "enum": ["run", "stop"] })), "<code>run</code> or <code>stop</code>");
    }
}
