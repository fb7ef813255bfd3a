//! Named volumes: made when first mounted, labelled, and never removed with anything else.
//!
//! A volume belongs to a project and a server. Its name in the engine is made of both names for good, so it survives
//! deployments, and also the service that mounted it.

use super::answers::VolumeInspect;
use super::api::{Api, ApiError, escaped};
use super::record::OWNER_LABEL;
use api::ids::ProjectId;
use api::images::ContainerSpec;
use api::name::Name;
use serde_json::json;
use std::collections::BTreeMap;

/// What the engine calls it.
pub fn engine_name(project: &ProjectId, volume: &Name) -> String {
    format!("mainstay-{volume}-{project}")
}

/// Make those that are missing. Answers what to mount, by path.
pub async fn ensure(
    api: &Api,
    owner: &str,
    project: &ProjectId,
    service: &Name,
    container: &ContainerSpec,
) -> Result<BTreeMap<String, (String, bool)>, ApiError> {
    let mut mounts = BTreeMap::new();
    for (path, mount) in &container.volumes {
        let name = engine_name(project, &mount.volume);
        if api.find::<VolumeInspect>(&format!("/volumes/{}", escaped(&name))).await?.is_none() {
            let body = json!({
                "Name": name,
                "Driver": "local",
                "Labels": {
                    OWNER_LABEL: owner,
                    "mainstay.volume.name": mount.volume.as_str(),
                    "mainstay.project.id": project.as_str(),
                    "mainstay.service.name": service.as_str(),
                },
            });
            match api.post::<serde_json::Value>("/volumes/create", &body).await {
                Ok(_) => {}
                Err(error) if error.is_name_taken() => {}
                Err(error) => return Err(error),
            }
        }
        mounts.insert(path.clone(), (name, mount.read_only));
    }
    Ok(mounts)
}
