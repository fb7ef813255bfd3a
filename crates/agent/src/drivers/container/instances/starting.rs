//! Starting a container from the beginning: network, address, volumes, secret files, create, start.

use super::{Instances, Known, World, lock, routes_of_this_machine};
use crate::drivers::container::answers::{ContainerInspect, Created};
use crate::drivers::container::api::{ApiError, escaped};
use crate::drivers::container::create::{Creation, GVISOR, environment, request};
use crate::drivers::container::engine::{Engine, EngineKind, abilities};
use crate::drivers::container::image::ImageRecord;
use crate::drivers::container::keeper::Phase;
use crate::drivers::container::network::{self, ContainerNetwork, NetworkError};
use crate::drivers::container::record::{OWNER_LABEL, Spec};
use crate::drivers::container::{engine_error, volumes};
use crate::drivers::{DriverError, StartRequest, StartedInstance, blocking};
use api::images::{ContainerSpec, Isolation};
use api::services::{PortSpec, RunSpec};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long what an engine can do is believed.
const ABILITIES_FOR: Duration = Duration::from_secs(600);
/// Where an image says nothing about its port.
const DEFAULT_PORT: u16 = 8080;

impl Instances {
    pub async fn start(&self, wanted: &StartRequest, image: &ImageRecord) -> Result<StartedInstance, DriverError> {
        let RunSpec::Container(container) = &wanted.revision.run else {
            return Err(DriverError::refused(format!("{} is not run as a container", wanted.revision.source.label())));
        };
        let engine = self.shared.finder.engine().await.map_err(engine_error)?;
        let mut world = self.world.lock().await;
        world.looked_at = None;
        self.refresh(&mut world).await?;
        let id = &wanted.instance.instance_id;
        if let Some(known) = world.instances.get(id) {
            let running = StartedInstance { port: known.spec.port, already_running: true };
            match known.status.phase {
                Phase::Running | Phase::Waiting if known.spec.revision_id == wanted.revision.revision_id => {
                    return Ok(running);
                }
                Phase::Running | Phase::Waiting => {
                    return Err(DriverError::temporary("it runs another revision; it is stopped first"));
                }
                Phase::Stopping => {
                    return Err(DriverError::temporary("it is stopping; it can be started again after that"));
                }
                Phase::Starting | Phase::Stopped | Phase::Lost => {}
            }
        }
        let spec = self.spec(&world, wanted, image)?;
        self.check_abilities(&engine, container, &spec).await?;
        let mut status = world.instances.remove(id).map(|known| known.status).unwrap_or_default();
        let former = status.container_id.clone();
        status.begin();
        let save = || self.shared.folders.save_spec(&spec);
        save().map_err(|source| self.io("write the instance in", &spec, source))?;
        self.shared.folders.save_status(id, &status);
        lock(&self.services).insert(id.clone(), spec.service_id.clone());
        let mut known = Known { spec, status, sight: None };
        let result = self.create_and_start(&engine, wanted, image, container, &mut known, former).await;
        if let Err(error) = &result {
            known.status.phase = Phase::Lost;
            known.status.problem = Some(error.describe());
            self.note(id, error.describe()).await;
        }
        self.shared.folders.save_status(id, &known.status);
        let port = known.spec.port;
        world.instances.insert(id.clone(), known);
        result.map(|()| StartedInstance { port, already_running: false })
    }

    fn spec(&self, world: &World, wanted: &StartRequest, image: &ImageRecord) -> Result<Spec, DriverError> {
        let (instance, revision) = (&wanted.instance, &wanted.revision);
        let others = world.instances.iter().filter(|(id, _)| **id != instance.instance_id);
        let taken: BTreeSet<Ipv4Addr> = others.map(|(_, known)| known.spec.address).collect();
        let network = self.network().unwrap_or_else(ContainerNetwork::of_the_first_server);
        let before = world.instances.get(&instance.instance_id).map(|known| known.spec.address);
        let address =
            instance.address.or(before).or_else(|| network.free_address(instance.instance_id.as_str(), &taken));
        let address = address.ok_or_else(|| {
            DriverError::temporary(format!("all addresses of {} are taken by other instances", network.subnet))
        })?;
        let port = match revision.port {
            PortSpec::None => None,
            PortSpec::Fixed { port } => Some(port),
            PortSpec::Injected => Some(match image.ports.as_slice() {
                [port] => *port,
                _ => DEFAULT_PORT,
            }),
        };
        Ok(Spec {
            instance_id: instance.instance_id.clone(),
            service_id: wanted.service_id.clone(),
            service: wanted.service.clone(),
            revision_id: revision.revision_id.clone(),
            deployment_id: instance.deployment_id.clone(),
            build_key: revision.build_key.clone(),
            port,
            address,
            restart: revision.restart.clone(),
            stop_signal: image.stop_signal.clone().unwrap_or_else(|| "SIGTERM".into()),
            image_check: image.check.clone(),
        })
    }

    async fn check_abilities(
        &self,
        engine: &Engine,
        container: &ContainerSpec,
        spec: &Spec,
    ) -> Result<(), DriverError> {
        let known = lock(&self.abilities).clone().filter(|(at, _)| at.elapsed() < ABILITIES_FOR);
        let found = match known {
            Some((_, found)) => found,
            None => {
                let found = abilities(engine).await.map_err(|error| self.failed(error))?;
                *lock(&self.abilities) = Some((Instant::now(), found.clone()));
                found
            }
        };
        if found.rootless && spec.port.is_some() {
            return Err(DriverError::temporary(
                "the container engine of this server runs without root, so the address of a container leads nowhere: run \
                 the agent and the engine as root",
            ));
        }
        if container.isolation == Isolation::Gvisor && !found.runtimes.iter().any(|name| name == GVISOR) {
            return Err(DriverError::temporary(
                "this server has no gVisor (`runsc`), which isolation = \"gvisor\" needs: install it, or place the service \
                 elsewhere",
            ));
        }
        Ok(())
    }

    async fn create_and_start(
        &self,
        engine: &Engine,
        wanted: &StartRequest,
        image: &ImageRecord,
        container: &ContainerSpec,
        known: &mut Known,
        former: Option<String>,
    ) -> Result<(), DriverError> {
        if let Some(former) = former {
            self.copy_log(&known.spec.instance_id).await;
            self.remove_container(engine, &former).await?;
        }
        self.ensure_network(engine, known.spec.address).await?;
        let volumes = volumes::ensure(&engine.api, &self.shared.owner, &wanted.project_id, &wanted.service, container);
        let volumes = volumes.await.map_err(|error| self.failed(error))?;
        let user = container.user.as_deref().or(image.user.as_deref());
        let files = self.secrets.write(&known.spec.instance_id, &container.files, user);
        let files = files.map_err(|source| self.io("write the secret files of", &known.spec, source))?;
        let version = wanted.revision.source.image().and_then(|image| image.digest.as_ref());
        let version = version.map_or(image.reference.as_str(), |digest| digest.as_str());
        let env = environment(&known.spec, version, &wanted.env, &wanted.revision.env).map_err(DriverError::refused)?;
        let body = request(&Creation {
            spec: &known.spec,
            owner: &self.shared.owner,
            container,
            limits: &wanted.revision.limits,
            env,
            image: &image.reference,
            files,
            volumes,
            network: &self.shared.options.network,
            dns: self.shared.options.name_server.then(|| ContainerNetwork::of(known.spec.address).gateway),
            docker: engine.kind == EngineKind::Docker,
            ceilings: self.ceilings,
        });
        let created = self.create(engine, &known.spec, &body).await.map_err(|error| match error {
            error if error.is_not_found() => DriverError::NotPrepared(known.spec.revision_id.clone()),
            error => self.failed(error),
        })?;
        known.status.container_id = Some(created.clone());
        self.shared.folders.save_status(&known.spec.instance_id, &known.status);
        let call = format!("/containers/{}/start", escaped(&created));
        engine.api.order(http::Method::POST, &call).await.map_err(|error| self.failed(error))?;
        self.see_running(engine, known, &created).await
    }

    /// A container of this name is from a start that was killed before it was written down.
    async fn create(&self, engine: &Engine, spec: &Spec, body: &serde_json::Value) -> Result<String, ApiError> {
        let name = spec.container_name();
        let path = format!("/containers/create?name={}", escaped(&name));
        match engine.api.post::<Created>(&path, body).await {
            Err(error) if error.is_name_taken() => {
                let found = engine.api.find::<ContainerInspect>(&format!("/containers/{name}/json")).await?;
                let labels = found.as_ref().and_then(|found| found.config.labels.as_ref());
                let ours = labels.and_then(|labels| labels.get(OWNER_LABEL)) == Some(&self.shared.owner);
                let Some(found) = found.filter(|_| ours) else { return Err(error) };
                engine
                    .api
                    .order(http::Method::DELETE, &format!("/containers/{}?force=true", escaped(&found.id)))
                    .await?;
                Ok(engine.api.post::<Created>(&path, body).await?.id)
            }
            other => other.map(|created| created.id),
        }
    }

    async fn ensure_network(&self, engine: &Engine, address: Ipv4Addr) -> Result<(), DriverError> {
        let wanted = ContainerNetwork::of(address);
        let libpod = engine.libpod();
        let routes = blocking(routes_of_this_machine).await?;
        let name = &self.shared.options.network;
        let made = network::ensure(&engine.api, libpod.as_ref(), name, &self.shared.owner, wanted, &routes).await;
        made.map_err(|error| match error {
            NetworkError::Api(error) => self.failed(error),
            other => DriverError::temporary(other.to_string()),
        })?;
        *lock(&self.network) = Some(wanted);
        Ok(())
    }

    pub(super) async fn remove_container(&self, engine: &Engine, container: &str) -> Result<(), DriverError> {
        let path = format!("/containers/{}?force=true&v=true", escaped(container));
        match engine.api.order(http::Method::DELETE, &path).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }
}
