//! A model of a control plane with machines: rows, signed-document-like generations, reports that
//! are as old as luck wants, and the real planners in between: [`plan::rollout`] for the service,
//! [`plan::host`] and [`plan::gateway`] on every machine.

use crate::machine::{Fate, Luck, Machine};
use crate::samples::{self, id};
use api::cause::Cause;
use api::deployments::{Deployment, DeploymentKind, Stage, StageEntry};
use api::desired::{DesiredState, Traffic};
use api::ids::{InstanceId, RevisionId};
use api::observed::{InstanceObserved, PreparationObserved};
use api::services::{PortSpec, RolloutSpec, ServiceIntent, Sole};
use plan::placement::Candidate;
use plan::rollout::{RolloutChange, RolloutInput, RolloutInstance, RolloutPlan, RolloutRevision};
use std::collections::BTreeSet;

/// One round of everybody.
pub const ROUND_MS: i64 = 1_000;
/// Short, so that stories are.
pub const ROLLOUT: RolloutSpec =
    RolloutSpec { healthy_within_ms: 30_000, drain_ms: 10_000, bake_ms: 10_000, warm_ms: 20_000 };

pub struct Server {
    pub number: u64,
    pub exists: bool,
    pub online: bool,
    pub machine: Machine,
    generation: u64,
    /// The newest document, whether or not it has arrived.
    next: Option<DesiredState>,
    report: Option<Report>,
}

/// What a machine said of itself at some moment.
struct Report {
    generation: u64,
    instances: Vec<InstanceObserved>,
    preparations: Vec<PreparationObserved>,
    active: Vec<InstanceId>,
    open: u64,
    problem: Option<String>,
}

pub struct Fleet {
    pub now_ms: i64,
    pub servers: Vec<Server>,
    pub rows: Vec<RolloutInstance>,
    pub port: PortSpec,
    pub replicas: u32,
    pub intent: ServiceIntent,
    pub current: Option<RevisionId>,
    pub previous: Option<RevisionId>,
    pub deployment: Option<Deployment>,
    pub fates: Vec<Fate>,
    next_id: u64,
    pub story: Vec<String>,
    /// The most instances that were ever asked for.
    pub most: u32,
    /// How many instances must serve, whatever the planner does.
    pub floor: usize,
    /// What a reboot took away, until it answers again: a release may be called running by what was reported
    /// before that.
    away: BTreeSet<InstanceId>,
}

impl Fleet {
    pub fn new(servers: u64, port: PortSpec, replicas: u32) -> Self {
        let now_ms = 1_000_000;
        let servers = (1..=servers).map(|number| Server {
            number,
            exists: true,
            online: true,
            machine: Machine::new(now_ms),
            generation: 0,
            next: None,
            report: None,
        });
        Self {
            now_ms,
            servers: servers.collect(),
            rows: Vec::new(),
            port,
            replicas,
            intent: ServiceIntent::Run,
            current: None,
            previous: None,
            deployment: None,
            fates: Vec::new(),
            next_id: 1,
            story: Vec::new(),
            most: replicas,
            floor: 0,
            away: BTreeSet::new(),
        }
    }

    /// A machine loses its processes.
    pub fn reboot(&mut self, index: usize) {
        let server = &mut self.servers[index];
        self.away.extend(server.machine.alive().map(|instance| instance.instance_id.clone()));
        server.machine.reboot();
        self.floor = 0;
        self.tell(format!("server {} reboots", index + 1));
    }

    pub fn tell(&mut self, what: impl Into<String>) {
        self.story.push(format!("{:>5} s  {}", (self.now_ms - 1_000_000) / 1_000, what.into()));
    }

    pub fn told(&self) -> String {
        let from = self.story.len().saturating_sub(60);
        self.story[from..].join("\n")
    }

    pub fn in_flight(&self) -> bool {
        self.deployment.as_ref().is_some_and(|deployment| deployment.stage.in_flight())
    }

    pub fn fate(&self, revision: &RevisionId) -> Fate {
        self.fates[samples::number(revision.as_str()) as usize - 1]
    }

    /// A person asks for something; what the API would refuse is not asked for.
    pub fn begin(&mut self, kind: DeploymentKind, revision: RevisionId) {
        self.next_id += 1;
        let replicas = if kind == DeploymentKind::Stop { 0 } else { self.replicas };
        self.tell(format!("begin {kind} of {} with {replicas}", revision.short()));
        self.most = self.most.max(self.replicas);
        self.floor = self.floor.min(replicas as usize);
        self.deployment = Some(Deployment {
            id: id("dep", self.next_id),
            stack_id: id("stk", 1),
            service_id: id("svc", 1),
            service: "web".parse().unwrap(),
            kind,
            revision_number: samples::number(revision.as_str()),
            revision_id: revision,
            source_version: "0".repeat(40).parse().unwrap(),
            source_subject: String::new(),
            previous_revision_id: self.current.clone(),
            replicas,
            stage: Stage::Pending,
            stages: vec![StageEntry { stage: Stage::Pending, at_ms: self.now_ms }],
            cause: Cause::system("test", "deploy"),
            failure: None,
            created_at_ms: self.now_ms,
            ended_at_ms: None,
            bake_until_ms: None,
            warm_until_ms: None,
            waits_for: Vec::new(),
        });
    }

    pub fn deploy(&mut self, fate: Fate) {
        self.fates.push(fate);
        self.intent = ServiceIntent::Run;
        let revision: RevisionId = id("rev", self.fates.len() as u64);
        for server in &mut self.servers {
            server.machine.fates.insert(revision.clone(), fate);
        }
        self.tell(format!("a revision that is {fate:?}"));
        self.begin(DeploymentKind::Deploy, revision);
    }

    pub fn cancel(&mut self) {
        let Some(deployment) = self.deployment.as_mut() else { return };
        if deployment.stage.in_flight()
            && plan::rollout::can_cancel(deployment.stage)
            && deployment.kind != DeploymentKind::Stop
        {
            deployment.stage = Stage::Cancelled;
            self.tell("cancelled");
        }
    }

    pub fn input(&self) -> RolloutInput {
        let reports = self.servers.iter().filter(|s| s.exists).filter_map(|s| Some((s, s.report.as_ref()?)));
        RolloutInput {
            service: "web".parse().unwrap(),
            intent: self.intent,
            replicas: self.replicas,
            current_revision_id: self.current.clone(),
            previous_revision_id: self.previous.clone(),
            deployment: self.deployment.clone(),
            revisions: (1..=self.fates.len() as u64)
                .map(|number| RolloutRevision {
                    id: id("rev", number),
                    number,
                    port: self.port.clone(),
                    sole: match self.port {
                        PortSpec::Fixed { port } => Some(Sole::Port(port)),
                        _ => None,
                    },
                    is_image: false,
                    rollout: ROLLOUT,
                })
                .collect(),
            instances: self.rows.iter().map(|row| self.seen(row)).collect(),
            preparations: reports
                .flat_map(|(server, report)| report.preparations.iter().map(|p| (id("srv", server.number), p.clone())))
                .collect(),
            candidates: self
                .servers
                .iter()
                .filter(|server| server.exists && server.online)
                .map(|server| {
                    let here = self.rows.iter().filter(|row| row.server_id == id("srv", server.number)).count() as u32;
                    Candidate {
                        server_id: id("srv", server.number),
                        index: server.number as _,
                        of_service: here,
                        of_all: here,
                    }
                })
                .collect(),
            now_ms: self.now_ms,
        }
    }

    /// A row together with its server's word, as the control plane reads them.
    fn seen(&self, row: &RolloutInstance) -> RolloutInstance {
        let server = self.server(row);
        let said = server.report.as_ref().filter(|_| server.exists && server.online);
        let routed = said.is_some_and(|report| report.active.contains(&row.id));
        RolloutInstance {
            observed: said.and_then(|report| report.instances.iter().find(|i| i.instance_id == row.id).cloned()),
            caught_up: said.is_some_and(|report| report.generation >= server.generation),
            server_exists: server.exists,
            server_online: server.exists && server.online,
            routed,
            open_requests: if row.traffic == Traffic::Draining { said.map_or(0, |report| report.open) } else { 0 },
            gateway_problem: said.and_then(|report| report.problem.clone()),
            ..row.clone()
        }
    }

    fn server(&self, row: &RolloutInstance) -> &Server {
        let number = samples::number(row.server_id.as_str());
        self.servers.iter().find(|server| server.number == number).expect("rows name servers of the model")
    }

    /// One tick, written down. Answers what was planned.
    pub fn tick(&mut self) -> RolloutPlan {
        let plan = plan::rollout::plan(&self.input());
        for change in plan.changes.clone() {
            let words = plan::render::rollout_plan(
                &RolloutPlan { changes: vec![change.clone()], ..RolloutPlan::default() },
                self.now_ms,
            );
            self.tell(words.plain().lines().next().unwrap_or_default().to_owned());
            self.write(change);
        }
        for index in 0..self.servers.len() {
            self.refresh(index);
        }
        plan
    }

    fn write(&mut self, change: RolloutChange) {
        let now_ms = self.now_ms;
        let row = |rows: &mut Vec<RolloutInstance>, id: &InstanceId| rows.iter().position(|r| &r.id == id);
        match change {
            RolloutChange::CreateInstance { revision_id, deployment_id, server_id, ordinal, intent } => {
                self.next_id += 1;
                self.rows.push(RolloutInstance {
                    id: id("ins", self.next_id),
                    revision_id,
                    deployment_id,
                    server_id,
                    ordinal,
                    intent,
                    traffic: Traffic::Candidate,
                    traffic_changed_at_ms: now_ms,
                    observed: None,
                    caught_up: false,
                    server_exists: true,
                    server_online: true,
                    routed: false,
                    open_requests: 0,
                    gateway_problem: None,
                });
            }
            RolloutChange::SetTraffic { instance_id, traffic } => {
                let index = row(&mut self.rows, &instance_id).expect("traffic is set on a row that is there");
                self.rows[index].traffic = traffic;
                self.rows[index].traffic_changed_at_ms = now_ms;
            }
            RolloutChange::SetIntent { instance_id, intent } => {
                let index = row(&mut self.rows, &instance_id).expect("an intent is set on a row that is there");
                self.rows[index].intent = intent;
            }
            RolloutChange::DeleteInstance { instance_id } => {
                let index = row(&mut self.rows, &instance_id).expect("a row that is there is deleted");
                let gone = self.rows.remove(index);
                let server = self.server(&gone);
                let alive = server.exists && server.machine.alive().any(|i| i.instance_id == instance_id);
                assert!(!alive, "{instance_id} is forgotten while it runs\n{}", self.told());
            }
            RolloutChange::SetStage { stage, failure, bake_until_ms, warm_until_ms, .. } => {
                let deployment = self.deployment.as_mut().expect("a stage belongs to a deployment");
                deployment.stage = stage;
                deployment.stages.push(StageEntry { stage, at_ms: now_ms });
                deployment.failure = failure.or(deployment.failure.take());
                deployment.bake_until_ms = bake_until_ms;
                deployment.warm_until_ms = warm_until_ms;
                let fixed = matches!(self.port, PortSpec::Fixed { .. });
                if stage == Stage::Running && !fixed {
                    // All of them, unless the server of one was removed meanwhile, or has just rebooted.
                    let active = |row: &&RolloutInstance| {
                        row.traffic == Traffic::Active && self.server(row).exists && !self.away.contains(&row.id)
                    };
                    self.floor = self.rows.iter().filter(active).count().min(self.replicas as usize);
                }
            }
            RolloutChange::SetCurrent { revision_id, previous_revision_id } => {
                self.current = revision_id;
                self.previous = previous_revision_id;
            }
        }
    }

    /// The document of a server: a new generation only if it says something else.
    fn refresh(&mut self, index: usize) {
        let number = self.servers[index].number;
        let mut service = samples::service(1, "web");
        let own: Vec<&RolloutInstance> = self.rows.iter().filter(|row| row.server_id == id("srv", number)).collect();
        service.revisions = (1..=self.fates.len() as u64)
            .filter(|&number| own.iter().any(|row| row.revision_id == id("rev", number)))
            .map(|number| samples::revision(number, self.port.clone()))
            .collect();
        service.instances = own
            .iter()
            .map(|row| {
                let mut wanted = samples::wanted(0, 0, row.intent, row.traffic);
                wanted.instance_id = row.id.clone();
                wanted.revision_id = row.revision_id.clone();
                wanted.deployment_id = row.deployment_id.clone();
                wanted.ordinal = row.ordinal;
                wanted
            })
            .collect();
        let server = &mut self.servers[index];
        let mut next = samples::desired(server.generation, if own.is_empty() { vec![] } else { vec![service] });
        if server.next.as_ref() != Some(&next) {
            server.generation += 1;
            next.generation = server.generation;
            server.next = Some(next);
        }
    }

    /// Everybody else does something: documents arrive, machines work, reports are sent; or not yet.
    pub fn round(&mut self, luck: &mut Luck) {
        self.now_ms += ROUND_MS;
        let mut stories = Vec::new();
        for server in &mut self.servers {
            if server.online && server.exists && luck.below(4) > 0 {
                server.deliver();
            }
            let before = server.machine.story.len();
            for _ in 0..=luck.below(3) {
                server.machine.pass(luck, ROUND_MS / 4);
            }
            server.machine.now_ms = self.now_ms;
            let done = server.machine.story[before..].iter().map(|what| format!("server {}: {what}", server.number));
            stories.extend(done);
            if server.online && server.exists && luck.below(4) > 0 {
                server.report(luck);
            }
        }
        for what in stories {
            self.tell(what);
        }
        let answering: Vec<InstanceId> = self.servers.iter().flat_map(|server| server.machine.answering()).collect();
        self.away.retain(|id| !answering.contains(id));
    }

    pub fn serving(&self) -> usize {
        self.servers.iter().map(|server| server.machine.answering().len()).sum()
    }
}

impl Server {
    fn deliver(&mut self) {
        self.machine.desired.clone_from(&self.next);
    }

    fn report(&mut self, luck: &mut Luck) {
        let open = if luck.one_in(3) { 1 } else { 0 };
        self.report = Some(Report {
            generation: self.machine.desired.as_ref().map_or(0, |desired| desired.generation),
            instances: self.machine.instances.values().cloned().collect(),
            preparations: self.machine.preparations.values().cloned().collect(),
            active: self.machine.active(),
            open,
            problem: (!self.machine.gateway_works).then(|| "port 80 is in use".to_owned()),
        });
    }

    pub fn forget_report(&mut self) {
        self.report = None;
    }

    /// Whether any two live processes hold one port.
    pub fn shares_a_port(&self, port: &PortSpec) -> bool {
        matches!(port, PortSpec::Fixed { .. }) && self.machine.alive().count() > 1
    }
}
