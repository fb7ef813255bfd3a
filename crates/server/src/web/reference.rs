//! The API reference, made from the OpenAPI document that the API itself serves.
//!
//! Three kinds of page: all endpoints by tag, one endpoint with parameters, bodies and a command to
//! copy, one schema with its fields. No foreign viewer runs here: that would be megabytes of script
//! under a policy that allows none. The document is read as plain JSON, so what its generator adds
//! later changes nothing here until somebody wants to show it.

use super::frame::{Frame, Live, breadcrumb, copyable, page};
use super::schemas::{Schemas, example};
use maud::{Markup, html};
use serde_json::Value;
use std::collections::BTreeMap;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The document, taken apart.
pub struct Reference {
    description: String,
    operations: Vec<Operation>,
    pub schemas: Schemas,
}

pub struct Operation {
    pub slug: String,
    method: &'static str,
    path: String,
    tag: String,
    summary: String,
    description: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: Vec<(String, Value)>,
    access: Access,
}

#[derive(Clone, Copy, PartialEq)]
enum Access {
    Anyone,
    Caller,
    Agent,
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
}

impl Reference {
    pub fn new(document: &Value) -> Self {
        let empty = serde_json::Map::new();
        let paths = document.get("paths").and_then(Value::as_object).unwrap_or(&empty);
        let mut operations = Vec::new();
        for (path, entry) in paths {
            for method in METHODS {
                if let Some(operation) = entry.get(method) {
                    operations.push(Operation::new(method, path, operation));
                }
            }
        }
        Self {
            description: document.get("info").map(|info| text(info, "description")).unwrap_or_default(),
            operations,
            schemas: Schemas::of(document),
        }
    }

    pub fn operation(&self, slug: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.slug == slug)
    }

    /// All endpoints by tag.
    pub fn index(&self, frame: &Frame) -> Markup {
        let mut tags: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            tags.entry(&operation.tag).or_default().push(operation);
        }
        page(
            frame,
            "API",
            Live::No,
            html! {
                div.title {
                    h1 { "API reference" }
                    p.lead { (marked(&self.description)) }
                }
                section.card aria-labelledby="try-title" {
                    h2 #try-title { "Try it" }
                    p { "Make " a href="/tokens" { "a token" } ", then:" }
                    (copyable(&format!("curl -H \"Authorization: Bearer $MAINSTAY_TOKEN\" {}/api/v1/stacks", frame.address)))
                    p.soft { "The whole description, for tools: " a href="/api/v1/openapi.json" { "openapi.json" } " (OpenAPI 3.1)." }
                }
                @for (tag, operations) in &tags {
                    section.card aria-label={ "Endpoints: " (tag) } {
                        h2 #{ "tag-" (tag) } { (capital(tag)) }
                        ul.endpoints { @for operation in operations { li {
                            a href={ "/docs/endpoints/" (operation.slug) } { (method_badge(operation.method)) code { (operation.path) } }
                            span.soft { (marked(&operation.summary)) }
                        } } }
                    }
                }
                section.card aria-labelledby="schemas-title" {
                    h2 #schemas-title { "Schemas" }
                    ul.inline { @for name in self.schemas.names() { li { a href={ "/docs/schemas/" (name) } { (name) } } } }
                }
            },
        )
    }

    pub fn endpoint(&self, operation: &Operation, frame: &Frame) -> Markup {
        page(
            frame,
            &format!("{} {}", operation.method.to_uppercase(), operation.path),
            Live::No,
            html! {
                (breadcrumb(&[("/docs", "API reference")]))
                div.title {
                    h1.endpoint { (method_badge(operation.method)) " " code { (operation.path) } }
                    p.lead { (marked(&operation.summary)) }
                    @if !operation.description.is_empty() && operation.description != operation.summary { p { (marked(&operation.description)) } }
                    p.soft { (match operation.access { Access::Anyone => "Needs no credential.", Access::Caller => "Needs a token or a session.", Access::Agent => "For agents: signed with the key of a server." }) }
                }
                @if !operation.parameters.is_empty() { (self.parameters(operation)) }
                @if let Some(body) = &operation.body {
                    section.card aria-labelledby="body-title" {
                        h2 #body-title { "Body" }
                        p { (self.schemas.kind(body)) }
                        (self.schemas.fields(body))
                    }
                }
                section.card aria-labelledby="example-title" { h2 #example-title { "Example" } (copyable(&self.command(operation, frame))) }
                (self.answers(operation))
            },
        )
    }

    fn parameters(&self, operation: &Operation) -> Markup {
        html! {
            section.card aria-labelledby="parameters-title" {
                h2 #parameters-title { "Parameters" }
                table {
                    thead { tr { th scope="col" { "Name" } th scope="col" { "In" } th scope="col" { "Type" } th scope="col" { "Meaning" } } }
                    tbody { @for parameter in &operation.parameters { tr {
                        th scope="row" data-label="Name" { code { (text(parameter, "name")) } @if parameter.get("required") == Some(&Value::Bool(true)) { " " span.soft { "required" } } }
                        td data-label="In" { (text(parameter, "in")) }
                        td data-label="Type" { @if let Some(schema) = parameter.get("schema") { (self.schemas.kind(schema)) } }
                        td data-label="Meaning" { (marked(&text(parameter, "description"))) }
                    } } }
                }
            }
        }
    }

    fn answers(&self, operation: &Operation) -> Markup {
        html! {
            section.card aria-labelledby="answers-title" {
                h2 #answers-title { "Answers" }
                table {
                    thead { tr { th scope="col" { "Status" } th scope="col" { "Body" } th scope="col" { "Meaning" } } }
                    tbody { @for (status, answer) in &operation.responses { tr {
                        th scope="row" data-label="Status" { (status) }
                        td data-label="Body" { @match json_schema(answer) { Some(schema) => (self.schemas.kind(schema)), None => span.soft { "none" } } }
                        td data-label="Meaning" { (marked(&meaning(status, &text(answer, "description")))) }
                    } } }
                }
                @if let Some(schema) = operation.responses.iter().find(|(status, _)| status.starts_with('2')).and_then(|(_, answer)| json_schema(answer)) {
                    h3 { "For example" }
                    pre.code tabindex="0" { code { (serde_json::to_string_pretty(&example(&self.schemas, schema)).unwrap_or_default()) } }
                }
            }
        }
    }

    /// A command that calls the endpoint.
    fn command(&self, operation: &Operation, frame: &Frame) -> String {
        let mut command = String::from("curl");
        if operation.method != "get" {
            command.push_str(&format!(" -X {}", operation.method.to_uppercase()));
        }
        if operation.access == Access::Caller {
            command.push_str(" -H \"Authorization: Bearer $MAINSTAY_TOKEN\"");
        }
        if let Some(body) = &operation.body {
            let body = example(&self.schemas, body).to_string().replace('\'', "'\\''");
            command.push_str(&format!(" \\\n  -H 'content-type: application/json' \\\n  --data '{body}' \\\n "));
        }
        command.push_str(&format!(" '{}{}'", frame.address, operation.path));
        command
    }
}

impl Operation {
    fn new(method: &'static str, path: &str, operation: &Value) -> Self {
        let list = |key: &str| operation.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let responses = operation.get("responses").and_then(Value::as_object);
        let words: Vec<_> = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let access = match operation.get("security").and_then(Value::as_array) {
            Some(security) if security.iter().any(|entry| entry.get("agent").is_some()) => Access::Agent,
            Some(security) if security.iter().all(|entry| entry.as_object().is_some_and(serde_json::Map::is_empty)) => {
                Access::Anyone
            }
            _ => Access::Caller,
        };
        Self {
            slug: format!("{method}-{}", words.join("-")),
            method,
            path: path.to_owned(),
            tag: list("tags").first().and_then(Value::as_str).unwrap_or("other").to_owned(),
            summary: text(operation, "summary"),
            description: text(operation, "description"),
            parameters: list("parameters"),
            body: operation.get("requestBody").and_then(json_schema).cloned(),
            responses: responses
                .map(|all| all.iter().map(|(status, answer)| (status.clone(), answer.clone())).collect())
                .unwrap_or_default(),
            access,
        }
    }
}

fn json_schema(body: &Value) -> Option<&Value> {
    body.get("content")?.as_object()?.values().next()?.get("schema")
}

fn method_badge(method: &str) -> Markup {
    html! { span.method.(method) { (method.to_uppercase()) } }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// What a status means where the document does not say it.
fn meaning(status: &str, said: &str) -> String {
    if !said.is_empty() {
        return said.to_owned();
    }
    let usual = match status {
        "200" => "It worked.",
        "201" => "It was made.",
        "204" => "It was done.",
        "304" => "Nothing newer.",
        "400" => "A field cannot be used; the details say which.",
        "401" => "No credential, or one that is not good.",
        "403" => "The credential does not allow this.",
        "404" => "There is no such thing, or it is not yours.",
        "409" => "It contradicts what is.",
        "413" => "The body is too large.",
        "422" => "It cannot be carried out as asked.",
        "429" => "Too many tries; wait.",
        _ => "",
    };
    usual.to_owned()
}

/// The two marks that doc comments use: code between backticks, and names between brackets.
pub fn marked(text: &str) -> Markup {
    html! {
        @for (n, part) in text.split('`').enumerate() {
            @if n % 2 == 1 { code { (part) } } @else { (part.replace(['[', ']'], "")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn reference() -> Reference {
        Reference::new(&serde_json::json!({
            "info": { "description": "Use `Authorization`." },
            "paths": {
                "/api/v1/stacks/{stack}/scale": { "put": {
                    "tags": ["services"], "summary": "Changes the <number>.",
                    "parameters": [{ "name": "stack", "in": "path", "required": true, "schema": { "type": "string" } }],
                    "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ScaleRequest" } } } },
                    "responses": { "200": { "description": "", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ScaleRequest" } } } }, "404": { "description": "" } }
                } },
                "/healthz": { "get": { "tags": ["health"], "summary": "Well?", "security": [{}], "responses": {} } }
            },
            "components": { "schemas": { "ScaleRequest": { "type": "object", "required": ["replicas"], "properties": { "replicas": { "type": "integer", "format": "int32", "description": "How many." } } } } }
        }))
    }

    #[test]
    fn the_index_lists_every_endpoint_and_schema_with_a_link() {
        let page = reference().index(&samples::frame("/docs")).into_string();
        for wanted in [
            "href=\"/docs/endpoints/put-api-v1-stacks-stack-scale\"",
            "Changes the &lt;number&gt;.",
            "href=\"/docs/schemas/ScaleRequest\"",
            "<code>Authorization</code>",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
    }

    #[test]
    fn an_endpoint_shows_parameters_body_answers_and_a_command_to_copy() {
        let reference = reference();
        let operation = reference.operation("put-api-v1-stacks-stack-scale").unwrap();
        let page = reference.endpoint(operation, &samples::frame("/docs")).into_string();
        for wanted in [
            "curl -X PUT",
            "--data '{&quot;replicas&quot;:1}'",
            "How many.",
            "There is no such thing, or it is not yours.",
            "required",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing in {page}");
        }
    }

    #[test]
    fn an_endpoint_for_anyone_asks_for_no_token() {
        let reference = reference();
        let page =
            reference.endpoint(reference.operation("get-healthz").unwrap(), &samples::frame("/docs")).into_string();
        assert!(page.contains("Needs no credential") && !page.contains("Bearer"), "{page}");
    }
}
