//! Throwing away what nothing needs: builds, mirrors, caches, logs, records of preparations.
//!
//! What an instance runs in is kept whatever the desired state says, and a service whose preparation
//! is in work is left alone altogether. Instances themselves are not garbage: they go by stop and
//! remove, which are changes of the plan.

use super::layout::Layout;
use super::prepare::{LOG_OWNER, Preparations, READY_MARKER};
use crate::drivers::Keep;
use crate::drivers::book::Records;
use crate::drivers::files::{read_json, remove_tree, tree_bytes};
use api::ids::{DeploymentId, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A log of a deployment that nobody wants any more stays this long, so that its end is still sent.
const LOG_AGE: Duration = Duration::from_secs(3600);

/// Answers how many bytes were freed.
pub fn collect(layout: &Layout, preparations: &Preparations, used: &[PathBuf], keep: &Keep) -> u64 {
    let records = preparations.records();
    let mut freed = 0;
    let doomed = doomed_builds(layout, preparations, &records, used, keep);
    for build in &doomed {
        // Without the marker first: a crash in the middle leaves a half-done build, not half a ready one.
        let _ = std::fs::remove_file(build.join(READY_MARKER));
        freed += remove(build);
    }
    let keys = ready_keys(layout);
    preparations.forget(|revision| {
        keep.revisions.contains(revision) || records.get(revision).is_some_and(|(_, key)| keys.contains(key))
    });
    for place in [layout.sources(), layout.caches()] {
        for entry in entries(&place) {
            let service = name(&entry).and_then(|name| name.parse::<ServiceId>().ok());
            if service.is_some_and(|service| !keep.services.contains(&service) && !preparations.is_busy(&service)) {
                freed += remove(&entry);
            }
        }
    }
    for entry in entries(&layout.build_logs()) {
        let deployment = name(&entry).and_then(|name| name.parse::<DeploymentId>().ok());
        if deployment.is_some_and(|deployment| !keep.deployments.contains(&deployment)) && is_old(&entry) {
            freed += remove(&entry);
        }
    }
    freed
}

/// Builds that neither the desired state nor an instance nor the number of warm ones keeps.
fn doomed_builds(
    layout: &Layout,
    preparations: &Preparations,
    records: &Records,
    used: &[PathBuf],
    keep: &Keep,
) -> Vec<PathBuf> {
    let owner: BTreeMap<&String, &ServiceId> = records.values().map(|(service, key)| (key, service)).collect();
    let mut spare: BTreeMap<Option<&ServiceId>, Vec<(SystemTime, PathBuf)>> = BTreeMap::new();
    for build in entries(&layout.builds()) {
        let Some(key) = name(&build) else { continue };
        let service = owner.get(&key).copied();
        let busy = match service {
            Some(service) => preparations.is_busy(service),
            // Nothing says whose it is: half-done, or its record is lost.
            None => preparations.is_any_busy(),
        };
        if keep.build_keys.contains(&key) || busy || used.iter().any(|directory| directory.starts_with(&build)) {
            continue;
        }
        let ready = build.join(READY_MARKER).metadata().and_then(|metadata| metadata.modified());
        spare.entry(service).or_default().push((ready.unwrap_or(SystemTime::UNIX_EPOCH), build));
    }
    let mut doomed = Vec::new();
    for (service, mut builds) in spare {
        let wanted = service.is_some_and(|service| keep.services.contains(service));
        builds.sort_by_key(|(ready, _)| std::cmp::Reverse(*ready));
        let fresh = |ready: SystemTime| ready.elapsed().is_ok_and(|age| age < keep.unnamed_age);
        let stays = |index: usize, ready: SystemTime| {
            index < keep.warm_builds && ready > SystemTime::UNIX_EPOCH && (wanted || fresh(ready))
        };
        doomed.extend(
            builds.into_iter().enumerate().filter(|(i, (ready, _))| !stays(*i, *ready)).map(|(_, (_, build))| build),
        );
    }
    doomed
}

fn ready_keys(layout: &Layout) -> BTreeSet<String> {
    entries(&layout.builds())
        .iter()
        .filter(|build| build.join(READY_MARKER).exists())
        .filter_map(|build| name(build))
        .collect()
}

/// Whose a build log is.
pub fn log_owner(directory: &Path) -> Option<ServiceId> {
    read_json(&directory.join(LOG_OWNER)).ok().flatten()
}

fn entries(place: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

fn is_old(path: &Path) -> bool {
    let newest = entries(path).iter().filter_map(|file| file.metadata().ok()?.modified().ok()).max();
    newest.is_none_or(|at| at.elapsed().is_ok_and(|age| age > LOG_AGE))
}

fn remove(path: &Path) -> u64 {
    let bytes = tree_bytes(path);
    match remove_tree(path) {
        Ok(()) => bytes,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "could not be thrown away; trying again later");
            0
        }
    }
}
