//! What is killed, when, and how often each has met.

use api::deployments::{Deployment, Stage};
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Agent,
    Gateway,
    /// Nobody is left to start the gateway again until somebody starts the agent again.
    AgentAndGateway,
    Shim,
    ControlPlane,
    /// One process that serves a connection; PostgreSQL then restarts all of them by itself.
    Backend,
    Postmaster,
}

impl Target {
    pub const ON_SQLITE: [Self; 5] =
        [Self::Agent, Self::Gateway, Self::AgentAndGateway, Self::Shim, Self::ControlPlane];
    pub const ON_POSTGRES: [Self; 7] = [
        Self::Agent,
        Self::Gateway,
        Self::AgentAndGateway,
        Self::Shim,
        Self::ControlPlane,
        Self::Backend,
        Self::Postmaster,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gateway => "gateway",
            Self::AgentAndGateway => "agent and gateway",
            Self::Shim => "shim",
            Self::ControlPlane => "control plane",
            Self::Backend => "PostgreSQL backend",
            Self::Postmaster => "PostgreSQL postmaster",
        }
    }
}

/// The stages of a deployment, those taken together that are over within the same few milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// While it is asked for, and until the rollout begins.
    Accepting,
    Building,
    Starting,
    /// `healthy`, `dns_updating`, `routes_updating`.
    Switching,
    StoppingOld,
    /// It is over for the user; the old instances end.
    Running,
}

impl Moment {
    pub const ALL: [Self; 6] =
        [Self::Accepting, Self::Building, Self::Starting, Self::Switching, Self::StoppingOld, Self::Running];

    pub fn name(self) -> &'static str {
        match self {
            Self::Accepting => "pending",
            Self::Building => "building",
            Self::Starting => "starting",
            Self::Switching => "switching",
            Self::StoppingOld => "stopping old",
            Self::Running => "running",
        }
    }

    pub fn of(stage: Stage) -> Self {
        match stage {
            Stage::Pending => Self::Accepting,
            Stage::Building => Self::Building,
            Stage::Pulling | Stage::Starting => Self::Starting,
            Stage::Healthy | Stage::DnsUpdating | Stage::RoutesUpdating => Self::Switching,
            Stage::StoppingOld => Self::StoppingOld,
            _ => Self::Running,
        }
    }

    /// Where a deployment really was at a time, by the record that it keeps of itself.
    pub fn at(deployment: &Deployment, at_ms: i64) -> Self {
        let entered = deployment.stages.iter().rev().find(|entry| entry.at_ms <= at_ms);
        entered.map_or(Self::Accepting, |entry| Self::of(entry.stage))
    }

    /// How long to wait at most, after the moment was seen to begin, to kill within it.
    pub fn spread_ms(self) -> u64 {
        match self {
            Self::Accepting => 25,
            Self::Building => 300,
            Self::Starting => 450,
            Self::Switching => 3,
            Self::StoppingOld => 30,
            Self::Running => 700,
        }
    }
}

/// How often each target was killed at each moment.
pub struct Coverage {
    targets: &'static [Target],
    kills: BTreeMap<(Moment, Target), u32>,
    /// How often each was aimed at: what is often missed must not be aimed at for ever.
    aims: BTreeMap<(Moment, Target), u32>,
}

impl Coverage {
    pub fn new(targets: &'static [Target]) -> Self {
        Self { targets, kills: BTreeMap::new(), aims: BTreeMap::new() }
    }

    fn cells(&self) -> impl Iterator<Item = (Moment, Target)> {
        // Neighbours differ in both, so that few kills already meet every moment and every target.
        let targets = self.targets;
        (0..targets.len()).flat_map(move |shift| {
            (0..targets.len().max(Moment::ALL.len())).filter_map(move |step| {
                let moment = *Moment::ALL.get(step)?;
                Some((moment, targets[(step + shift) % targets.len()]))
            })
        })
    }

    /// What is due next: the pair that was met least; of equals one with a stage or a part that has met
    /// nobody, so that few kills already meet all of them; of equals the one aimed at least.
    pub fn next(&mut self) -> (Moment, Target) {
        let count = |map: &BTreeMap<_, u32>, cell| map.get(&cell).copied().unwrap_or(0);
        let known = |moment, target| {
            let met_moment = self.kills.keys().any(|(met, _)| *met == moment);
            let met_target = self.kills.keys().any(|(_, met)| *met == target);
            u8::from(met_moment) + u8::from(met_target)
        };
        let order = |cell: &(Moment, Target)| {
            let aims = count(&self.aims, *cell);
            (count(&self.kills, *cell) + aims / 3, known(cell.0, cell.1), aims)
        };
        let cell = self.cells().min_by_key(order).expect("there are targets");
        *self.aims.entry(cell).or_default() += 1;
        cell
    }

    pub fn record(&mut self, moment: Moment, target: Target) {
        *self.kills.entry((moment, target)).or_default() += 1;
    }

    pub fn total(&self) -> u32 {
        self.kills.values().sum()
    }

    /// Pairs that have not met.
    pub fn missing(&self) -> Vec<(Moment, Target)> {
        self.cells().filter(|cell| !self.kills.contains_key(cell)).collect()
    }

    /// Moments and targets that have met nobody.
    pub fn missing_entirely(&self) -> Vec<&'static str> {
        let moments = Moment::ALL.iter().filter(|m| !self.kills.keys().any(|(moment, _)| moment == *m));
        let targets = self.targets.iter().filter(|t| !self.kills.keys().any(|(_, target)| target == *t));
        moments.map(|m| m.name()).chain(targets.map(|t| t.name())).collect()
    }

    /// A table of Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from("| killed |");
        Moment::ALL.iter().for_each(|moment| write!(text, " {} |", moment.name()).expect("a string takes all"));
        text.push_str("\n|---|");
        Moment::ALL.iter().for_each(|_| text.push_str("---|"));
        for target in self.targets {
            write!(text, "\n| {} |", target.name()).expect("a string takes all");
            for moment in Moment::ALL {
                let kills = self.kills.get(&(moment, *target)).copied().unwrap_or(0);
                write!(text, " {kills} |").expect("a string takes all");
            }
        }
        text
    }
}

#[test]
fn seven_kills_that_hit_what_they_aim_at_meet_every_stage_and_every_part() {
    let mut coverage = Coverage::new(&Target::ON_POSTGRES);
    for _ in 0..7 {
        let (moment, target) = coverage.next();
        coverage.record(moment, target);
    }
    assert_eq!(coverage.missing_entirely(), Vec::<&str>::new());
}
