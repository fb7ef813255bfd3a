//! The system under the axe: each part a process of its own, so that each can be killed alone.

use super::coverage::Target;
use crate::{SHORT, get, start_agent, start_server};
use anyhow::{Context, Result, ensure};
use client::Client;
use e2e::{CopyWatch, Follower, Machine, Outage, Part, Postgres, Repository, Visitors, eventually, has_ended, kill};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// How long a gateway may be away before the test gives up on it.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);
/// A supervisor of the machine starts what died again after a moment, but not after the same each time.
const RESTART_WITHIN_MS: u64 = 400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

pub struct World {
    pub machine: Machine,
    pub repository: Repository,
    pub client: Client,
    pub token: String,
    pub random: fastrand::Rng,
    pub begun: Instant,
    server: Part,
    agent: Part,
    postgres: Option<Postgres>,
    outages: Vec<JoinHandle<Result<Outage>>>,
}

/// Those who watch and use it all the time.
pub struct Audience {
    pub visitors: Visitors,
    pub events: Follower,
    pub logs: Follower,
    pub copies: CopyWatch,
}

impl World {
    /// `None`: this machine has no PostgreSQL.
    pub async fn begin(database: Database, seed: u64) -> Option<Self> {
        let postgres = match database {
            Database::Sqlite => None,
            Database::Postgres => Some(Postgres::start().unwrap()?),
        };
        let mut machine = Machine::new().unwrap();
        machine.gateway_port = e2e::free_low_port();
        let repository = machine.repository("shop").unwrap();
        let server = serve(&machine, postgres.as_ref());
        let health = format!("{}/healthz", machine.control_url());
        eventually("the control plane answers", SHORT, || get(&health)).await;
        let made = |arguments: &[&str]| {
            let created = machine.run(arguments).ok().json();
            created["token"].as_str().unwrap().to_owned()
        };
        let token = made(&["--json", "tokens", "create", "kill-loop", "--api"]);
        let join = made(&["--json", "tokens", "create", "one"]);
        let url = machine.control_url();
        let agent = machine.start("agent.log", &["agent", "--join", &url, "--token", &join]);
        let client = Client::new(&url, Some(api::secret::Secret::new(token.as_str()))).unwrap();
        eventually("the server is online", SHORT, || async {
            let servers = machine.run(&["--json", "servers"]).json();
            (servers[0]["condition"] == "online").then_some(())
        })
        .await;
        let random = fastrand::Rng::with_seed(seed);
        let (outages, begun) = (Vec::new(), Instant::now());
        Some(Self { machine, repository, client, token, random, begun, server, agent, postgres, outages })
    }

    pub fn audience(&self) -> Audience {
        let url = self.machine.control_url();
        Audience {
            visitors: Visitors::start(&self.machine.gateway_url(), 4, Duration::from_millis(20)),
            events: Follower::start(&url, &self.token, "events"),
            logs: Follower::start(&url, &self.token, "logs"),
            copies: CopyWatch::start(self.machine.folder()),
        }
    }

    /// Kills, and starts again what nothing but a person or systemd would start. Answers when the
    /// signal was sent, by both clocks.
    pub async fn kill(&mut self, target: Target) -> Result<(Instant, i64)> {
        let pause = Duration::from_millis(self.random.u64(..RESTART_WITHIN_MS));
        match target {
            Target::Agent => {
                let at = now();
                self.agent.crash();
                tokio::time::sleep(pause).await;
                self.agent = start_agent(&self.machine);
                Ok(at)
            }
            Target::Gateway => self.kill_gateway().await,
            Target::AgentAndGateway => {
                let at = now();
                self.agent.crash();
                self.kill_gateway().await?;
                tokio::time::sleep(pause).await;
                self.agent = start_agent(&self.machine);
                Ok(at)
            }
            Target::Shim => {
                let shims = self.machine.pids_of(&["mainstay shim "]);
                let victim = self.random.choice(shims).context("no shim runs")?;
                let at = now();
                kill(victim);
                Ok(at)
            }
            Target::ControlPlane => {
                let at = now();
                self.server.crash();
                tokio::time::sleep(pause).await;
                self.server = serve(&self.machine, self.postgres.as_ref());
                Ok(at)
            }
            Target::Backend => {
                let backends = self.postgres.as_ref().map(Postgres::backends).unwrap_or_default();
                let victim = self.random.choice(backends).context("no connection to PostgreSQL is open")?;
                let at = now();
                kill(victim);
                Ok(at)
            }
            Target::Postmaster => {
                let postgres = self.postgres.as_mut().context("there is no PostgreSQL")?;
                let at = now();
                postgres.crash();
                tokio::time::sleep(pause).await;
                tokio::task::block_in_place(|| postgres.begin())?;
                Ok(at)
            }
        }
    }

    async fn kill_gateway(&mut self) -> Result<(Instant, i64)> {
        let gateways = self.machine.pids_of(&["gateway --directory"]);
        ensure!(gateways.len() == 1, "not one gateway runs but {gateways:?}");
        let at = now();
        kill(gateways[0]);
        while !has_ended(gateways[0]) {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        let outage = watch_outage(self.machine.gateway_url(), self.machine.gateway_port, at.0, Instant::now());
        self.outages.push(tokio::spawn(outage));
        Ok(at)
    }

    /// How long each killed gateway was away.
    pub async fn outages(&mut self) -> Result<Vec<Outage>> {
        let mut all = Vec::new();
        for outage in self.outages.drain(..) {
            all.push(outage.await??);
        }
        Ok(all)
    }

    pub fn parts(&self) -> [u32; 2] {
        [self.server.pid(), self.agent.pid()]
    }
}

fn serve(machine: &Machine, postgres: Option<&Postgres>) -> Part {
    match postgres {
        None => start_server(machine, &[]),
        Some(postgres) => start_server(machine, &["--database", &postgres.url()]),
    }
}

fn now() -> (Instant, i64) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    (Instant::now(), since.as_millis() as i64)
}

async fn watch_outage(url: String, port: u16, killed: Instant, gone: Instant) -> Result<Outage> {
    // Made before, because making one takes longer than what is measured here.
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        ensure!(gone.elapsed() < OUTAGE_LIMIT, "no gateway listened again within {OUTAGE_LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let accepting = Instant::now();
    while !client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
        ensure!(gone.elapsed() < OUTAGE_LIMIT, "no gateway answered again within {OUTAGE_LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(Outage { killed, gone, accepting, answering: Instant::now() })
}
