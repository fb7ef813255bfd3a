//! From what a person calls a service to the service: `web`, or `shop/web` where two stacks have one.

use crate::exit::Failure;
use api::services::ServiceView;
use api::stacks::StackView;
use client::Client;

/// One service by name, `stack/service` or id.
pub async fn service(client: &Client, text: &str) -> Result<ServiceView, Failure> {
    // Mostly it is a name, and the control plane finds those that hold it. An id, a slip or a stack's id has to be
    // looked for among all.
    let with = client.services_with(text).await?;
    if let Some(found) = exact(&with, text) {
        return found.cloned();
    }
    let services = client.services().await?;
    pick(&services, text).cloned()
}

/// The services that these texts name, each once: of each what [`services`] finds.
pub async fn services_of(client: &Client, texts: &[String]) -> Result<Vec<ServiceView>, Failure> {
    let mut found: Vec<ServiceView> = Vec::new();
    let mut all: Option<Vec<ServiceView>> = None;
    for text in texts {
        let with = client.services_with(text).await?;
        let known = match (exact(&with, text), &all) {
            (Some(_), _) => &with,
            (None, Some(all)) => all,
            (None, None) => all.insert(client.services().await?),
        };
        for service in services(known, text)? {
            if !found.iter().any(|known| known.id == service.id) {
                found.push(service.clone());
            }
        }
    }
    Ok(found)
}

/// What was found by name, if anything was; several are an answer, too.
fn exact<'a>(with: &'a [ServiceView], text: &str) -> Option<Result<&'a ServiceView, Failure>> {
    let found = pick(with, text);
    let is_known = with.iter().any(|service| service.name.as_str() == text || full_name(service) == text);
    (found.is_ok() || is_known).then_some(found)
}

/// The services that a text names: one, as [`service`] finds it, or all of the stack of that name.
pub fn services<'a>(known: &'a [ServiceView], text: &str) -> Result<Vec<&'a ServiceView>, Failure> {
    let failure = match pick(known, text) {
        Ok(one) => return Ok(vec![one]),
        Err(failure) => failure,
    };
    let of_stack = |service: &&ServiceView| service.stack.as_str() == text || service.stack_id.as_str() == text;
    let all: Vec<&ServiceView> = known.iter().filter(of_stack).collect();
    if all.is_empty() { Err(failure) } else { Ok(all) }
}

fn pick<'a>(services: &'a [ServiceView], text: &str) -> Result<&'a ServiceView, Failure> {
    let (stack, name) = match text.split_once('/') {
        Some((stack, name)) => (Some(stack), name),
        None => (None, text),
    };
    let fits = |service: &&ServiceView| {
        let named = service.name.as_str() == name || service.id.as_str() == name;
        named && stack.is_none_or(|stack| service.stack.as_str() == stack || service.stack_id.as_str() == stack)
    };
    let found: Vec<&ServiceView> = services.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(unknown(services, text)),
        several => {
            let names: Vec<String> = several.iter().map(|service| full_name(service)).collect();
            Err(Failure::general(format!("`{text}` is in {} stacks", names.len()))
                .help(format!("say which: {}", names.join(" or "))))
        }
    }
}

fn unknown(services: &[ServiceView], text: &str) -> Failure {
    let failure = Failure::general(format!("there is no service `{text}`"));
    if services.is_empty() {
        return failure.help("nothing is deployed yet; deploy a project with `mainstay deploy`");
    }
    let names: Vec<String> =
        services.iter().map(|service| service.name.to_string()).chain(services.iter().map(full_name)).collect();
    match nearest(text, &names) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help(format!("these are deployed: {}", list(services.iter().map(full_name)))),
    }
}

/// One stack by name or id.
pub async fn stack(client: &Client, text: &str) -> Result<StackView, Failure> {
    let stacks = client.stacks().await?;
    let names: Vec<String> = stacks.iter().map(|stack| stack.name.to_string()).collect();
    match stacks.into_iter().find(|stack| stack.name.as_str() == text || stack.id.as_str() == text) {
        Some(stack) => Ok(stack),
        None => Err(unknown_name("stack", text, &names)),
    }
}

/// "There is no …", with what was probably meant.
pub fn unknown_name(noun: &str, text: &str, known: &[String]) -> Failure {
    let failure = Failure::general(format!("there is no {noun} `{text}`"));
    match nearest(text, known) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None if known.is_empty() => failure.help(format!("there is no {noun} at all yet")),
        None => failure.help(format!("there are: {}", list(known.iter().cloned()))),
    }
}

pub fn full_name(service: &ServiceView) -> String {
    format!("{}/{}", service.stack, service.name)
}

fn list(names: impl Iterator<Item = String>) -> String {
    const SHOWN_LIMIT: usize = 12;
    let names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(SHOWN_LIMIT);
    let shown = names.iter().take(SHOWN_LIMIT).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn nearest<'a>(written: &str, known: &'a [String]) -> Option<&'a str> {
    let allowed = (written.chars().count() / 3).max(1);
    known
        .iter()
        .map(|name| (distance(written, name), name.as_str()))
        .filter(|(d, _)| *d <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Inserts, removals and changes between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(128).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::services::{ServiceCondition, ServiceIntent};

    fn view(number: u128, stack: &str, name: &str) -> ServiceView {
        let uuid = |n: u128| api::ids::ServiceId::from_uuid(uuid::Uuid::from_u128(n));
        ServiceView {
            id: uuid(number),
            name: name.parse().unwrap(),
            stack_id: api::ids::StackId::from_uuid(uuid::Uuid::from_u128(1)),
            stack: stack.parse().unwrap(),
            project_id: api::ids::ProjectId::from_uuid(uuid::Uuid::from_u128(1)),
            intent: ServiceIntent::Run,
            condition: ServiceCondition::Running,
            replicas: 1,
            current: None,
            previous: None,
            deployment: None,
            instances: vec![],
            routes: vec![],
            urls: vec![],
        }
    }

    fn help_for(text: &str) -> String {
        let services = [view(1, "shop", "web"), view(2, "blog", "web"), view(3, "shop", "worker")];
        pick(&services, text).unwrap_err().help.unwrap()
    }

    #[test]
    fn a_service_is_found_by_name_by_stack_and_name_and_by_id() {
        let services = [view(1, "shop", "web"), view(2, "blog", "web"), view(3, "shop", "worker")];
        assert_eq!(pick(&services, "worker").unwrap().id, services[2].id);
        assert_eq!(pick(&services, "blog/web").unwrap().id, services[1].id);
        assert_eq!(pick(&services, services[0].id.as_str()).unwrap().id, services[0].id);
    }

    #[test]
    fn an_ambiguous_name_lists_the_choices_and_a_slip_gets_a_suggestion() {
        assert_eq!(help_for("web"), "say which: shop/web or blog/web");
        assert_eq!(help_for("wroker"), "did you mean `worker`?");
        assert_eq!(help_for("shop/wev"), "did you mean `shop/web`?");
        assert_eq!(help_for("database"), "these are deployed: shop/web, blog/web, shop/worker");
    }
}
