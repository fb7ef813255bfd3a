//! Steady requests in the background, each of which must be answered with 200.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

#[derive(Debug, Default)]
pub struct LoadReport {
    pub answered: u64,
    /// What went wrong, one line each, at most twenty.
    pub failures: Vec<String>,
    /// Answers per first two words of the body, for example `version v1`.
    pub bodies: BTreeMap<String, u64>,
    pub slowest: Duration,
}

pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<LoadReport>>,
}

impl Load {
    /// `connections` clients with keep-alive, each asking again as soon as it was answered, with a
    /// short pause. Stops by itself after a minute.
    pub fn start(url: &str, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..connections).map(|_| tokio::spawn(work(url.to_owned(), stop.clone()))).collect();
        Self { stop, workers }
    }

    pub async fn finish(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = LoadReport::default();
        for worker in self.workers {
            let report = worker.await.expect("a load worker does not panic");
            total.answered += report.answered;
            total.failures.extend(report.failures);
            total.failures.truncate(20);
            total.slowest = total.slowest.max(report.slowest);
            for (body, count) in report.bodies {
                *total.bodies.entry(body).or_default() += count;
            }
        }
        total
    }
}

async fn work(url: String, stop: Arc<AtomicBool>) -> LoadReport {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().expect("a client can be built");
    let mut report = LoadReport::default();
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(60) {
        let sent = Instant::now();
        match ask(&client, &url).await {
            Ok(body) => {
                report.answered += 1;
                let head: Vec<&str> = body.split(' ').take(2).collect();
                *report.bodies.entry(head.join(" ")).or_default() += 1;
            }
            Err(problem) if report.failures.len() < 20 => report.failures.push(problem),
            Err(_) => {}
        }
        report.slowest = report.slowest.max(sent.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    report
}

async fn ask(client: &reqwest::Client, url: &str) -> Result<String, String> {
    let response = client.get(url).send().await.map_err(|e| format!("{e:?}"))?;
    let status = response.status();
    let body = response.text().await.map_err(|e| format!("{e:?}"))?;
    if status == 200 { Ok(body) } else { Err(format!("{status}: {body}")) }
}
