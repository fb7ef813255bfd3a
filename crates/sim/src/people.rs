//! What people do: they push, deploy, roll back, restart, stop, start, scale and cancel, sometimes two
//! of them at once, and now and then their answer is lost with the control plane.

use crate::chance::Chance;
use crate::world::World;
use api::secret::Secret;
use bytes::Bytes;
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

pub const STACK: &str = "shop";

/// The words of one service's manifest; the fake machine understands them.
#[derive(Debug, Clone)]
pub struct Words {
    pub build: &'static str,
    pub run: &'static str,
    pub check: &'static str,
}

pub const GOOD: Words = Words { build: "make", run: "serve", check: "good" };

impl Words {
    fn of(chance: &mut Chance) -> Self {
        let mut words = GOOD;
        if chance.happens(550) {
            return words;
        }
        match chance.number(0..4) {
            0 => words.build = *chance.one_of::<&str>(&["fail", "hang"]),
            1 => words.run = *chance.one_of::<&str>(&["exit", "stubborn"]),
            _ => words.check = *chance.one_of::<&str>(&["bad", "late", "breaks", "hang"]),
        }
        words
    }
}

pub struct People {
    token: String,
    stack: BTreeMap<&'static str, Words>,
}

impl People {
    pub fn new(world: &World, services: &[&'static str]) -> std::io::Result<Self> {
        let token = std::fs::read_to_string(world.directory.join("server").join("cli-token"))?;
        let stack = services.iter().map(|name| (*name, GOOD)).collect();
        Ok(Self { token: token.trim().to_owned(), stack })
    }

    /// A call of the API; `None` when there is no answer.
    fn call(&self, world: &World, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut request = http::Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("paths of the API are good URIs");
        let bearer = HeaderValue::from_str(&format!("Bearer {}", self.token)).expect("a token is good in a header");
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
        request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = world.ask_plane(request)?;
        Some((answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or(Value::Null)))
    }

    fn tell(&self, world: &World, what: &str, answer: Option<&(u16, Value)>) {
        let came = match answer {
            None => "no answer".to_owned(),
            Some((status, _)) if *status < 300 => "done".to_owned(),
            Some((status, body)) => format!("{status} {}", body["message"].as_str().unwrap_or_default()),
        };
        world.story.tell("person", format_args!("{what}: {came}"));
    }

    pub fn make_token(&self, world: &World) -> Option<Secret> {
        let body = json!({"name": "machine", "purpose": {"kind": "join"}});
        let answer = self.call(world, Method::POST, "/api/v1/tokens", &body);
        self.tell(world, "makes a join token", answer.as_ref());
        let (_, body) = answer?;
        body["token"].as_str().map(|token| Secret::new(token.to_owned()))
    }

    pub fn deploy(&self, world: &World) -> bool {
        let body = json!({ "manifest": self.manifest() });
        let answer = self.call(world, Method::POST, "/api/v1/deploy", &body);
        let words: Vec<String> =
            self.stack.iter().map(|(name, w)| format!("{name}: {} {} {}", w.build, w.run, w.check)).collect();
        self.tell(world, &format!("deploys ({})", words.join("; ")), answer.as_ref());
        let Some((200, body)) = answer else { return false };
        let deployments = body["deployments"].as_array().map(Vec::as_slice).unwrap_or_default();
        for id in deployments.iter().filter_map(|deployment| deployment["id"].as_str()?.parse().ok()) {
            world.referee.promises.deployment_promised(id);
        }
        true
    }

    pub fn scale(&self, world: &World, service: &'static str, replicas: u32) -> bool {
        // What was asked for may be done although its answer is lost: only the smaller number is sure.
        let before = world.referee.wanted(service);
        world.referee.want(service, before.min(replicas));
        let answer = self.call(world, Method::PUT, &path(service, "scale"), &json!({ "replicas": replicas }));
        if answer.is_none() {
            world.referee.may_want(service, before.max(replicas));
        }
        self.tell(world, &format!("scales {service} to {replicas}"), answer.as_ref());
        let done = answer.is_some_and(|(status, _)| status == 200);
        if done {
            world.referee.want(service, replicas);
        }
        done
    }

    /// Something, as people do.
    pub fn act(&mut self, world: &World, chance: &mut Chance) {
        let names: Vec<&'static str> = self.stack.keys().copied().collect();
        let service = *chance.one_of(&names);
        match chance.number(0..12) {
            0..5 => {
                world.repositories.push(&url(service));
                self.stack.insert(service, Words::of(chance));
                self.deploy(world);
                if chance.happens(300) {
                    // Two of them at once.
                    world.repositories.push(&url(service));
                    self.deploy(world);
                }
            }
            5 => self.verb(world, service, "rollback", &json!({})),
            6 => self.verb(world, service, "restart", &Value::Null),
            7 => {
                world.referee.want(service, 0);
                self.verb(world, service, "stop", &Value::Null);
            }
            8 => self.verb(world, service, "start", &Value::Null),
            9 => drop(self.scale(world, service, chance.number(1..4) as u32)),
            10 => self.cancel(world, service),
            _ => drop(self.deploy(world)),
        }
        drop(world.look_at_books());
    }

    fn verb(&self, world: &World, service: &str, verb: &str, body: &Value) {
        let answer = self.call(world, Method::POST, &path(service, verb), body);
        self.tell(world, &format!("{verb}s {service}"), answer.as_ref());
    }

    fn cancel(&self, world: &World, service: &str) {
        let Some((200, list)) = self.call(world, Method::GET, &path(service, "deployments"), &Value::Null) else {
            return;
        };
        let Some(id) = list[0]["id"].as_str() else { return };
        let answer = self.call(world, Method::POST, &format!("/api/v1/deployments/{id}/cancel"), &Value::Null);
        self.tell(world, &format!("cancels the newest deployment of {service}"), answer.as_ref());
    }

    /// Servers that no machine is: their registration was answered and the answer lost. Somebody sees
    /// that they never report, and removes them.
    pub fn remove_ghosts(&self, world: &World) {
        let Some((200, list)) = self.call(world, Method::GET, "/api/v1/servers", &Value::Null) else { return };
        let known: Vec<String> = world.machines.iter().filter_map(|m| Some(m.server_id()?.to_string())).collect();
        for server in list.as_array().into_iter().flatten() {
            let Some(id) = server["id"].as_str().filter(|id| known.iter().all(|known| known != id)) else { continue };
            let answer = self.call(world, Method::DELETE, &format!("/api/v1/servers/{id}"), &Value::Null);
            self.tell(world, &format!("removes the server {}", server["name"]), answer.as_ref());
        }
    }

    fn manifest(&self) -> String {
        let mut text = format!("name = \"{STACK}\"\n");
        for (name, words) in &self.stack {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n[services.{name}]\ngit = \"{}\"\nrun = \"{}\"\nroute = \"/{name}\"\n\
                 build = {{ command = \"{}\", timeout = \"5s\" }}\n\
                 health = {{ command = \"{}\", interval = \"2s\", timeout = \"500ms\", healthy_after = 1, \
                 unhealthy_after = 2, start_grace = \"1s\" }}\n\
                 rollout = {{ healthy_within = \"8s\", drain = \"1s\", bake = \"5s\", warm = \"8s\" }}\n\
                 stop = {{ grace = \"1s\" }}\nrestart = {{ backoff = \"200ms\", backoff_limit = \"2s\" }}\n",
                url(name),
                words.run,
                words.build,
                words.check,
            );
        }
        text
    }
}

fn url(service: &str) -> String {
    format!("https://git.example.com/{service}.git")
}

fn path(service: &str, verb: &str) -> String {
    format!("/api/v1/stacks/{STACK}/services/{service}/{verb}")
}
