//! What events and log lines must tell. That each came once and in order says nothing about those that were
//! lost before they had a place in the order; so they are held against what is known from elsewhere: from
//! visitors, from deployments, and from the numbers that the tests' app writes.

use anyhow::{Context, Result, bail};
use api::deployments::Deployment;
use e2e::{Outcome, Visit};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Ends that were asked for and are told as crashes: the tests' app ends at once on SIGTERM, and nobody else sends it.
pub fn called_crashes(events: &[Value]) -> Vec<String> {
    let told = events.iter().filter_map(|event| event["message"].as_str());
    told.filter(|message| message.contains("signal 15")).map(|message| format!("an event says: {message}")).collect()
}

/// Instances that answered visitors and of which no event says that they were started, or found running by
/// an agent that had been started again.
pub fn untold_instances(events: &[Value], visits: &[Visit]) -> Vec<String> {
    let begins = |event: &&Value| matches!(event["kind"].as_str(), Some("instance_started" | "instance_adopted"));
    let told: BTreeSet<&str> = events.iter().filter(begins).filter_map(|event| event["instance_id"].as_str()).collect();
    let answered: BTreeSet<&str> = visits
        .iter()
        .filter_map(|visit| match &visit.outcome {
            Outcome::Answered(answered) => Some(answered.instance.as_str()),
            _ => None,
        })
        .collect();
    answered.difference(&told).map(|instance| format!("no event tells that instance {instance} began")).collect()
}

/// Events that the agent's own log tells of and the control plane does not (or less often). The agent writes a
/// line once the event is in its ledger, so whoever is killed then, the event arrives.
pub fn undelivered(events: &[Value], agent_log: &str) -> Vec<String> {
    let mut owed: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for line in agent_log.lines() {
        let Some((message, rest)) = line.split_once(" INFO ").and_then(|(_, said)| said.split_once(" kind=")) else {
            continue;
        };
        *owed.entry((rest.split(' ').next().unwrap_or_default(), message)).or_default() += 1;
    }
    for event in events {
        let [kind, message] = ["kind", "message"].map(|name| event[name].as_str().unwrap_or_default());
        owed.entry((kind, message)).and_modify(|count| *count -= 1);
    }
    let missing = owed.into_iter().filter(|(_, count)| *count > 0);
    missing.map(|((kind, message), count)| format!("{count} events {kind} did not arrive: {message}")).collect()
}

/// A deployment's own record of its stages, held against the events: also of one over whose beginning the control
/// plane died.
pub fn untold_stages(events: &[Value], deployment: &Deployment) -> Option<String> {
    let count = |kind: &str| {
        let own = |event: &&Value| event["kind"] == kind && event["deployment_id"] == deployment.id.as_str();
        events.iter().filter(own).count()
    };
    let (created, changed) = (count("deployment_created"), count("deployment_stage_changed"));
    let stages = deployment.stages.len();
    (created != 1 || created + changed != stages).then(|| {
        format!(
            "{} has {stages} stages; events tell {created} times of its begin and {changed} of a change",
            deployment.id
        )
    })
}

/// Each process numbers its lines from one on: none is missing, doubled, garbled or out of order.
pub fn numbered_lines(records: &[Value]) -> Result<u64> {
    let mut last: BTreeMap<(String, &str), u64> = BTreeMap::new();
    let mut count = 0;
    for record in records {
        let text = record["text"].as_str().unwrap_or_default();
        if !text.contains("numbered") {
            continue;
        }
        let instance = record["source"].to_string();
        let words: Vec<&str> = text.split(' ').collect();
        let ["numbered", pid, number] = words[..] else { bail!("a line of {instance} is garbled: {text:?}") };
        let number: u64 = number.parse().with_context(|| format!("a line of {instance} is garbled: {text:?}"))?;
        let before = last.insert((instance.clone(), pid), number).unwrap_or(0);
        if number != before + 1 {
            bail!("line {number} of process {pid} of {instance} came after line {before}");
        }
        count += 1;
    }
    Ok(count)
}

#[test]
fn an_event_of_which_only_the_agent_tells_is_missed() {
    let log = "2026-11-21T20:25:34.900823Z  INFO web: instance 1 is healthy kind=health_changed cause=a kind=x\n\
               2026-11-21T20:25:34.900823Z  INFO accepted a desired state generation=75\n\
               2026-11-21T20:25:35.100000Z  INFO web: instance 1 is healthy kind=health_changed cause=a\n";
    let event = serde_json::json!({"kind": "health_changed", "message": "web: instance 1 is healthy"});
    assert_eq!(undelivered(&[event.clone(), event.clone(), event.clone()], log), Vec::<String>::new());
    let one = "1 events health_changed did not arrive: web: instance 1 is healthy";
    assert_eq!(undelivered(std::slice::from_ref(&event), log), [one]);
}
