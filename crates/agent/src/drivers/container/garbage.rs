//! Throwing away images that nothing needs, and only those that Mainstay pulled.
//!
//! The same rule as for builds: what the desired state names and what an instance is of stays, and so do the newest few
//! of each service, for a rollback without a registry. On a disk that fills up those few go as well. An image that was
//! here before Mainstay asked for it, that somebody gave a name since, or that any container uses, is not touched.

use super::Shared;
use super::image::{self, ImageRecord};
use super::prepare::Images;
use crate::drivers::files::{read_json, remove_tree, tree_bytes};
use crate::drivers::{DriverError, Keep};
use api::ids::{DeploymentId, ServiceId};
use plan::disk::{is_low, reserve_bytes};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A log of a pull that nobody wants any more stays this long, so that its end is still sent.
const LOG_AGE: Duration = Duration::from_secs(3600);

/// Answers how many bytes were freed.
pub async fn collect(
    shared: &Shared,
    images: &Images,
    used: &BTreeSet<String>,
    keep: &Keep,
) -> Result<u64, DriverError> {
    let records = records(shared);
    let space = crate::resources::space(shared.folders.root());
    let reserve = reserve_bytes(space.total_bytes, shared.options.disk_reserve_bytes);
    let warm = if is_low(space, reserve, false) { 0 } else { keep.warm_builds };
    let doomed = doomed(&records, used, keep, warm, SystemTime::now());
    let mut freed = 0;
    let engine = if doomed.is_empty() { None } else { shared.finder.engine().await.ok() };
    for key in doomed.iter().filter(|key| !images.is_busy(key)) {
        let record = &records[key];
        let shared_by_others = records.iter().any(|(other, r)| !doomed.contains(other) && r.id == record.id);
        let mut gone = !record.pulled || shared_by_others;
        if !gone {
            let Some(engine) = &engine else { continue };
            gone = match image::remove(&engine.api, engine.kind, record).await {
                Ok(gone) => gone,
                Err(error) => {
                    tracing::warn!(%error, "images cannot be thrown away; trying again later");
                    break;
                }
            };
            freed += if gone { record.size_bytes } else { 0 };
        }
        if gone {
            images.is_gone(key);
        }
    }
    let known = images.records();
    images.forget(|revision| {
        keep.revisions.contains(revision) || known.get(revision).is_some_and(|(_, key)| images.record(key).is_some())
    });
    Ok(freed + remove_old_logs(shared, keep))
}

fn records(shared: &Shared) -> BTreeMap<String, ImageRecord> {
    let entries = std::fs::read_dir(shared.folders.images()).into_iter().flatten().flatten();
    let records = entries.filter_map(|entry| {
        let key = entry.file_name().to_str()?.strip_suffix(".json")?.to_owned();
        Some((key, read_json::<ImageRecord>(&entry.path()).ok().flatten()?))
    });
    records.collect()
}

fn doomed(
    records: &BTreeMap<String, ImageRecord>,
    used: &BTreeSet<String>,
    keep: &Keep,
    warm: usize,
    now: SystemTime,
) -> BTreeSet<String> {
    let mut spare: BTreeMap<&ServiceId, Vec<(&String, &ImageRecord)>> = BTreeMap::new();
    for (key, record) in records {
        if !keep.build_keys.contains(key) && !used.contains(key) {
            spare.entry(&record.service_id).or_default().push((key, record));
        }
    }
    let mut doomed = BTreeSet::new();
    for (service, mut images) in spare {
        images.sort_by_key(|(_, record)| std::cmp::Reverse(record.ready_at_ms));
        let wanted = keep.services.contains(service);
        let fresh = |record: &ImageRecord| {
            let ready = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(record.ready_at_ms).unwrap_or(0));
            now.duration_since(ready).is_ok_and(|age| age < keep.unnamed_age)
        };
        let goes =
            |(index, (_, record)): &(usize, (&String, &ImageRecord))| *index >= warm || !(wanted || fresh(record));
        doomed.extend(images.into_iter().enumerate().filter(goes).map(|(_, (key, _))| key.clone()));
    }
    doomed
}

fn remove_old_logs(shared: &Shared, keep: &Keep) -> u64 {
    let mut freed = 0;
    for entry in std::fs::read_dir(shared.folders.pulls()).into_iter().flatten().flatten() {
        let deployment = entry.file_name().to_str().and_then(|name| name.parse::<DeploymentId>().ok());
        let path: PathBuf = entry.path();
        if deployment.is_some_and(|deployment| !keep.deployments.contains(&deployment)) && is_old(&path) {
            let bytes = tree_bytes(&path);
            freed += if remove_tree(&path).is_ok() { bytes } else { 0 };
        }
    }
    freed
}

fn is_old(path: &Path) -> bool {
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    let newest = files.filter_map(|file| file.metadata().ok()?.modified().ok()).max();
    newest.is_none_or(|at| at.elapsed().is_ok_and(|age| age > LOG_AGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_few_of_a_wanted_service_stay_and_what_is_used_stays_always() {
        let service = |number: u128| ServiceId::from_uuid(uuid::Uuid::from_u128(number));
        let record = |number: u128, at: i64| -> ImageRecord {
            serde_json::from_value(serde_json::json!({
                "service_id": service(number), "reference": "r", "id": at.to_string(), "pulled": true,
                "ready_at_ms": at, "size_bytes": 1,
            }))
            .unwrap()
        };
        let records: BTreeMap<String, ImageRecord> = [
            ("wanted", record(1, 1)),
            ("used", record(1, 2)),
            ("old", record(1, 3)),
            ("warm", record(1, 4)),
            ("left", record(2, 5)),
        ]
        .map(|(key, record)| (key.to_owned(), record))
        .into();
        let keep = Keep {
            services: BTreeSet::from([service(1)]),
            build_keys: BTreeSet::from(["wanted".to_owned()]),
            unnamed_age: Duration::from_secs(60),
            ..Keep::default()
        };
        let used = BTreeSet::from(["used".to_owned()]);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let doomed_at =
            |warm, seconds| doomed(&records, &used, &keep, warm, at(seconds)).into_iter().collect::<Vec<_>>();
        assert_eq!(doomed_at(1, 3_600), ["left", "old"]);
        assert_eq!(doomed_at(1, 30), ["old"], "a service that is not named may only be stopped");
        assert_eq!(doomed_at(0, 3_600), ["left", "old", "warm"], "on a disk that fills up");
    }
}
