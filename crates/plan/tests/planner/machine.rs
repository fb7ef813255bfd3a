//! A model of one machine: it does what [`plan::host::plan`] says, one change at a time as the agent
//! does, its gateway runs what [`plan::gateway::render`] makes, and its processes and builds take
//! their time and fare as their revision's fate says. Pure: time and luck come from outside.

use api::desired::DesiredState;
use api::gateway::GatewayConfig;
use api::ids::{InstanceId, RevisionId};
use api::observed::*;
use plan::gateway::RenderContext;
use plan::host::{Change, ConfigKind, ConfigView, Failure, HostInput, HostPlan, Subject};
use std::collections::{BTreeMap, BTreeSet};

/// A small generator of luck (xorshift), so that a case is repeated by its seed.
pub struct Luck(u64);

impl Luck {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// How a revision fares wherever it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Healthy,
    NeverHealthy,
    Crashes,
    BuildFails,
    /// The first builds fail for reasons that pass.
    FlakyBuild,
    /// Healthy for some seconds, then unhealthy for ever.
    Breaks,
}

pub struct Machine {
    pub desired: Option<DesiredState>,
    pub instances: BTreeMap<InstanceId, InstanceObserved>,
    pub preparations: BTreeMap<RevisionId, PreparationObserved>,
    pub failures: BTreeMap<Subject, Failure>,
    pub fates: BTreeMap<RevisionId, Fate>,
    pub gateway: Option<GatewayConfig>,
    /// While not, it keeps its last configuration and refuses every other.
    pub gateway_works: bool,
    pub names_live: bool,
    pub mesh_live: bool,
    pub now_ms: i64,
    /// One start in this many fails; 0: none does.
    pub start_fails_one_in: u64,
    /// What was done, for the message of a failed case.
    pub story: Vec<String>,
}

impl Machine {
    pub fn new(now_ms: i64) -> Self {
        Self {
            desired: None,
            instances: BTreeMap::new(),
            preparations: BTreeMap::new(),
            failures: BTreeMap::new(),
            fates: BTreeMap::new(),
            gateway: None,
            gateway_works: true,
            names_live: false,
            mesh_live: false,
            now_ms,
            start_fails_one_in: 0,
            story: Vec::new(),
        }
    }

    /// Instances that the gateway sends new requests to.
    pub fn active(&self) -> Vec<InstanceId> {
        let upstreams = self.gateway.iter().flat_map(|config| &config.services).flat_map(|s| &s.upstreams);
        upstreams.filter(|upstream| !upstream.draining).map(|upstream| upstream.instance_id.clone()).collect()
    }

    /// Instances that the gateway sends requests to and that answer.
    pub fn answering(&self) -> Vec<InstanceId> {
        let answers = |id: &InstanceId| {
            self.instances.get(id).is_some_and(|i| matches!(i.state, InstanceState::Running | InstanceState::Healthy))
        };
        self.active().into_iter().filter(answers).collect()
    }

    pub fn alive(&self) -> impl Iterator<Item = &InstanceObserved> {
        self.instances.values().filter(|i| !matches!(i.state, InstanceState::Absent | InstanceState::Exited))
    }

    /// A new agent finds what runs; what it knew of probes and failures is gone.
    pub fn restart_agent(&mut self) {
        self.failures.clear();
        for instance in self.instances.values_mut() {
            if matches!(instance.state, InstanceState::Healthy | InstanceState::Unhealthy) {
                instance.state = InstanceState::Running;
            }
        }
    }

    /// Nothing runs any more; the files are there, the gateway's last configuration too.
    pub fn reboot(&mut self) {
        self.restart_agent();
        let at_ms = self.now_ms;
        for instance in self.instances.values_mut() {
            instance.state = InstanceState::Exited;
            instance.stopping = false;
            instance.last_exit = Some(ExitStatus { code: None, signal: Some(9), out_of_memory: false, at_ms });
        }
        let working = |p: &&mut PreparationObserved| p.state == PreparationState::Working;
        self.preparations.values_mut().filter(working).for_each(|p| p.state = PreparationState::Absent);
    }

    pub fn plan(&self) -> HostPlan {
        let (instances, preparations) = self.lists();
        let configs = self.configs(&instances, &preparations);
        let failures: Vec<Failure> = self.failures.values().cloned().collect();
        plan::host::plan(HostInput {
            desired: self.desired.as_ref(),
            instances: &instances,
            preparations: &preparations,
            configs: &configs,
            gateway_active: &self.active(),
            failures: &failures,
            now_ms: self.now_ms,
        })
    }

    fn lists(&self) -> (Vec<InstanceObserved>, Vec<PreparationObserved>) {
        (self.instances.values().cloned().collect(), self.preparations.values().cloned().collect())
    }

    fn rendered(&self) -> Option<GatewayConfig> {
        let (instances, preparations) = self.lists();
        let desired = self.desired.as_ref()?;
        Some(plan::gateway::render(desired, &instances, &preparations, &RenderContext::default()))
    }

    fn configs(&self, instances: &[InstanceObserved], preparations: &[PreparationObserved]) -> Vec<ConfigView> {
        let Some(desired) = &self.desired else { return Vec::new() };
        // Equal configurations, equal digests; a real one would be the slowest thing of these tests.
        let digest =
            |config: &GatewayConfig| if self.gateway.as_ref() == Some(config) { "live" } else { "next" }.to_owned();
        let rendered = plan::gateway::render(desired, instances, preparations, &RenderContext::default());
        vec![
            ConfigView {
                kind: ConfigKind::Routes,
                desired_digest: digest(&rendered),
                live_digest: self.gateway.as_ref().map(digest),
            },
            ConfigView {
                kind: ConfigKind::Dns,
                desired_digest: "names".into(),
                live_digest: self.names_live.then(|| "names".into()),
            },
            ConfigView {
                kind: ConfigKind::Mesh,
                desired_digest: "peers".into(),
                live_digest: self.mesh_live.then(|| "peers".into()),
            },
        ]
    }

    /// One pass: look, plan, do the first change, let time go by. Answers what was planned.
    pub fn pass(&mut self, luck: &mut Luck, millis: i64) -> HostPlan {
        let plan = self.plan();
        let active: BTreeSet<InstanceId> = self.active().into_iter().collect();
        let given_up = self.failures.get(&Subject::Config(ConfigKind::Routes)).is_some_and(|f| f.attempts >= 3);
        for change in &plan.changes {
            if let Change::StopInstance { instance_id, .. } = change {
                let safe = given_up || !active.contains(instance_id);
                assert!(safe, "{} is stopped while the gateway sends it requests\n{}", instance_id, self.told());
            }
        }
        if let Some(change) = plan.changes.first().cloned() {
            let one = HostPlan { changes: vec![change.clone()], blocked: Vec::new() };
            let words = plan::render::host_plan(&one, self.now_ms).plain();
            self.story.push(words.lines().next().unwrap_or_default().to_owned());
            self.apply(change, luck);
        }
        self.now_ms += millis;
        self.live_on(luck);
        plan
    }

    pub fn told(&self) -> String {
        let from = self.story.len().saturating_sub(30);
        self.story[from..].join("\n")
    }

    fn apply(&mut self, change: Change, luck: &mut Luck) {
        match change {
            Change::Prepare { service_id, revision_id, deployment_id } => {
                let attempts = self.preparations.get(&revision_id).map_or(0, |p| p.attempts) + 1;
                let mut preparation = crate::samples::prepared(0, 0, PreparationState::Working);
                preparation.service_id = service_id;
                preparation.revision_id = revision_id.clone();
                preparation.deployment_id = deployment_id;
                preparation.attempts = attempts;
                self.preparations.insert(revision_id, preparation);
            }
            Change::StopInstance { instance_id, .. } => {
                let instance = self.instances.get_mut(&instance_id).expect("only what is there is stopped");
                assert!(!instance.stopping, "{instance_id} is asked to stop twice\n{:?}", self.story);
                instance.stopping = true;
                instance.state = InstanceState::Transient;
            }
            Change::RemoveInstance { instance_id } => {
                let gone = self.instances.remove(&instance_id).expect("only what is there is removed");
                assert_eq!(gone.state, InstanceState::Exited, "{instance_id} is removed while it may run");
            }
            Change::StartInstance { service_id, instance_id, revision_id } => {
                let alive = self.alive().any(|i| i.instance_id == instance_id);
                assert!(!alive, "{instance_id} is started while it runs\n{}", self.told());
                let ready = self.preparations.get(&revision_id).is_some_and(|p| p.state == PreparationState::Ready);
                assert!(ready, "{instance_id} is started before its release is ready\n{}", self.told());
                if self.start_fails_one_in > 0 && luck.one_in(self.start_fails_one_in) {
                    self.fail(Subject::Instance(instance_id), "no free port");
                    return;
                }
                self.failures.remove(&Subject::Instance(instance_id.clone()));
                let mut instance = crate::samples::seen(0, 0, 0, InstanceState::Transient);
                instance.port = Some(20_000 + (crate::samples::number(instance_id.as_str()) % 1_000) as u16);
                instance.instance_id = instance_id.clone();
                instance.service_id = service_id;
                instance.revision_id = revision_id;
                instance.started_at_ms = Some(self.now_ms);
                self.instances.insert(instance_id, instance);
            }
            Change::ApplyConfig { kind: ConfigKind::Dns, .. } => self.names_live = true,
            Change::ApplyConfig { kind: ConfigKind::Mesh, .. } => self.mesh_live = true,
            Change::ApplyConfig { kind: ConfigKind::Routes, .. } if self.gateway_works => {
                self.gateway = self.rendered();
                self.failures.remove(&Subject::Config(ConfigKind::Routes));
            }
            Change::ApplyConfig { kind: ConfigKind::Routes, .. } => {
                self.fail(Subject::Config(ConfigKind::Routes), "port 80 is in use");
            }
        }
    }

    fn fail(&mut self, subject: Subject, message: &str) {
        let attempts = self.failures.get(&subject).map_or(0, |f| f.attempts) + 1;
        let retry_at_ms = self.now_ms + (1_000 << attempts.min(5));
        let failure = Failure { subject: subject.clone(), attempts, message: message.into(), retry_at_ms };
        self.failures.insert(subject, failure);
    }

    /// What processes and builds do by themselves.
    fn live_on(&mut self, luck: &mut Luck) {
        let now_ms = self.now_ms;
        let mut failed = Vec::new();
        for preparation in self.preparations.values_mut() {
            let fate = self.fates.get(&preparation.revision_id).copied().unwrap_or(Fate::Healthy);
            if preparation.state == PreparationState::Working && luck.one_in(2) {
                let fails = fate == Fate::BuildFails || (fate == Fate::FlakyBuild && preparation.attempts < 3);
                preparation.state = if fails { PreparationState::Failed } else { PreparationState::Ready };
                preparation.retryable = fate == Fate::FlakyBuild;
                preparation.error = fails.then(|| "no route to host".into());
                if fails && preparation.retryable {
                    failed.push(preparation.revision_id.clone());
                }
            }
        }
        for revision in failed {
            self.fail(Subject::Preparation(revision), "no route to host");
        }
        for instance in self.instances.values_mut() {
            let fate = self.fates.get(&instance.revision_id).copied().unwrap_or(Fate::Healthy);
            if luck.one_in(3) {
                continue;
            }
            match instance.state {
                InstanceState::Transient if instance.stopping => instance.state = InstanceState::Exited,
                InstanceState::Transient => {
                    instance.state = InstanceState::Running;
                    instance.started_at_ms = Some(now_ms);
                }
                InstanceState::Running if fate == Fate::Crashes => {
                    instance.state = InstanceState::Transient;
                    instance.restarts += 1;
                    instance.crash_looping = instance.restarts >= 5;
                    instance.last_exit =
                        Some(ExitStatus { code: Some(1), signal: None, out_of_memory: false, at_ms: now_ms });
                }
                InstanceState::Running if fate == Fate::NeverHealthy => instance.state = InstanceState::Unhealthy,
                InstanceState::Running | InstanceState::Unhealthy
                    if !matches!(fate, Fate::NeverHealthy | Fate::Breaks) =>
                {
                    instance.state = InstanceState::Healthy;
                }
                InstanceState::Running => instance.state = InstanceState::Healthy,
                InstanceState::Healthy
                    if fate == Fate::Breaks && instance.started_at_ms.is_none_or(|at_ms| now_ms - at_ms > 6_000) =>
                {
                    instance.state = InstanceState::Unhealthy;
                }
                _ => {}
            }
        }
    }
}
