//! Somebody who reads a stream of the control plane from the first record on and never gives up.
//!
//! The client of the product drops records that it has seen already; this one writes down whatever
//! comes, so that a record sent twice is noticed. After a break it asks for what comes after the last
//! record that it has.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

const PAUSE: Duration = Duration::from_millis(100);
/// One page of what is kept, on a machine that has much else to do.
const PAGE_WITHIN: Duration = Duration::from_secs(120);

pub struct Follower {
    seen: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// `noun`: `events` or `logs`.
    pub fn start(address: &str, token: &str, noun: &'static str) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(follow(format!("{address}/api/v1/{noun}"), token.to_owned(), seen.clone()));
        Self { seen, task }
    }

    /// The records so far, in the order in which they came.
    pub fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails unless what came is what is kept (read before): every record once, in order, none missing,
    /// and each still as it was sent.
    pub fn check(&self, kept: &[Value]) -> Result<()> {
        let seen = self.seen();
        ensure!(seen.len() >= kept.len(), "{} records were sent and {} are kept", seen.len(), kept.len());
        // What came since the list was made is looked at in its order alone.
        for (index, record) in seen.iter().enumerate() {
            let sequence = sequence(record)?;
            ensure!(sequence == index as i64 + 1, "record {} of the stream has the sequence {sequence}", index + 1);
            let Some(there) = kept.get(index) else { continue };
            ensure!(there == record, "record {sequence} was sent as {record} and is kept as {there}");
        }
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn sequence(record: &Value) -> Result<i64> {
    record["sequence"].as_i64().with_context(|| format!("no sequence in {record}"))
}

/// Everything that is kept, page by page.
pub async fn all_records(address: &str, token: &str, noun: &str) -> Result<Vec<Value>> {
    let client = reqwest::Client::builder().no_proxy().timeout(PAGE_WITHIN).build()?;
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map_or(Ok(0), sequence)?;
        let url = format!("{address}/api/v1/{noun}?after={after}&limit=1000&tail=1000");
        let answer = client.get(url).bearer_auth(token).send().await?.error_for_status()?;
        let page: Vec<Value> = serde_json::from_str(&answer.text().await?)?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

async fn follow(url: String, token: String, seen: Arc<Mutex<Vec<Value>>>) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client can be built");
    loop {
        // However it ended: the next connection goes on after the last record.
        let _ = read_until_it_breaks(&client, &url, &token, &seen).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read_until_it_breaks(
    client: &reqwest::Client,
    url: &str,
    token: &str,
    seen: &Mutex<Vec<Value>>,
) -> Result<()> {
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let after = lock().last().map_or(Ok(0), sequence)?;
    let url = format!("{url}?follow=true&after={after}");
    let mut answer = client.get(url).bearer_auth(token).send().await?.error_for_status()?;
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        text.extend_from_slice(&chunk);
        // An event is over at an empty line; half of one is not an event.
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8(event)?;
            let data: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            if !data.is_empty() {
                lock().push(serde_json::from_str(&data.join("\n"))?);
            }
        }
    }
    Ok(())
}
