//! What every command prints with `--json`, as types: what a program reads is promised, so it is written down.
//!
//! Only an [`Answer`] can be printed as JSON, and only what has a schema is an answer. [`all`] says which
//! command prints which; `cargo xtask docs` makes `docs/reference/json.md` and a JSON schema of it. Most are
//! the nouns of the API as they are; the few that a command has of its own are here.

use crate::exit::FailureAnswer;
use crate::running::Running;
use api::deployments::Deployment;
use api::desired::CredentialView;
use api::domains::{AcmeSettings, DomainView};
use api::events::EventRecord;
use api::logs::LogRecord;
use api::metrics::{ServerMetrics, ServiceMetrics};
use api::plans::{DeployAnswer, StackPlan};
use api::servers::ServerView;
use api::services::{EnvVariable, ServiceView};
use api::stacks::StackView;
use api::tokens::{Info, TokenCreated, TokenView};
use serde::Serialize;
use serde_json::{Value, json};
use server::backup::{Backup, Manifest, Restored};
use std::path::PathBuf;
use utoipa::ToSchema;

/// What may be printed with `--json`.
pub trait Answer: Serialize {}

impl<T: Answer> Answer for &T {}
impl<T: Answer> Answer for Vec<T> {}

macro_rules! are_answers {
    ($($answer:ty),* $(,)?) => { $(impl Answer for $answer {})* };
}

are_answers!(
    Deployment,
    CredentialView,
    EventRecord,
    LogRecord,
    DeployAnswer,
    StackPlan,
    ServerView,
    EnvVariable,
    DomainView,
    AcmeSettings
);
are_answers!(ServiceView, StackView, TokenCreated, TokenView, Backup, Manifest, Restored, FailureAnswer);
are_answers!(crate::commands::doctor::Examination, crate::usage::Usage, ServiceMetrics, ServerMetrics);
are_answers!(Started, Stopped, Written, Opened, Changed, Removed, Revoked, Stored, SignedIn, Versions);

/// `mainstay up`
#[derive(Debug, Serialize, ToSchema)]
pub struct Started {
    /// Address of the dashboard and the API.
    pub dashboard: String,
    /// Where the first password of `admin` is kept, if this was the first start.
    #[schema(value_type = Option<String>)]
    pub password_file: Option<PathBuf>,
    /// What was deployed; null if there was nothing to deploy, or if it was refused.
    pub deploy: Option<DeployAnswer>,
}

/// `mainstay down`
#[derive(Debug, Serialize, ToSchema)]
pub struct Stopped {
    /// The control plane that was stopped; null if none ran.
    pub control_plane: Option<Running>,
    /// How many instances were stopped.
    pub instances: usize,
    /// Whether a gateway was stopped.
    pub gateway: bool,
}

/// `mainstay init`
#[derive(Debug, Serialize, ToSchema)]
pub struct Written {
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// What kind of project it is, as a sentence.
    pub what: String,
    /// What says so.
    pub reasons: Vec<String>,
    /// What was written.
    pub manifest: String,
}

/// `mainstay open`
#[derive(Debug, Serialize, ToSchema)]
pub struct Opened {
    pub url: String,
}

/// `mainstay env set` and `unset` with `--no-deploy`, or where nothing has to be deployed
#[derive(Debug, Serialize, ToSchema)]
pub struct Changed {
    /// Names of variables.
    pub changed: Vec<String>,
    /// Always null; else the deployment itself is printed.
    pub deployment: Option<Deployment>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Removed {
    /// Id, or the name of what has none.
    pub removed: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Revoked {
    /// Id of the token.
    pub revoked: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Stored {
    /// Name of the credential.
    pub stored: String,
}

/// `mainstay login`
#[derive(Debug, Serialize, ToSchema)]
pub struct SignedIn {
    pub server: String,
    /// Who the token is to the control plane.
    pub actor: String,
    pub organization: String,
    /// The file that holds the token.
    #[schema(value_type = String)]
    pub config: PathBuf,
}

/// `mainstay version`
#[derive(Debug, Serialize, ToSchema)]
pub struct Versions {
    /// Of this command.
    pub version: String,
    /// Null if none answers.
    pub control_plane: Option<Info>,
}

/// How documents come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    One,
    List,
    /// One document on each line, for as long as it is watched.
    Lines,
}

/// One line of the reference: a command, and what it prints.
pub struct Described {
    /// `env set`, with options that make a difference.
    pub command: &'static str,
    pub form: Form,
    /// Name of the schema.
    pub name: String,
}

/// Commands that print no document of their own: they serve, or print text for another program.
pub const WITHOUT: [&str; 7] = ["server", "agent", "agent install", "agent uninstall", "gateway", "completions", "man"];

#[derive(Default)]
struct Reference {
    rows: Vec<Described>,
    schemas: Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>,
}

impl Reference {
    fn add<T: Answer + ToSchema>(&mut self, form: Form, commands: &[&'static str]) {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        let row = |command: &&'static str| Described { command, form, name: T::name().into_owned() };
        self.rows.extend(commands.iter().map(row));
    }
}

fn reference() -> Reference {
    use Form::{Lines, List, One};
    let mut all = Reference::default();
    all.add::<Started>(One, &["up"]);
    all.add::<Stopped>(One, &["down"]);
    all.add::<DeployAnswer>(One, &["deploy"]);
    all.add::<StackPlan>(One, &["plan"]);
    all.add::<Written>(One, &["init"]);
    all.add::<StackView>(List, &["status"]);
    all.add::<StackView>(One, &["status STACK"]);
    all.add::<ServiceView>(One, &["status SERVICE"]);
    all.add::<LogRecord>(Lines, &["logs"]);
    all.add::<EventRecord>(List, &["events"]);
    all.add::<EventRecord>(Lines, &["events --follow"]);
    all.add::<crate::usage::Usage>(Lines, &["top"]);
    all.add::<crate::usage::Usage>(One, &["top --once"]);
    all.add::<ServiceMetrics>(One, &["metrics"]);
    all.add::<Opened>(One, &["open"]);
    all.add::<Deployment>(One, &["rollback", "restart", "stop", "start"]);
    all.add::<Deployment>(List, &["scale"]);
    all.add::<EnvVariable>(List, &["env list"]);
    all.add::<Deployment>(One, &["env set", "env unset"]);
    all.add::<Changed>(
        One,
        &["env set --no-deploy, or nothing to deploy", "env unset --no-deploy, or nothing to deploy"],
    );
    all.add::<Deployment>(One, &["cancel"]);
    all.add::<StackView>(List, &["stacks list"]);
    all.add::<Removed>(One, &["stacks remove"]);
    all.add::<ServerView>(List, &["servers list"]);
    all.add::<ServerView>(One, &["servers show"]);
    all.add::<ServerMetrics>(One, &["servers metrics"]);
    all.add::<Removed>(One, &["servers remove"]);
    all.add::<ServerView>(List, &["servers accept-restore"]);
    all.add::<TokenCreated>(One, &["tokens create"]);
    all.add::<TokenView>(List, &["tokens list"]);
    all.add::<Revoked>(One, &["tokens revoke"]);
    all.add::<Stored>(One, &["credentials add"]);
    all.add::<CredentialView>(List, &["credentials list"]);
    all.add::<Removed>(One, &["credentials remove"]);
    all.add::<DomainView>(List, &["domains list"]);
    all.add::<DomainView>(One, &["domains add", "domains renew"]);
    all.add::<Removed>(One, &["domains remove"]);
    all.add::<AcmeSettings>(One, &["domains setup"]);
    all.add::<SignedIn>(One, &["login"]);
    all.add::<crate::commands::doctor::Examination>(One, &["doctor"]);
    all.add::<Backup>(One, &["backup"]);
    all.add::<Restored>(One, &["restore"]);
    all.add::<Manifest>(One, &["restore --check"]);
    all.add::<Versions>(One, &["version"]);
    all.add::<FailureAnswer>(One, &["any command that fails (on stderr)"]);
    all
}

/// Every command with what it prints.
pub fn all() -> Vec<Described> {
    reference().rows
}

/// One JSON schema (2020-12) for all: `$defs` by name, `commands` by command.
pub fn schema() -> Value {
    let Reference { rows, schemas } = reference();
    let mut definitions = serde_json::Map::new();
    for (name, schema) in schemas {
        let schema = serde_json::to_value(schema).expect("a schema serializes to JSON");
        definitions.insert(name, with_definitions(schema));
    }
    let commands: serde_json::Map<String, Value> = rows
        .into_iter()
        .map(|Described { command, form, name }| {
            let one = json!({ "$ref": format!("#/$defs/{name}") });
            let schema = if form == Form::List { json!({ "type": "array", "items": one }) } else { one };
            (command.to_owned(), json!({ "form": format!("{form:?}").to_lowercase(), "schema": schema }))
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What mainstay prints with --json",
        "commands": commands,
        "$defs": definitions,
    })
}

/// OpenAPI keeps its schemas elsewhere than JSON schema does.
fn with_definitions(schema: Value) -> Value {
    match schema {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => {
                        (key, Value::String(target.replace("#/components/schemas/", "#/$defs/")))
                    }
                    (_, value) => (key, with_definitions(value)),
                })
                .collect(),
        ),
        Value::Array(values) => Value::Array(values.into_iter().map(with_definitions).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `env set`, for each command that does something.
    fn leaves(command: &clap::Command, above: &str) -> Vec<String> {
        let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
        let mut all = Vec::new();
        for sub in visible {
            let name = format!("{above} {}", sub.get_name()).trim().to_owned();
            let below = leaves(sub, &name);
            let acts_itself = below.is_empty() || name == "agent";
            all.extend(acts_itself.then_some(name));
            all.extend(below);
        }
        all
    }

    #[test]
    fn every_command_says_what_it_prints_with_json() {
        let described = all();
        for command in leaves(&crate::command(), "") {
            let known = described.iter().any(|row| {
                row.command == command || row.command.strip_prefix(&command).is_some_and(|rest| rest.starts_with(' '))
            });
            assert!(
                known != WITHOUT.contains(&command.as_str()),
                "`mainstay {command} --json`: say in answers.rs what it prints, or that it prints nothing"
            );
        }
    }

    #[test]
    fn every_reference_of_the_schema_leads_somewhere() {
        fn targets(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|value| targets(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| targets(value, found)),
                _ => {}
            }
        }
        let schema = schema();
        let mut found = Vec::new();
        targets(&schema, &mut found);
        assert!(found.len() > 50);
        for target in found {
            let pointer = target.strip_prefix('#').expect("references are within the document");
            assert!(schema.pointer(pointer).is_some(), "{target}");
        }
    }
}
