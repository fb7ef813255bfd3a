//! Names and addresses for ids, so that a page about one thing can link to another.

use api::ids::{ServerId, ServiceId, StackId};
#[cfg(test)]
use api::{servers::ServerView, stacks::StackView};
use std::collections::HashMap;

/// What is called how, among the things that the caller may see.
#[derive(Debug, Clone, Default)]
pub struct Names {
    stacks: HashMap<StackId, String>,
    services: HashMap<ServiceId, (String, String)>,
    servers: HashMap<ServerId, String>,
}

impl Names {
    /// `services` come with the name of their stack.
    pub fn new(
        stacks: impl IntoIterator<Item = (StackId, String)>,
        services: impl IntoIterator<Item = (ServiceId, (String, String))>,
        servers: impl IntoIterator<Item = (ServerId, String)>,
    ) -> Self {
        let (stacks, services) = (stacks.into_iter().collect(), services.into_iter().collect());
        Self { stacks, services, servers: servers.into_iter().collect() }
    }

    #[cfg(test)]
    pub fn of(stacks: &[StackView], servers: &[ServerView]) -> Self {
        let mut names = Self::default();
        for stack in stacks {
            names.stacks.insert(stack.id.clone(), stack.name.to_string());
            for service in &stack.services {
                names.services.insert(service.id.clone(), (stack.name.to_string(), service.name.to_string()));
            }
        }
        for server in servers {
            names.servers.insert(server.id.clone(), server.name.to_string());
        }
        names
    }

    /// `shop / web` and its path; `None` for one that is gone.
    pub fn service_of(&self, id: Option<&ServiceId>) -> Option<(String, String)> {
        let (stack, service) = self.services.get(id?)?;
        Some((format!("{stack} / {service}"), service_path(stack, service)))
    }

    pub fn stack(&self, id: &StackId) -> Option<&str> {
        self.stacks.get(id).map(String::as_str)
    }

    pub fn server(&self, id: &ServerId) -> Option<&str> {
        self.servers.get(id).map(String::as_str)
    }
}

/// Where in a list a page is: what its neighbour ended with, by number or by name.
pub enum Place<'a> {
    Before(i64),
    Named(&'static str, &'a str),
}

/// The query of an address: what of these says something, and where in a list the page is.
pub fn query(fields: &[(&str, &String)], place: Option<Place<'_>>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fields.iter().filter(|(_, value)| !value.is_empty()));
    match place {
        Some(Place::Before(sequence)) => query.append_pair("before", &sequence.to_string()),
        Some(Place::Named(word, name)) => query.append_pair(word, name),
        None => &mut query,
    };
    query.finish()
}

pub fn stack_path(stack: impl std::fmt::Display) -> String {
    format!("/stacks/{stack}")
}

pub fn service_path(stack: impl std::fmt::Display, service: impl std::fmt::Display) -> String {
    format!("/stacks/{stack}/services/{service}")
}

pub fn server_path(server: impl std::fmt::Display) -> String {
    format!("/servers/{server}")
}
