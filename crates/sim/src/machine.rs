//! A machine: what outlives its agents, and the life of those agents on it.
//!
//! The agent is the real one. Its process is a set of tasks; to kill it is to drop them at whatever
//! they wait for, and at every gate (before and after each change and each write) chance may do so.

use crate::chance::{Chance, Seed};
use crate::edges::{Edge, Gates};
use crate::network::{Wire, reported_generation};
use crate::time::{Surroundings, Time, locked};
use crate::world::World;
use agent::control_plane::ControlPlane;
use agent::drivers::dns::DnsDriver;
use agent::drivers::fake::{FakeDriver, FakeGateway, FakeMachine};
use agent::drivers::mesh::MeshDriver;
use agent::health::Health;
use agent::identity::{self, Identity, RegisterError};
use agent::ledger::{Ledger, MemoryDisk, MemoryLedger};
use agent::transport::{Incoming, Outgoing};
use api::desired::{DesiredState, InstanceIntent, Traffic};
use api::ids::{InstanceId, RevisionId, ServerId};
use api::secret::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How an agent's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `kill -9` of the agent.
    Agent,
    /// The whole machine loses power.
    Power,
}

pub struct Machine {
    pub name: &'static str,
    pub around: Arc<Surroundings>,
    pub workloads: FakeMachine,
    pub gateway: FakeGateway,
    pub disk: MemoryDisk,
    /// Holds `identity.json`.
    directory: PathBuf,
    identity: Mutex<Option<Identity>>,
    /// Join tokens to try, oldest first.
    pub tokens: Mutex<Vec<Secret>>,
    /// Documents that came by, as a proxy on the way keeps them.
    pub passed_by: Mutex<Vec<Incoming>>,
    cut_off: AtomicBool,
    /// What it says is heard, and what it is told is not.
    deaf: AtomicBool,
    /// Stays off after the next end until it is allowed to start.
    pub off: watch::Sender<bool>,
    pub disk_full: AtomicBool,
    /// A document could not be kept in this life, so acting on an unkept one is allowed.
    pub kept_in_vain: AtomicBool,
    highest_seen: AtomicU64,
    /// The highest generation that any letter of it named.
    highest_said: AtomicU64,
    /// The newest document that its ledger took, and the one before.
    documents: Mutex<Vec<DesiredState>>,
    /// Its agent is switching routes, and nobody can take that back.
    switches: AtomicBool,
    end: mpsc::UnboundedSender<End>,
    ended: Mutex<Option<mpsc::UnboundedReceiver<End>>>,
}

impl Machine {
    pub fn new(name: &'static str, seed: &Seed, time: Time, directory: &Path) -> Self {
        let (end, ended) = mpsc::unbounded_channel();
        Self {
            name,
            around: Arc::new(Surroundings::of_machine(time, seed.chance(name))),
            workloads: FakeMachine::default(),
            gateway: FakeGateway::default(),
            disk: MemoryDisk::default(),
            directory: directory.to_owned(),
            identity: Mutex::default(),
            tokens: Mutex::default(),
            passed_by: Mutex::default(),
            cut_off: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            off: watch::Sender::new(false),
            disk_full: AtomicBool::new(false),
            kept_in_vain: AtomicBool::new(false),
            highest_seen: AtomicU64::new(0),
            highest_said: AtomicU64::new(0),
            documents: Mutex::default(),
            switches: AtomicBool::new(false),
            end,
            ended: Mutex::new(Some(ended)),
        }
    }

    pub fn identity(&self) -> Option<Identity> {
        locked(&self.identity).clone()
    }

    pub fn server_id(&self) -> Option<ServerId> {
        locked(&self.identity).as_ref().map(|identity| identity.server_id.clone())
    }

    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::SeqCst)
    }

    pub fn is_deaf(&self) -> bool {
        self.is_cut_off() || self.deaf.load(Ordering::SeqCst)
    }

    pub fn deafen(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    pub fn cut_off(&self, cut: bool) {
        self.cut_off.store(cut, Ordering::SeqCst);
    }

    pub fn end(&self, end: End) {
        // The life that hears it lasts as long as the simulation.
        let _ = self.end.send(end);
    }

    /// What holds of every letter that an agent sends.
    pub fn referee_looks_at_letter(&self, world: &World, request: &Outgoing) {
        let Some(generation) = reported_generation(request) else { return };
        self.highest_said.fetch_max(generation, Ordering::SeqCst);
        let kept = self.disk.highest_generation();
        if generation > kept && !self.kept_in_vain.load(Ordering::SeqCst) {
            let name = self.name;
            world.story.never(format_args!(
                "the agent of {name} acts on generation {generation}, but its ledger holds {kept}"
            ));
        }
    }

    /// Its ledger took another document.
    pub fn has_accepted(&self) {
        let Some(signed) = self.disk.desired() else { return };
        if let Ok(document) = serde_json::from_str::<DesiredState>(&signed.document) {
            let mut documents = locked(&self.documents);
            documents.truncate(1);
            documents.insert(0, document);
        }
    }

    /// Whether both the newest document and the one before want an instance to run. Nothing is said
    /// of an agent that could not keep what it acts on.
    pub fn every_document_wants(&self, id: &InstanceId, revision: Option<&RevisionId>) -> bool {
        let documents = locked(&self.documents);
        let known = !documents.is_empty() && !self.kept_in_vain.load(Ordering::SeqCst);
        known && documents.iter().all(|document| wants(document, id, revision))
    }

    /// Whether the newest document wants requests to go to an instance.
    pub fn is_to_ask(&self, id: &InstanceId) -> bool {
        let documents = locked(&self.documents);
        let newest = documents.iter().take(1).flat_map(DesiredState::services);
        let mut instances = newest.flat_map(|(_, service)| &service.instances);
        instances.any(|i| &i.instance_id == id && i.intent == InstanceIntent::Run && i.traffic == Traffic::Active)
    }

    /// Whether it was told last that an instance gets no requests, though its gateway may still send it some.
    pub fn is_to_let_go_of(&self, id: &InstanceId) -> bool {
        !locked(&self.documents).is_empty() && !self.is_to_ask(id)
    }

    /// Whether it goes by what the control plane said last, as far as anybody was told, and by nothing else. One
    /// that comes back after a while, or is in the middle of switching routes, does not: what it serves now may
    /// have been given up long ago.
    pub fn is_up_to_date(&self, newest: &BTreeMap<ServerId, u64>) -> bool {
        let said = self.server_id().and_then(|id| newest.get(&id).copied()).unwrap_or(0);
        let held = locked(&self.documents).first().map_or(0, |document| document.generation);
        held >= said && !self.switches.load(Ordering::SeqCst)
    }

    /// Instances that its gateway sends new requests to.
    pub fn asked(&self) -> BTreeSet<InstanceId> {
        let services = self.gateway.config().unwrap_or_default().services;
        let upstreams = services.into_iter().flat_map(|service| service.upstreams);
        upstreams.filter(|upstream| !upstream.draining).map(|upstream| upstream.instance_id).collect()
    }

    pub fn no_document_wants(&self, id: &InstanceId) -> bool {
        let known = !self.kept_in_vain.load(Ordering::SeqCst);
        known && !locked(&self.documents).iter().any(|document| wants(document, id, None))
    }

    /// Whether it holds what it said. One that could not keep a document and then died goes by an older one for
    /// a while, and may start once more what it said was gone.
    pub fn holds_what_it_said(&self) -> bool {
        self.disk.highest_generation() >= self.highest_said.load(Ordering::SeqCst)
    }

    /// The generation that this machine has accepted never falls, whatever happens to it.
    pub fn referee_looks_at_ledger(&self, world: &World) {
        let now = self.disk.highest_generation();
        let before = self.highest_seen.fetch_max(now, Ordering::SeqCst);
        if now < before {
            let name = self.name;
            world.story.never(format_args!("the generation accepted by {name} falls from {before} to {now}"));
        }
    }
}

/// While its agent switches routes, however that ends.
pub struct Switching<'a>(&'a AtomicBool);

impl<'a> Switching<'a> {
    pub fn begin(machine: &'a Machine) -> Self {
        machine.switches.store(true, Ordering::SeqCst);
        Self(&machine.switches)
    }
}

impl Drop for Switching<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn wants(document: &DesiredState, id: &InstanceId, revision: Option<&RevisionId>) -> bool {
    let mut instances = document.services().flat_map(|(_, service)| &service.instances);
    instances.any(|i| {
        &i.instance_id == id && i.intent == InstanceIntent::Run && revision.is_none_or(|r| r == &i.revision_id)
    })
}

/// The life of a machine: its agents, one after the other.
pub async fn life(world: Arc<World>, machine: Arc<Machine>) {
    let mut chance = world.seed.chance(&format!("life of {}", machine.name));
    let Some(mut ends) = locked(&machine.ended).take() else { return };
    let mut off = machine.off.subscribe();
    while !world.is_over() {
        let _on = off.wait_for(|off| !off).await.is_ok();
        let alive = Arc::new(AtomicBool::new(true));
        machine.kept_in_vain.store(false, Ordering::SeqCst);
        let mut tasks = JoinSet::new();
        let lives = one_life(&world, &machine, &alive, chance.child("life"), &mut tasks);
        let end = tokio::select! {
            biased;
            end = ends.recv() => end,
            () = ambient::within(machine.around.clone(), lives) => None,
        };
        alive.store(false, Ordering::SeqCst);
        tasks.shutdown().await;
        let end = match end {
            Some(end) => end,
            None => {
                tokio::time::sleep(chance.ms(500..2_000)).await;
                continue;
            }
        };
        if end == End::Power {
            world.referee.power_fails(&world, &machine);
            machine.workloads.reboot();
            machine.gateway.die();
            machine.disk.cut_power();
        }
        machine.referee_looks_at_ledger(&world);
        let long = chance.happens(150);
        let pause = if long { chance.ms(5_000..40_000) } else { chance.ms(20..3_000) };
        tokio::time::sleep(pause).await;
        // What was asked of a dead agent meanwhile is not asked of the next one.
        while ends.try_recv().is_ok() {}
    }
}

/// Joins if it must, and lives until it is killed.
async fn one_life(
    world: &Arc<World>,
    machine: &Arc<Machine>,
    alive: &Arc<AtomicBool>,
    mut chance: Chance,
    tasks: &mut JoinSet<()>,
) {
    let name = machine.name;
    let wire = Arc::new(Wire {
        world: world.clone(),
        machine: machine.clone(),
        alive: alive.clone(),
        chance: Mutex::new(chance.child("wire")),
    });
    if machine.identity().is_none() && !join(world, machine, &wire).await {
        return;
    }
    let Some(identity) = machine.identity() else { return };
    let gates = Arc::new(Gates {
        world: world.clone(),
        machine: machine.clone(),
        alive: alive.clone(),
        chance: Mutex::new(chance.child("gates")),
    });
    let ledger = Ledger::Memory(MemoryLedger::new(machine.disk.clone(), Some(gates.clone())));
    let workloads = Arc::new(Edge { inner: FakeDriver::new(machine.workloads.clone()), gates: gates.clone() });
    let edges = agent::reconcile::Machine {
        health: Arc::new(Health::new(workloads.clone())),
        workloads,
        gateway: Arc::new(Edge { inner: machine.gateway.clone(), gates }),
        dns: Arc::new(DnsDriver::off(Path::new("/nonexistent"), "there are no names in the simulation")),
        mesh: Arc::new(MeshDriver::off(
            identity.server_id.clone(),
            Default::default(),
            "there is no tunnel in the simulation",
            None,
        )),
        proc: "/nonexistent".into(),
        data: "/nonexistent".into(),
        resolv_conf: "/nonexistent".into(),
        disk_reserve_bytes: None,
    };
    let control_plane = ControlPlane::over(wire, &identity).expect("the identity was checked when it was made");
    let host = agent::facts::Machine { root: "/nonexistent".into(), effective_user: 0 };
    let shutdown = CancellationToken::new();
    match agent::assemble_over(control_plane, &identity, ledger, edges, &host, &shutdown).await {
        Ok(begun) => {
            *tasks = begun;
            world.story.tell(name, "the agent starts");
        }
        Err(error) => {
            world.story.never(format_args!("the agent of {name} cannot start: {error:#}"));
            return;
        }
    }
    if let Some(Err(error)) = tasks.join_next().await {
        world.story.never(format_args!("a part of the agent of {name} breaks: {error}"));
    }
}

async fn join(world: &World, machine: &Machine, wire: &Arc<Wire>) -> bool {
    let path = machine.directory.join(format!("{}.json", machine.name));
    if let Ok(Some(known)) = Identity::load(&path) {
        *locked(&machine.identity) = Some(known);
        return true;
    }
    let Some(token) = locked(&machine.tokens).first().cloned() else { return false };
    let tried = token.clone();
    let facts = agent::facts::detect(
        &agent::facts::Machine { root: "/nonexistent".into(), effective_user: 0 },
        Default::default(),
    );
    let wished = machine.name.parse().ok();
    let joined =
        identity::register_over(&**wire, &path, "http://control", token, wished, facts, world.time.true_ms()).await;
    match joined {
        Ok(identity) => {
            world.story.tell(machine.name, format_args!("joins as {}", identity.name));
            *locked(&machine.identity) = Some(identity);
            true
        }
        Err(error) => {
            world.story.tell(machine.name, format_args!("cannot join: {error}"));
            use RegisterError::{TokenExpired, TokenUnknown, TokenUsed};
            if matches!(error, TokenUsed | TokenUnknown { .. } | TokenExpired) {
                locked(&machine.tokens).retain(|known| known.expose() != tried.expose());
            }
            false
        }
    }
}
