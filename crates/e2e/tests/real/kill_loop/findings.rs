//! What came of it: figures for people, complaints for the test.

use super::Times;
use super::coverage::Target;
use super::records;
use super::wishes::{SERVICE, STACK, Wishes};
use super::world::{Audience, World};
use crate::get;
use anyhow::{Context, Result, bail};
use api::deployments::Stage;
use e2e::{Follower, Judgement, Outage, all_records, judge};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

const LAST_LINES_WITHIN: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Findings {
    /// From wish to state, nothing killed.
    pub undisturbed: Vec<Duration>,
    pub times: BTreeMap<Target, Vec<Times>>,
    pub complaints: Vec<String>,
    judgement: Judgement,
    outages: Vec<Outage>,
    events: usize,
    lines: usize,
    numbered: u64,
    took: Duration,
}

impl Findings {
    pub async fn judge(&mut self, world: &mut World, wishes: &Wishes, audience: Audience) -> Result<()> {
        self.outages = world.outages().await?;
        let visits = audience.visitors.finish().await;
        self.took = world.begun.elapsed();
        self.judgement = judge(&visits, &self.outages, world.begun);
        self.complaints.append(&mut self.judgement.lost);
        self.complaints.extend(audience.copies.finish());
        wait_for_last_lines(world, &audience.logs).await?;
        let address = world.machine.control_url();
        for (noun, follower) in [("events", &audience.events), ("logs", &audience.logs)] {
            match settled(&address, &world.token, noun, follower).await {
                Ok(count) if noun == "events" => self.events = count,
                Ok(count) => self.lines = count,
                Err(error) => self.complaints.push(format!("{noun}: {error:#}")),
            }
        }
        let undelivered = wait_for_last_events(world, &audience.events).await;
        self.complaints.extend(undelivered);
        let events = audience.events.seen();
        self.complaints.extend(records::called_crashes(&events));
        self.complaints.extend(records::untold_instances(&events, &visits));
        self.judge_wishes(world, wishes, &events).await?;
        match records::numbered_lines(&audience.logs.seen()) {
            Ok(count) => self.numbered = count,
            Err(error) => self.complaints.push(format!("{error:#}")),
        }
        Ok(())
    }

    /// Every deployment that was acknowledged is there, has ended well, and all its stages were told.
    async fn judge_wishes(&mut self, world: &World, wishes: &Wishes, events: &[Value]) -> Result<()> {
        for id in &wishes.acknowledged {
            match world.client.deployment(id).await {
                Ok(deployment) if matches!(deployment.stage, Stage::Running | Stage::RolledBack) => {
                    self.complaints.extend(records::untold_stages(events, &deployment));
                }
                Ok(deployment) => self.complaints.push(format!("{id} ended as {}", deployment.stage)),
                Err(error) => self.complaints.push(format!("{id} was acknowledged: {error}")),
            }
        }
        Ok(())
    }

    pub fn summary(&self) -> String {
        let mut text = String::new();
        let Judgement { sent, answered, excused_in_flight, excused_not_connected, slowest, .. } = &self.judgement;
        let _ = writeln!(
            text,
            "requests: {sent} sent in {:.0} s, {answered} answered (slowest {slowest:.2?}), {excused_in_flight} cut in a \
             killed gateway, {excused_not_connected} found none listening, {} complaints",
            self.took.as_secs_f64(),
            self.complaints.len()
        );
        let _ = writeln!(
            text,
            "kept and followed: {} events, {} log lines, {} of them numbered",
            self.events, self.lines, self.numbered
        );
        let accepting = self.outages.iter().map(|outage| outage.accepting - outage.killed).collect();
        let answering = self.outages.iter().map(|outage| outage.answering - outage.killed).collect();
        let _ = writeln!(text, "a killed gateway ({}): listens after {}", self.outages.len(), spread(accepting));
        let _ = writeln!(text, "  and answers after {}", spread(answering));
        let _ = writeln!(
            text,
            "\n| killed | kills | from the kill | from the command | rolled back |\n|---|---|---|---|---|"
        );
        let nothing = spread(self.undisturbed.clone());
        let _ = writeln!(text, "| nothing | 0 | – | {nothing} | 0 |");
        for (target, times) in &self.times {
            let kills = spread(times.iter().map(|times| times.after_kill).collect());
            let wishes = spread(times.iter().map(|times| times.after_wish).collect());
            let rolled_back = times.iter().filter(|times| times.rolled_back).count();
            let _ = writeln!(text, "| {} | {} | {kills} | {wishes} | {rolled_back} |", target.name(), times.len());
        }
        text
    }
}

/// Median and maximum.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    match times.last() {
        Some(most) => format!("{:.2} s, at most {:.2} s", times[times.len() / 2].as_secs_f64(), most.as_secs_f64()),
        None => "–".into(),
    }
}

/// Waits until all that the agent's log tells of by now has arrived; what has not, when the time is over.
async fn wait_for_last_events(world: &World, events: &Follower) -> Vec<String> {
    let log = world.machine.log("agent.log");
    let begun = Instant::now();
    loop {
        let undelivered = records::undelivered(&events.seen(), &log);
        if undelivered.is_empty() || begun.elapsed() > LAST_LINES_WITHIN {
            return undelivered;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the stream holds what each process has written by now.
async fn wait_for_last_lines(world: &World, logs: &Follower) -> Result<()> {
    let view = world.client.service(STACK, SERVICE).await?;
    let begun = Instant::now();
    for instance in &view.instances {
        let port = instance.observed.as_ref().and_then(|observed| observed.port).context("an instance has no port")?;
        let last = get(&format!("http://127.0.0.1:{port}/numbered")).await.context("an instance does not answer")?;
        let line = format!("numbered {last}");
        while !logs.seen().iter().rev().any(|record| record["text"] == line.as_str()) {
            if begun.elapsed() > LAST_LINES_WITHIN {
                bail!("`{line}` of {} did not arrive within {LAST_LINES_WITHIN:?}", instance.id);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Compares what was followed with what is kept, when both hold still: lines keep coming.
async fn settled(address: &str, token: &str, noun: &str, follower: &Follower) -> Result<usize> {
    let kept = all_records(address, token, noun).await?;
    let begun = Instant::now();
    while follower.seen().len() < kept.len() && begun.elapsed() < LAST_LINES_WITHIN {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    follower.check(&kept)?;
    Ok(kept.len())
}
