//! The life of the process: alone on its directory, started, upgraded, stopped.

use crate::access_log;
use crate::config;
use crate::control;
use crate::core::{Gateway, Inherited};
use crate::dns::BoundDns;
use crate::handover::{self, Accepted, Offer, Role};
use crate::limits::Limits;
use crate::listeners::BoundListener;
use crate::shared::{Phase, Shared};
use anyhow::{Context, bail};
use api::gateway::GatewayConfig;
use mesh::userspace::PassedOn;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const LOCK: &str = "gateway.lock";
const CHORES_INTERVAL: Duration = Duration::from_secs(2);

/// How many connections are attended to before the kernel is asked for more that can be: all that it named the last
/// time. Asked sooner, more come than fit into a thread's own queue, and those that are moved out of it wait
/// twice as long as the others.
pub const TASKS_BETWEEN_EVENTS: u32 = 512;

/// Where a gateway lives and how it begins.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// Holds the control socket, the last config, the lock and the hand-over socket.
    pub directory: PathBuf,
    /// Take the listening sockets over from the gateway that runs on the same directory.
    pub take_over: bool,
}

/// Runs until SIGTERM, SIGINT, `POST /stop` or a hand-over; open requests are finished.
pub async fn run(options: GatewayOptions) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let on_signal = stop.clone();
    let signals = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing open requests"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing open requests"),
        }
        on_signal.cancel();
    });
    let result = run_until(options, Limits::default(), stop).await;
    signals.abort();
    result
}

/// What a gateway holds from its first moment on, fresh or passed on.
struct Belongings {
    lock: File,
    control: StdUnixListener,
    handover: StdUnixListener,
    config: Option<GatewayConfig>,
    inherited: Inherited,
    tunnel: Option<PassedOn>,
    accepted: Option<Accepted>,
}

/// Runs until `stop` or a hand-over.
pub async fn run_until(options: GatewayOptions, mut limits: Limits, stop: CancellationToken) -> anyhow::Result<()> {
    let directory = options.directory;
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    limits.connections = limits.connections.min(connections_possible());
    let belongings = gather(&directory, options.take_over).await?;

    let log_thread = access_log::start(&limits).context("cannot start the access log")?;
    let shared = Arc::new(Shared::new(limits, log_thread.log()));
    let gateway = Arc::new(Gateway::new(directory.clone(), shared.clone(), stop.clone()));
    if let Some(config) = belongings.config {
        gateway.resume(config, belongings.inherited).await;
    }
    if let Some(accepted) = belongings.accepted {
        let pid = accepted.offer.pid;
        let mesh = accepted.offer.mesh.clone();
        // Both processes accept now; if the old one does not answer it has ended, which is as good.
        if let Err(error) = tokio::task::spawn_blocking(move || accepted.ready()).await? {
            tracing::warn!(%error, pid, "the old gateway did not say that it stopped accepting");
        }
        gateway.mesh.adopt(mesh, belongings.tunnel).await;
        tracing::info!(pid, "took over from the old gateway");
    } else {
        gateway.mesh.resume().await;
    }
    write_pid(&belongings.lock);

    let control = Arc::new(UnixListener::from_std(belongings.control)?);
    let handover = Arc::new(UnixListener::from_std(belongings.handover)?);
    tracing::info!(directory = %directory.display(), pid = std::process::id(), "gateway is running");
    let end = attend(&gateway, &control, &handover, &belongings.lock, &stop).await;
    finish(&gateway, end, &directory, belongings.lock).await;
    tokio::task::spawn_blocking(move || log_thread.finish()).await?;
    Ok(())
}

/// Answers the two sockets and does the chores until it is time to go. All of it on the thread that
/// waits for the end, so that ten thousand routes are read beside the requests and not between them.
async fn attend(
    gateway: &Arc<Gateway>,
    control: &Arc<UnixListener>,
    handover: &Arc<UnixListener>,
    lock: &File,
    stop: &CancellationToken,
) -> Phase {
    let control_stop = CancellationToken::new();
    let until_end = async {
        let end = wait_for_end(gateway, control, handover, lock, stop, &control_stop).await;
        control_stop.cancel();
        end
    };
    tokio::join!(until_end, control::serve(gateway, control, &control_stop)).0
}

async fn wait_for_end(
    gateway: &Arc<Gateway>,
    control: &Arc<UnixListener>,
    handover: &Arc<UnixListener>,
    lock: &File,
    stop: &CancellationToken,
    control_stop: &CancellationToken,
) -> Phase {
    let mut chores = tokio::time::interval(CHORES_INTERVAL);
    chores.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Phase::Stopping,
            _ = chores.tick() => {
                gateway.bind_missing().await;
                gateway.sweep().await;
                gateway.mesh.mend().await;
            }
            asked = handover.accept() => match asked {
                Ok((stream, _)) => match hand_over(gateway, stream, control, handover, lock).await {
                    Ok(stream) => {
                        control_stop.cancel();
                        let mut state = gateway.lock().await;
                        for listener in std::mem::take(&mut state.listeners).into_values() {
                            listener.cease().await;
                        }
                        state.dns.clear();
                        drop(state);
                        gateway.mesh.cease().await;
                        let told = tokio::task::spawn_blocking(move || handover::done(&stream)).await;
                        if !matches!(told, Ok(Ok(()))) {
                            tracing::warn!("the new gateway was not told that this one stopped accepting");
                        }
                        return Phase::HandingOver;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a hand-over failed; this gateway goes on");
                        gateway.lock().await.frozen = false;
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the hand-over socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Sends everything to the new process; returns when it accepts.
async fn hand_over(
    gateway: &Arc<Gateway>,
    stream: tokio::net::UnixStream,
    control: &Arc<UnixListener>,
    handover: &Arc<UnixListener>,
    lock: &File,
) -> std::io::Result<std::os::unix::net::UnixStream> {
    let mut state = gateway.lock().await;
    state.frozen = true;
    // What is on disk belongs to the new process in a moment.
    state.settled().await;
    let mut roles = vec![Role::Lock, Role::Control, Role::Handover];
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
    let mut descriptors: Vec<OwnedFd> = vec![own(lock.as_fd())?, own(control.as_fd())?, own(handover.as_fd())?];
    for (address, listener) in &state.listeners {
        let kind = listener.identity.kind.load();
        roles.push(Role::Listener { address: *address, listener: kind.as_ref().clone() });
        descriptors.push(own(listener.as_fd())?);
    }
    for dns in state.dns.values() {
        let address = dns.configured();
        roles.extend([Role::DnsUdp { address }, Role::DnsTcp { address }]);
        let (udp, tcp) = dns.as_fds();
        descriptors.extend([own(udp)?, own(tcp)?]);
    }
    let (mesh, tunnel) = gateway.mesh.offer().await?;
    if let Some(PassedOn { tun, udp }) = tunnel {
        roles.extend([Role::MeshTun, Role::MeshUdp]);
        descriptors.extend([tun, udp]);
    }
    let offer = Offer { pid: std::process::id(), config: state.config.as_ref().clone(), mesh, roles };
    drop(state);
    let stream = stream.into_std()?;
    let sent = tokio::task::spawn_blocking(move || {
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        handover::offer(&stream, &offer, &borrowed).map(|()| stream)
    });
    sent.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
}

/// Lets what is open finish, within the time for it.
async fn finish(gateway: &Arc<Gateway>, end: Phase, directory: &Path, lock: File) {
    let shared = &gateway.shared;
    let mut state = gateway.lock().await;
    for listener in std::mem::take(&mut state.listeners).into_values() {
        listener.close(shared).await;
    }
    state.dns.clear();
    state.settled().await;
    drop(state);
    shared.enter(end);
    let time = if end == Phase::HandingOver {
        // The directory belongs to the new process.
        drop(lock);
        shared.limits.handover_time
    } else {
        for name in [control::SOCKET, handover::SOCKET] {
            // A socket file that stays behind is replaced by the next start.
            let _ = fs::remove_file(directory.join(name));
        }
        shared.limits.stop_time
    };
    shared.connections.close();
    if tokio::time::timeout(time, shared.connections.wait()).await.is_err() {
        let open = shared.connections.len();
        tracing::warn!(open, seconds = time.as_secs(), "connections were still open and are closed now");
        shared.abort.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(1), shared.connections.wait()).await;
    }
    if end == Phase::Stopping {
        // Last: requests that were open went through it.
        gateway.mesh.stop().await;
    }
    tracing::info!("gateway has ended");
}

/// Sockets, lock and config: from the gateway that runs, or fresh.
async fn gather(directory: &Path, take_over: bool) -> anyhow::Result<Belongings> {
    if take_over {
        let asked = directory.to_owned();
        let accepted = tokio::task::spawn_blocking(move || handover::request(&asked)).await?;
        match accepted.context("cannot take over from the running gateway; it goes on as before")? {
            Some(accepted) => return unpack(accepted),
            None => tracing::info!("no gateway runs here to take over from; starting afresh"),
        }
    }
    let lock = take_lock(directory)?;
    let socket = |name: &str| {
        let path = directory.join(name);
        control::bind_private(&path).with_context(|| {
            format!("cannot make the socket {} (its path may have at most 107 characters)", path.display())
        })
    };
    let config = match config::load(directory) {
        Ok(config) => config,
        Err(error) => {
            let path = directory.join(config::FILE);
            let aside = directory.join(format!("{}.unreadable", config::FILE));
            tracing::error!(path = %path.display(), aside = %aside.display(), %error,
                "the last config cannot be read and is put aside; waiting for the agent to send one");
            // If it cannot be moved it is overwritten by the next config, which is as good.
            let _ = fs::rename(&path, &aside);
            None
        }
    };
    let (control, handover) = (socket(control::SOCKET)?, socket(handover::SOCKET)?);
    Ok(Belongings { lock, control, handover, config, inherited: Inherited::default(), tunnel: None, accepted: None })
}

/// Gives each passed descriptor its role.
fn unpack(mut accepted: Accepted) -> anyhow::Result<Belongings> {
    let (mut lock, mut control, mut handover) = (None, None, None);
    let (mut udp, mut tcp) = (BTreeMap::new(), BTreeMap::new());
    let (mut mesh_tun, mut mesh_udp) = (None, None);
    let mut inherited = Inherited::default();
    let descriptors = std::mem::take(&mut accepted.descriptors);
    for (role, descriptor) in accepted.offer.roles.drain(..).zip(descriptors) {
        match role {
            Role::Lock => lock = Some(File::from(descriptor)),
            Role::Control => control = Some(StdUnixListener::from(descriptor)),
            Role::Handover => handover = Some(StdUnixListener::from(descriptor)),
            Role::Listener { address, listener } => {
                let bound = BoundListener::inherit(address, listener, descriptor.into())?;
                inherited.listeners.insert(address, bound);
            }
            Role::DnsUdp { address } => _ = udp.insert(address, descriptor),
            Role::DnsTcp { address } => _ = tcp.insert(address, descriptor),
            Role::MeshTun => mesh_tun = Some(descriptor),
            Role::MeshUdp => mesh_udp = Some(descriptor),
        }
    }
    for (address, udp) in udp {
        if let Some(tcp) = tcp.remove(&address) {
            inherited.dns.insert(address, BoundDns::inherit(address, udp.into(), tcp.into())?);
        }
    }
    let (Some(lock), Some(control), Some(handover)) = (lock, control, handover) else {
        bail!("the running gateway did not pass on all that a gateway needs; it goes on as before");
    };
    let config = Some(accepted.offer.config.clone());
    let tunnel = mesh_tun.zip(mesh_udp).map(|(tun, udp)| PassedOn { tun, udp });
    Ok(Belongings { lock, control, handover, config, inherited, tunnel, accepted: Some(accepted) })
}

/// One gateway per directory.
fn take_lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join(LOCK);
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.read_to_string(&mut pid);
            bail!(
                "a gateway already runs on {} (pid {}); stop it, or start this one with --take-over",
                directory.display(),
                pid.trim()
            );
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn write_pid(mut lock: &File) {
    let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::debug!(%error, "cannot note the pid in the lock file");
    }
}

/// How many clients there can be at once: each may hold two descriptors, its own and one to an
/// instance. The soft limit is raised first; it is usually 1024 for no reason of today.
fn connections_possible() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const OTHER_DESCRIPTORS: u64 = 128;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "cannot raise the limit of open files");
            limit.current
        }
    };
    let descriptors = current.unwrap_or(u64::MAX).saturating_sub(OTHER_DESCRIPTORS);
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX).max(16)
}
