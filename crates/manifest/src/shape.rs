//! The shape of a manifest, checked against the JSON schema of the types in [`crate::raw`].
//!
//! serde would stop at the first unknown field and forget where it was. Here the document is walked
//! together with the schema: what does not fit is reported with its place and cut out, and what is
//! left is handed to serde, which then has nothing to complain about.

use crate::place::Places;
use crate::raw::Manifest;
use crate::{ManifestErrors, suggest};
use api::error::ErrorDetail;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

pub struct Document<'t> {
    pub manifest: Manifest,
    pub places: Places<'t>,
}

/// Reads the text. `Err`: its syntax is wrong, so nothing more can be said. `Ok`: the fields that
/// have the right shape, and complaints about the others.
pub fn read(text: &str) -> Result<(Document<'_>, Vec<ErrorDetail>), ManifestErrors> {
    let mut places = Places::new(text);
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        return Err(ManifestErrors(syntax_details(&places, text, &syntax_errors)));
    }
    let schema = crate::schema();
    let mut walk = Walk { schema: &schema, places: &mut places, errors: Vec::new() };
    let pruned = walk.table(&schema, table.get_ref(), "");
    let mut errors = walk.errors;
    let manifest = serde_json::from_value(pruned).unwrap_or_else(|error| {
        errors.push(places.detail("", format!("the manifest cannot be read: {error}"), None));
        Manifest::default()
    });
    Ok((Document { manifest, places }, errors))
}

fn syntax_details(places: &Places<'_>, text: &str, errors: &[toml::de::Error]) -> Vec<ErrorDetail> {
    let mut errors: Vec<_> = errors.iter().map(|e| (e.span().unwrap_or(0..0), e)).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut details = Vec::new();
    let mut repeated_header = None;
    for (span, error) in errors {
        let header = text[..places.lines.end_of_line(span.start)]
            .lines()
            .enumerate()
            .filter(|(_, l)| l.trim_start().starts_with('['))
            .last();
        let line = places.lines.line_at(span.start).trim();
        let is_duplicate = error.message().contains("duplicate key");
        // All lines below a repeated header look repeated as well; the header says it.
        if is_duplicate && !line.starts_with('[') && repeated_header.is_some() && repeated_header == header {
            continue;
        }
        if is_duplicate && line.starts_with('[') {
            repeated_header = header;
        }
        details.push(syntax_detail(places, text, error));
    }
    details.dedup();
    details
}

fn syntax_detail(places: &Places<'_>, text: &str, error: &toml::de::Error) -> ErrorDetail {
    let span = error.span().unwrap_or(0..0);
    if error.message().contains("duplicate key") {
        let line = places.lines.line_at(span.start).trim();
        let name = text.get(span.clone()).unwrap_or_default();
        let shown = if line.starts_with('[') { line } else { name };
        let help = match line.strip_prefix("[services.") {
            Some(_) => "two services cannot have one name; rename one of them",
            None => "keep one of the two",
        };
        return places.detail_at(None, span.start, format!("`{shown}` is written twice"), Some(help.into()));
    }
    let line = places.lines.line_at(span.start).trim();
    let shown: String = line.chars().take(80).collect();
    let message = format!("this is not TOML: {} in `{shown}`", error.message().replace('\n', ", "));
    places.detail_at(None, span.start, message, Some("texts need quotes, tables need brackets: https://toml.io".into()))
}

struct Walk<'w, 't> {
    schema: &'w Value,
    places: &'w mut Places<'t>,
    errors: Vec<ErrorDetail>,
}

impl<'w> Walk<'w, '_> {
    fn table(&mut self, schema: &'w Value, table: &DeTable<'_>, field: &str) -> Value {
        let known = schema.get("properties").and_then(Value::as_object);
        let any = schema.get("additionalProperties").filter(|s| s.is_object());
        let mut out = Map::new();
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            let path = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
            let Some(schema) = known.and_then(|k| k.get(name)).or(any) else {
                self.unknown(field, name, path, key.span().start, known);
                continue;
            };
            // A table written as `[services.web]` has no place of its own, only its header has.
            let span = if value.get_ref().is_table() { key.span() } else { value.span() };
            self.places.note(&path, span);
            if let Some(value) = self.value(schema, value, &path) {
                out.insert(name.to_owned(), value);
            }
        }
        Value::Object(out)
    }

    fn unknown(&mut self, holder: &str, name: &str, path: String, offset: usize, known: Option<&Map<String, Value>>) {
        let fields = || known.into_iter().flatten().map(|(name, _)| name.as_str());
        let is_service_field = || self.schema["$defs"]["Service"]["properties"].get(name).is_some();
        let help = if name == "worker" && holder.starts_with("services.") {
            "for a service that listens on nothing write `port = false`".to_owned()
        } else if let Some(word) = api::nearest::nearest(name, fields()) {
            format!("did you mean `{word}`?")
        } else if let Some(word) = suggest::synonym(name).filter(|word| fields().any(|f| f == *word)) {
            format!("did you mean `{word}`?")
        } else if holder.is_empty() && is_service_field() {
            format!("`{name}` belongs to a service: write it below `[services.NAME]`")
        } else {
            let mut all: Vec<_> = fields().collect();
            all.sort_unstable();
            format!("the fields here are {}", all.join(", "))
        };
        let message = format!("unknown field `{}`", shortened(name));
        self.errors.push(self.places.detail_at(Some(path), offset, message, Some(help)));
    }

    fn value(&mut self, schema: &'w Value, node: &Spanned<DeValue<'_>>, field: &str) -> Option<Value> {
        let mut shapes = Vec::new();
        self.shapes(schema, &mut shapes);
        let value = node.get_ref();
        let Some(shape) = shapes.iter().copied().find(|shape| accepts(shape, value)) else {
            self.wrong_kind(&shapes, value, field);
            return None;
        };
        Some(match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(flag) => Value::Bool(*flag),
            DeValue::Integer(number) => match integer(number) {
                Some(number) => Value::from(number),
                None => {
                    let message = format!("the number {number} is too large");
                    self.errors.push(self.places.detail(field, message, None));
                    return None;
                }
            },
            DeValue::Float(number) => {
                match number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
                    Some(number) => Value::Number(number),
                    None => {
                        let message = format!("`{}` is not a usable number", number.as_str());
                        self.errors.push(self.places.detail(field, message, None));
                        return None;
                    }
                }
            }
            DeValue::Array(items) => {
                let item_schema = &shape["items"];
                let mut out = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{field}[{index}]");
                    self.places.note(&path, item.span());
                    out.extend(self.value(item_schema, item, &path));
                }
                Value::Array(out)
            }
            DeValue::Table(table) => self.table(shape, table, field),
            DeValue::Datetime(_) => return None,
        })
    }

    /// All plain shapes that a schema allows: references followed, alternatives laid side by side.
    fn shapes(&self, schema: &'w Value, out: &mut Vec<&'w Value>) {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/")) {
            self.shapes(&self.schema["$defs"][name], out);
        } else if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            choices.iter().for_each(|choice| self.shapes(choice, out));
        } else {
            out.push(schema);
        }
    }

    fn wrong_kind(&mut self, shapes: &[&Value], value: &DeValue<'_>, field: &str) {
        let mut expected: Vec<&str> = shapes.iter().filter_map(|s| shape_name(s)).collect();
        expected.dedup();
        let expected = match expected.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            Some((last, _)) => (*last).to_owned(),
            None => "something else".to_owned(),
        };
        let message = format!("expected {expected}, found {}", shown(value));
        self.errors.push(self.places.detail(field, message, mend(shapes, value)));
    }
}

/// The types that a shape names; `null`, which TOML does not have, left out.
fn types(shape: &Value) -> impl Iterator<Item = &str> {
    let one = shape["type"].as_str();
    let many = shape["type"].as_array().into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(many).filter(|t| *t != "null")
}

fn accepts(shape: &Value, value: &DeValue<'_>) -> bool {
    types(shape).any(|t| {
        matches!(
            (t, value),
            ("string", DeValue::String(_))
                | ("integer", DeValue::Integer(_))
                | ("number", DeValue::Integer(_) | DeValue::Float(_))
                | ("boolean", DeValue::Boolean(_))
                | ("array", DeValue::Array(_))
                | ("object", DeValue::Table(_))
        )
    })
}

fn shape_name(shape: &Value) -> Option<&'static str> {
    Some(match (types(shape).next()?, shape["format"].as_str()) {
        ("string", Some("duration")) => "a duration such as \"30s\"",
        ("string", Some("size")) => "a size such as \"512M\"",
        ("string", _) => "a text in quotes",
        ("integer", _) => "a whole number",
        ("number", _) => "a number",
        ("boolean", _) => "true or false",
        ("array", _) => "a list",
        ("object", _) => "a table",
        _ => return None,
    })
}

fn mend(shapes: &[&Value], value: &DeValue<'_>) -> Option<String> {
    let allows = |wanted: &str| shapes.iter().any(|s| types(s).any(|t| t == wanted));
    let format = shapes.iter().find_map(|s| s["format"].as_str());
    match value {
        DeValue::Integer(n) if format == Some("duration") => Some(format!("give it a unit: \"{n}s\"")),
        DeValue::Integer(n) if format == Some("size") => Some(format!("give it a unit: \"{n}M\"")),
        DeValue::Integer(n) if allows("string") => Some(format!("write \"{n}\"")),
        DeValue::Float(n) if allows("string") => Some(format!("write \"{}\"", n.as_str())),
        DeValue::Boolean(b) if allows("string") => Some(format!("write \"{b}\"")),
        DeValue::String(text) if allows("integer") && text.parse::<i64>().is_ok() => {
            Some(format!("write {text} without quotes"))
        }
        DeValue::String(text) if allows("number") && text.parse::<f64>().is_ok() => {
            Some(format!("write {text} without quotes"))
        }
        DeValue::String(text) if allows("boolean") && text.parse::<bool>().is_ok() => {
            Some(format!("write {text} without quotes"))
        }
        DeValue::String(text) if allows("array") => Some(format!("write [{:?}]", shortened(text))),
        _ => None,
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {:?}", shortened(text)),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(flag) => format!("`{flag}`"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
