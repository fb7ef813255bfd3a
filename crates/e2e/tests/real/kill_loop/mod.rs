//! Every part killed at every stage of a deployment, again and again, while visitors keep asking and
//! somebody follows events and logs.
//!
//! After each kill the desired state must be reached, with the processes that belong to it and no
//! other. In the end every request is accounted for, and whatever the control plane has acknowledged
//! is there, once and in order. What is killed when is chosen in turn, with a seeded delay within the
//! stage; where the deployment really was is read from its own record afterwards.
//!
//! `cargo xtask kill-loop --kills 150` makes the loop long; it sets `MAINSTAY_KILLS`. The seed is
//! printed, and `MAINSTAY_KILL_SEED` sets it.

mod coverage;
mod findings;
mod records;
mod wishes;
mod world;

use anyhow::{Context, Result, bail, ensure};
use coverage::{Coverage, Moment, Target};
use findings::Findings;
use std::time::{Duration, Instant};
use wishes::{Look, Wish, Wishes, look, newest, submit};
use world::{Database, World};

/// A loaded machine may take its time.
const REACHED_WITHIN: Duration = Duration::from_secs(120);
/// Enough that every stage and every part meets a kill, also when two aims are missed; the long form is
/// `cargo xtask kill-loop`.
const SHORT_KILLS: u32 = 9;
/// From so many kills on, every target must have been killed at every stage.
const THOROUGH: u32 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_at_every_stage_on_sqlite_nothing_acknowledged_is_lost_and_every_wish_is_reached() {
    run(Database::Sqlite, &Target::ON_SQLITE, SHORT_KILLS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_at_every_stage_on_postgresql_nothing_acknowledged_is_lost_and_every_wish_is_reached() {
    run(Database::Postgres, &Target::ON_POSTGRES, SHORT_KILLS).await;
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

async fn run(database: Database, targets: &'static [Target], kills: u32) {
    let kills = number("MAINSTAY_KILLS").map_or(kills, |kills| kills as u32);
    let seed = number("MAINSTAY_KILL_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    eprintln!("kill loop on {database:?}: {kills} kills, MAINSTAY_KILL_SEED={seed}");
    let Some(mut world) = World::begin(database, seed).await else {
        assert_ne!(std::env::var("MAINSTAY_REQUIRE_POSTGRES").as_deref(), Ok("1"), "a PostgreSQL is required");
        eprintln!("skipped: there is no PostgreSQL on this machine");
        return;
    };
    let outcome = kill_again_and_again(&mut world, targets, kills).await;
    outcome.unwrap_or_else(|error| panic!("with MAINSTAY_KILL_SEED={seed}: {error:?}"));
}

async fn kill_again_and_again(world: &mut World, targets: &'static [Target], kills: u32) -> Result<()> {
    let mut wishes = Wishes::new();
    let mut findings = Findings::default();
    undisturbed(world, &mut wishes, Wish::Deploy).await?;
    let audience = world.audience();
    // For the figures of a long run, how long it takes without a kill.
    for wish in Wish::ALL.into_iter().filter(|_| kills >= THOROUGH) {
        findings.undisturbed.push(undisturbed(world, &mut wishes, wish).await?);
    }
    let mut coverage = Coverage::new(targets);
    for turn in 0.. {
        let complete = match kills >= THOROUGH {
            true => coverage.missing().is_empty(),
            false => coverage.missing_entirely().is_empty(),
        };
        // What a stage of a few milliseconds is missed by comes round again, but not for ever.
        if coverage.total() >= kills && (complete || coverage.total() >= kills + kills / 2) {
            break;
        }
        let (moment, target) = coverage.next();
        let wish = Wish::of(turn, moment);
        let context = || format!("kill {turn}: {} at {}, during {wish:?}", target.name(), moment.name());
        let (really, times) = disturbed(world, &mut wishes, wish, moment, target).await.with_context(context)?;
        eprintln!("{}; it was {}; reached after {:.1?}", context(), really.name(), times.after_kill);
        coverage.record(really, target);
        findings.times.entry(target).or_default().push(times);
    }
    findings.judge(world, &wishes, audience).await?;
    println!("{}\n\n{}", coverage.table(), findings.summary());
    ensure!(findings.complaints.is_empty(), "{:#?}", findings.complaints);
    let missing = coverage.missing_entirely();
    ensure!(missing.is_empty(), "never met: {missing:?}");
    ensure!(kills < THOROUGH || coverage.missing().is_empty(), "never met: {:?}", coverage.missing());
    Ok(())
}

/// How long one wish took.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub after_wish: Duration,
    pub after_kill: Duration,
    pub rolled_back: bool,
}

/// One wish that nothing disturbs: from the command until everything is as wished.
async fn undisturbed(world: &mut World, wishes: &mut Wishes, wish: Wish) -> Result<Duration> {
    let before = newest(&world.client).await?;
    let request = wishes.request(world, wish)?;
    let begun = Instant::now();
    let deployment = submit(world.client.clone(), request, before).await?;
    wishes.heard(&deployment);
    reached(world, wishes, &deployment.id, false).await.with_context(|| format!("{wish:?} without a kill"))?;
    Ok(begun.elapsed())
}

async fn disturbed(
    world: &mut World,
    wishes: &mut Wishes,
    wish: Wish,
    moment: Moment,
    target: Target,
) -> Result<(Moment, Times)> {
    let before = newest(&world.client).await?;
    let request = wishes.request(world, wish)?;
    let begun = Instant::now();
    let mut wished = tokio::spawn(submit(world.client.clone(), request, before));
    let mut accepted = None;
    if moment != Moment::Accepting {
        let deployment = (&mut wished).await??;
        wait_for(world, &deployment.id, moment).await?;
        accepted = Some(deployment);
    }
    let delay_ms = world.random.u64(..=moment.spread_ms());
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    let (killed, killed_ms) = world.kill(target).await?;
    let deployment = match accepted {
        Some(deployment) => deployment,
        None => wished.await??,
    };
    wishes.heard(&deployment);
    // A new release whose process dies after the switch is taken back: that is a promise, too.
    let may_roll_back = target == Target::Shim && wish == Wish::Deploy;
    let deployment = reached(world, wishes, &deployment.id, may_roll_back).await?;
    let times = Times {
        after_wish: begun.elapsed(),
        after_kill: killed.elapsed(),
        rolled_back: deployment.stage == api::deployments::Stage::RolledBack,
    };
    Ok((Moment::at(&deployment, killed_ms), times))
}

/// Waits until a deployment is at a moment or past it.
async fn wait_for(world: &World, id: &api::ids::DeploymentId, moment: Moment) -> Result<()> {
    let begun = Instant::now();
    loop {
        let deployment = world.client.deployment(id).await?;
        if Moment::of(deployment.stage) >= moment {
            return Ok(());
        }
        ensure!(begun.elapsed() < REACHED_WITHIN, "it never came to {}", moment.name());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn reached(
    world: &World,
    wishes: &Wishes,
    id: &api::ids::DeploymentId,
    may_roll_back: bool,
) -> Result<api::deployments::Deployment> {
    let begun = Instant::now();
    loop {
        match look(world, wishes, id, may_roll_back).await {
            Look::Reached(deployment) => return Ok(*deployment),
            Look::Wrong(why) => bail!("{why}"),
            Look::NotYet(why) if begun.elapsed() > REACHED_WITHIN => {
                bail!("not as wished after {REACHED_WITHIN:?}: {why}")
            }
            Look::NotYet(_) => tokio::time::sleep(Duration::from_millis(30)).await,
        }
    }
}
