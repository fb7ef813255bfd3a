//! The manifest as it is written, field by field. The doc comments are the reference that users
//! read (`docs/reference/manifest.md`), so they speak to them.
//!
//! Everything is optional here and numbers are wide: a missing or impossible value is reported by
//! [`crate::resolve`], which can say more about it than serde could.

use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A `mainstay.toml` describes one stack: services that are deployed together.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the stack. Required. Lowercase letters, digits and hyphens, at most 40 characters.
    /// Deploying a manifest with the same name again changes that stack.
    pub name: Option<String>,
    /// Project that the stack belongs to; services of one project see each other by name.
    /// Default: `default`.
    pub project: Option<String>,
    /// The services, by name: `[services.web]`. At least one, at most 200. The name becomes part of
    /// `http://NAME.svc.internal`.
    #[serde(default)]
    pub services: BTreeMap<String, Service>,
}

/// One thing that runs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Image to run as a container: `"nginx:1.27"`, `"registry.example.com/team/shop:2"`, or with a digest. A tag is
    /// resolved to one exact digest per deployment. Instead of `git`, `build` and `run`.
    pub image: Option<String>,
    /// When a server asks the registry for the image: `"missing"` (if it does not have exactly this one), `"always"` or
    /// `"never"` (it is there already, under this name). Default: `"missing"`.
    pub pull: Option<String>,
    /// Instead of the image's entrypoint: a list of words, no shell.
    pub entrypoint: Option<Vec<String>>,
    /// Instead of the image's command: a list of words, no shell. `["serve", "--all"]`
    pub command: Option<Vec<String>>,
    /// User of the container's processes, by name or number, with a group if needed: `"app"`, `"1000:1000"`. Default: as
    /// the image says.
    pub user: Option<String>,
    /// The image's files cannot be changed while it runs; what must be writable is in `tmpfs` or `volumes`. Default: `false`.
    pub read_only: Option<bool>,
    /// Folders in memory, with their size: `{ "/tmp" = "64M" }`.
    #[serde(default)]
    pub tmpfs: BTreeMap<String, SizeText>,
    /// Named volumes by the path at which the container sees them: `{ "/var/lib/app" = "data" }`, or with a table. A volume
    /// is made when it is first needed, belongs to the project, lies on one server, and stays when the service goes. A
    /// service with a volume that it may write to starts a new release after the old one has stopped.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeValue>,
    /// Files that the container can read, by their path: `{ "/etc/app.conf" = "…" }`. They are kept as secrets are, in
    /// memory, and are readable by the container's user alone.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Linux capabilities of the container, such as `["NET_BIND_SERVICE"]`. Default: none.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Most files that one process of the container may have open. Default: as the engine says.
    pub open_files: Option<i64>,
    /// What keeps the container from the machine's kernel: `"container"`, or `"gvisor"` for code that is not trusted (needs
    /// `runsc` on the server). Default: `"container"`.
    pub isolation: Option<String>,
    /// Repository with the code: `https://`, `ssh://`, `git@host:path`, `git://` or `file:///path`.
    /// Default: the repository that holds this file.
    pub git: Option<String>,
    /// Branch to deploy. It is resolved to one exact commit per deployment. At most one of `branch`,
    /// `tag` and `commit`. Default: what is checked out for the repository that holds this file,
    /// else the default branch of `git`.
    pub branch: Option<String>,
    /// Tag to deploy.
    pub tag: Option<String>,
    /// Commit to deploy: the full SHA.
    pub commit: Option<String>,
    /// Folder in which the build and run commands start. With `git` it is relative to the root of
    /// that repository, otherwise to this file. It cannot leave the repository.
    pub directory: Option<String>,
    /// Fetch git submodules too. Default: `false`.
    pub submodules: Option<bool>,
    /// Name of a stored credential for a private repository or registry (`mainstay credentials add`).
    pub credential: Option<String>,
    /// Command that makes the release, or a table with more settings. Run by `/bin/sh -c` in
    /// `directory`. Default: there is nothing to build.
    pub build: Option<Build>,
    /// Command that runs the service, by `/bin/sh -c` in `directory`. It should listen on the port
    /// in the environment variable `PORT`, on `127.0.0.1` or on every address. One of `run`, `static`
    /// and `image` is required.
    pub run: Option<String>,
    /// Folder of files to serve instead of running a command, relative to `directory`.
    #[serde(rename = "static")]
    pub static_files: Option<String>,
    /// Default: a free port is chosen and given in `PORT`. A number: the command always listens on
    /// this one; then only one replica is possible, and a new release starts after the old one has
    /// stopped. `false`: nothing listens (a worker). A container has its port for itself: several replicas may listen on the
    /// same one; its default is the port that the image exposes, if it is one, else 8080, and it is given in `PORT`.
    pub port: Option<Port>,
    /// How many instances run, 1 to 100. Default: 1, or what `mainstay scale` last asked for.
    #[schemars(range(min = 1, max = 100))]
    pub replicas: Option<i64>,
    /// Where the service is reached from outside: `"shop.example.com"`, `"shop.example.com/api"`, or
    /// `"/"` and `"/api"` for any host; a table; or a list of these. The longest path wins. Default:
    /// only `http://NAME.svc.internal` on the machine itself.
    pub route: Option<Routes>,
    /// How it is found out whether an instance is well: an HTTP path such as `"/healthz"`, or a table
    /// with more settings. Default: the port accepts connections; without a port, the process stays
    /// alive.
    pub health: Option<Health>,
    /// Most memory that one instance may use, such as `"512M"`. Default: no limit.
    pub memory: Option<SizeText>,
    /// Most processor time that one instance may use, in cores: `0.5` is half of one. Default: no limit.
    pub cpu: Option<f64>,
    /// Most processes and threads that one instance may have. Default: no limit.
    pub pids: Option<i64>,
    /// Environment variables for the build and for the run command. Numbers and booleans become their
    /// text. `mainstay env set` wins over what is written here, and is the place for secrets.
    /// `PORT` and `SERVICE_NAME_URL` are set by Mainstay.
    #[serde(default)]
    pub env: BTreeMap<String, EnvValue>,
    /// How a new release takes over from the old one.
    #[serde(default)]
    pub rollout: Rollout,
    /// How an instance is stopped.
    #[serde(default)]
    pub stop: Stop,
    /// How a process that exits is started again.
    #[serde(default)]
    pub restart: Restart,
}

/// A length of time with its unit: `"500ms"`, `"30s"`, `"5m"`, `"2h"`, or several: `"1m30s"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("format" = "duration"))]
#[serde(transparent)]
pub struct DurationText(pub String);

/// A size with its unit, in steps of 1024: `"64K"`, `"512M"`, `"2G"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("format" = "size"))]
#[serde(transparent)]
pub struct SizeText(pub String);

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Build {
    /// The command alone.
    Command(String),
    Table(BuildTable),
}

/// A build with more settings than its command.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildTable {
    /// The command. Required.
    pub command: Option<String>,
    /// The build is ended and the deployment fails after this time. Default: `"15m"`.
    pub timeout: Option<DurationText>,
    /// Most memory for the build. Default: no limit.
    pub memory: Option<SizeText>,
    /// Most processor time for the build, in cores. Default: no limit.
    pub cpu: Option<f64>,
    /// Most processes and threads of the build. Default: no limit.
    pub pids: Option<i64>,
    /// Folders that are kept from one build to the next, relative to `directory`: `["target"]`.
    #[serde(default)]
    pub cache: Vec<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum VolumeValue {
    /// The volume's name.
    Name(String),
    Table(VolumeTable),
}

/// A volume with more settings.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeTable {
    /// Its name. Required.
    pub volume: Option<String>,
    /// The container can only read it. Default: `false`.
    pub read_only: Option<bool>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Port {
    /// The command always listens on this port.
    Number(i64),
    /// `false`: nothing listens.
    Flag(bool),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Routes {
    /// Host and path: `"shop.example.com/api"`.
    Text(String),
    Table(RouteTable),
    /// Several of these.
    List(Vec<Route>),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Route {
    /// Host and path: `"shop.example.com/api"`.
    Text(String),
    Table(RouteTable),
}

/// A route with more settings.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTable {
    /// Host name, without scheme and port. Default: any host that no other route names.
    pub host: Option<String>,
    /// Path prefix; it matches whole segments. Default: `"/"`.
    pub path: Option<String>,
    /// Remove the prefix before the request reaches the service. Default: `false`.
    pub strip_prefix: Option<bool>,
    /// HTTPS for this host. `"auto"`: a certificate by itself, and plain HTTP leads to HTTPS once there is one.
    /// `"optional"`: a certificate by itself, and plain HTTP is served as well. `"off"`: neither. Default: `"auto"`.
    pub tls: Option<Tls>,
}

/// What a route wants of HTTPS.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    Auto,
    Optional,
    Off,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Health {
    /// Path of an HTTP check.
    Path(String),
    Table(HealthTable),
}

/// A health check with more settings. At most one of `http`, `tcp`, `command` and `image`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthTable {
    /// `GET` of this path on the instance's own port answers with a status from 200 to 399.
    pub http: Option<String>,
    /// `true`: the port accepts a connection.
    pub tcp: Option<bool>,
    /// This command exits with 0. It has the environment of the service; that of a container is run inside of it, by its
    /// `/bin/sh`.
    pub command: Option<String>,
    /// `true`: the check that the image brings itself (`HEALTHCHECK`).
    pub image: Option<bool>,
    /// Time between two checks. Default: `"5s"`.
    pub interval: Option<DurationText>,
    /// A check that takes longer has failed. Default: `"2s"`.
    pub timeout: Option<DurationText>,
    /// Good checks in a row until an instance counts as healthy. Default: 1.
    pub healthy_after: Option<i64>,
    /// Failed checks in a row until a healthy instance counts as unhealthy. Default: 3.
    pub unhealthy_after: Option<i64>,
    /// Failed checks within this time after the start are not counted. Default: `"1m"`.
    pub start_grace: Option<DurationText>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EnvValue {
    Text(String),
    Number(i64),
    Flag(bool),
}

/// How a new release takes over from the old one.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// The new release must be healthy within this time after its build, or the deployment fails and
    /// the old release keeps serving. Default: `"2m"`.
    pub healthy_within: Option<DurationText>,
    /// How long open requests of the old release may take to finish. Default: `"30s"`.
    pub drain: Option<DurationText>,
    /// If the new release breaks within this time after the switch, it is rolled back by itself.
    /// Default: `"30s"`.
    pub bake: Option<DurationText>,
    /// How long the old release stays started without traffic, so that a rollback is only a switch of
    /// routes. Default: `"5m"`.
    pub warm: Option<DurationText>,
}

/// How an instance is stopped.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Time between SIGTERM and SIGKILL. Default: `"10s"`.
    pub grace: Option<DurationText>,
}

/// How a process that exits is started again: after a wait that doubles from `backoff` to
/// `backoff_limit`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// First wait. Default: `"500ms"`.
    pub backoff: Option<DurationText>,
    /// Longest wait. Default: `"1m"`.
    pub backoff_limit: Option<DurationText>,
    /// The service is said to be crash-looping after this many exits within `crash_loop_window`. It is
    /// still started again. Default: 5.
    pub crash_loop_after: Option<i64>,
    /// Default: `"5m"`.
    pub crash_loop_window: Option<DurationText>,
}
