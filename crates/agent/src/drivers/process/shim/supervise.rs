//! The supervisor's states and its loop.
//!
//! ```text
//!   Starting ──▶ Running ──exit──▶ Waiting ──time──▶ Running
//!                   │                 │
//!                   └──stop──▶ Stopping ──all gone──▶ Stopped
//! ```

use super::super::cgroup::{Group, kill_owned};
use super::super::procfs::{self, Marks};
use super::super::spawn::spawn_contained;
use super::super::spec::{
    CONTROL_SOCKET, INSTANCE_VARIABLE, InstanceSpec, InstanceStatus, LOG_DIRECTORY, Phase, STATUS_FILE,
};
use super::control::Control;
use crate::clock::now_ms;
use crate::drivers::files::{Durability, read_json, write_json};
use crate::drivers::log::{LineSplitter, LogWriter};
use crate::drivers::restart::RestartPolicy;
use api::logs::LogStream;
use api::observed::ExitStatus;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How often it is looked whether what is left of a stopping instance went by itself.
const LEFTOVERS_INTERVAL: Duration = Duration::from_millis(20);

pub struct Supervisor {
    spec: InstanceSpec,
    status: InstanceStatus,
    log: LogWriter,
    control: Control,
    child: Option<Running>,
    policy: RestartPolicy,
    begun: Instant,
    /// When to start again.
    start_at: Option<Instant>,
    stop: Option<Stopping>,
    chld: UnixStream,
    term: UnixStream,
    out_of_memory_kills: u64,
    _lock: File,
    _claim: Option<UnixListener>,
}

struct Running {
    pid: Pid,
    /// It was reaped; its pipes stay open while what it started still finishes.
    ended: bool,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
}

struct Stopping {
    kill_at: Instant,
    killed: bool,
}

/// One pipe of the process; `None` after its end.
struct Output<P> {
    pipe: Option<P>,
    stream: LogStream,
    splitter: LineSplitter,
}

impl Supervisor {
    pub fn begin(spec: InstanceSpec, lock: File, claim: Option<UnixListener>) -> Result<Self, String> {
        let log =
            LogWriter::open(Path::new(LOG_DIRECTORY), spec.log).map_err(|e| format!("could not open the log: {e}"))?;
        let control = Control::bind().map_err(|e| format!("could not open the control socket: {e}"))?;
        let chld = signal_pipe(SIGCHLD)?;
        let term = signal_pipe(SIGTERM)?;
        signal_hook::low_level::pipe::register(SIGINT, term.try_clone().map_err(|e| e.to_string())?)
            .map_err(|e| format!("could not listen to signals: {e}"))?;
        let supervisor = procfs::identity(std::process::id()).ok_or("could not read /proc/self")?;
        let before: Option<InstanceStatus> = read_json(Path::new(STATUS_FILE)).unwrap_or(None);
        let status = InstanceStatus {
            phase: Phase::Starting,
            supervisor,
            process: None,
            started_at_ms: None,
            // A supervisor that takes over counts on: its predecessor was killed or the machine restarted.
            restarts: before
                .as_ref()
                .filter(|status| status.phase != Phase::Stopped)
                .map_or(0, |status| status.restarts + 1),
            crash_looping: false,
            // An end that was asked for says nothing about how well it runs.
            last_exit: before.filter(|status| status.phase != Phase::Stopped).and_then(|status| status.last_exit),
            retry_at_ms: None,
            problem: None,
        };
        let mut this = Self {
            spec,
            status,
            log,
            control,
            child: None,
            policy: RestartPolicy::default(),
            begun: Instant::now(),
            start_at: None,
            stop: None,
            chld,
            term,
            out_of_memory_kills: 0,
            _lock: lock,
            _claim: claim,
        };
        if let Some(group) = &this.spec.cgroup {
            for problem in group.create(&this.spec.limits) {
                this.log.note(&problem);
            }
        }
        this.start();
        Ok(this)
    }

    /// Until the instance is stopped.
    pub fn run(&mut self) {
        while self.status.phase != Phase::Stopped {
            self.wait();
            self.control.accept();
            for grace_ms in self.control.exchange(&self.status) {
                self.begin_stop(grace_ms);
            }
            if drained(&mut self.term) {
                self.log.note("the supervisor was told to end");
                self.begin_stop(self.spec.stop_grace_ms);
            }
            self.read_output();
            drained(&mut self.chld);
            self.reap();
            self.turn();
        }
        // Those who watch learn of it by the closed connection, and read the final status from the file.
        let _ = std::fs::remove_file(CONTROL_SOCKET);
    }

    /// Sleep until something happens or is due.
    fn wait(&self) {
        let due = match (&self.stop, self.start_at) {
            (Some(_), _) => Some(Instant::now() + LEFTOVERS_INTERVAL),
            (None, Some(at)) => Some(at),
            // A crash loop is over when nothing happened for a while: somebody has to notice.
            (None, None) if self.status.crash_looping => Some(Instant::now() + Duration::from_secs(5)),
            (None, None) => None,
        };
        let timeout = due.map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
        });
        let mut fds = vec![
            PollFd::new(&self.chld, PollFlags::IN),
            PollFd::new(&self.term, PollFlags::IN),
            PollFd::from_borrowed_fd(self.control.listener(), PollFlags::IN),
        ];
        for (client, writes) in self.control.clients() {
            let flags = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::from_borrowed_fd(client, flags));
        }
        if let Some(child) = &self.child {
            let pipes = [child.stdout.descriptor(), child.stderr.descriptor()];
            fds.extend(pipes.into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Nothing sensible is left to wait on; do not spin.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }

    /// Since this supervisor began, whatever the clock is set to.
    fn passed_ms(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// What is due by time and state.
    fn turn(&mut self) {
        if self.stop.is_some() {
            self.advance_stop();
        } else if self.start_at.is_some_and(|at| Instant::now() >= at) {
            self.start_at = None;
            self.status.restarts = self.status.restarts.saturating_add(1);
            self.start();
        } else if self.status.crash_looping && self.policy.recovered(&self.spec.restart, self.passed_ms()) {
            self.status.crash_looping = false;
            self.publish();
        }
    }

    fn start(&mut self) {
        self.out_of_memory_kills = self.spec.cgroup.as_ref().map_or(0, Group::out_of_memory_kills);
        self.status.retry_at_ms = None;
        match self.spawn() {
            Ok(running) => {
                let pid = running.pid.as_raw_nonzero().get().cast_unsigned();
                self.status.phase = Phase::Running;
                self.status.process = procfs::identity(pid);
                self.status.started_at_ms = Some(now_ms());
                self.status.problem = None;
                self.child = Some(running);
                self.log.note(&format!("started with pid {pid}"));
                self.publish();
            }
            Err(problem) => {
                self.log.note(&problem);
                self.status.problem = Some(problem);
                self.schedule();
            }
        }
    }

    fn spawn(&self) -> Result<Running, String> {
        let (program, arguments) = self.spec.command.split_first().ok_or("the command is empty")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.spec.env.iter().map(|(name, value)| (name, value.expose())))
            .env(INSTANCE_VARIABLE, self.spec.instance_id.as_str())
            .current_dir(&self.spec.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn_contained(command, self.spec.cgroup.as_ref()).map_err(|error| {
            format!("`{}` could not be started in {}: {error}", program, self.spec.directory.display())
        })?;
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or("the process has no id")?;
        let stdout = child.stdout.take().map(|pipe| Output::new(pipe, LogStream::Stdout)).ok_or("no stdout")?;
        let stderr = child.stderr.take().map(|pipe| Output::new(pipe, LogStream::Stderr)).ok_or("no stderr")?;
        // Reaped below with all other children, so `Child` has nothing more to do.
        Ok(Running { pid, ended: false, stdout, stderr })
    }

    fn read_output(&mut self) {
        if let Some(child) = &mut self.child {
            child.stdout.read(&mut self.log);
            child.stderr.read(&mut self.log);
        }
    }

    /// Collect every child that ended: the command and what was left to us by it.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if self.child.as_ref().is_some_and(|child| child.pid == pid && !child.ended) {
                self.ended(status);
            }
        }
    }

    fn ended(&mut self, status: WaitStatus) {
        let kills = self.spec.cgroup.as_ref().map_or(0, Group::out_of_memory_kills);
        let exit = ExitStatus {
            code: status.exit_status(),
            signal: status.terminating_signal(),
            out_of_memory: kills > self.out_of_memory_kills,
            at_ms: now_ms(),
        };
        self.status.last_exit = Some(exit.clone());
        if let Some(child) = self.child.as_mut().filter(|_| self.stop.is_some()) {
            child.ended = true;
            self.log.note(&exit.describe());
            return;
        }
        // A second copy must not be started beside what the first one left behind.
        self.kill_everything();
        self.close_output();
        self.log.note(&exit.describe());
        self.schedule();
    }

    /// Everything of the process is gone; what it printed last is still in the pipes.
    fn close_output(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stdout.finish(&mut self.log);
            child.stderr.finish(&mut self.log);
        }
    }

    /// Wait for the next start.
    fn schedule(&mut self) {
        let verdict = self.policy.ended(&self.spec.restart, self.passed_ms(), fastrand::f64());
        let wait = Duration::from_millis(verdict.wait_ms);
        self.start_at = Some(Instant::now() + wait);
        self.status.phase = Phase::Waiting;
        self.status.crash_looping = verdict.crash_looping;
        self.status.retry_at_ms = Some(now_ms().saturating_add(i64::try_from(verdict.wait_ms).unwrap_or(i64::MAX)));
        self.log.note(&format!("starting again in {:.1} s", wait.as_secs_f64()));
        self.publish();
    }

    /// Politely first: to the process group, and to those that left it.
    fn begin_stop(&mut self, grace_ms: u64) {
        let kill_at = Instant::now() + Duration::from_millis(grace_ms);
        if let Some(stop) = &mut self.stop {
            // Asked again: whoever is less patient wins.
            stop.kill_at = stop.kill_at.min(kill_at);
            return;
        }
        self.stop = Some(Stopping { kill_at, killed: false });
        self.start_at = None;
        self.status.phase = Phase::Stopping;
        self.status.retry_at_ms = None;
        self.log.note(&format!("stopping: SIGTERM, and SIGKILL after {:.1} s", grace_ms as f64 / 1000.0));
        self.publish();
        if let Some(child) = &self.child {
            let _ = kill_process_group(child.pid, Signal::TERM);
        }
        let group = self.child.as_ref().map(|child| child.pid.as_raw_nonzero().get().cast_unsigned());
        for stat in self.owned().into_iter().filter(|stat| Some(stat.group) != group) {
            if let Some(pid) = Pid::from_raw(stat.pid.cast_signed()) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }

    /// The command may end before what it started does (a shell dies at once while the server under
    /// it finishes its requests), so it is everything that is waited for.
    fn advance_stop(&mut self) {
        let Some(stop) = &mut self.stop else { return };
        let patience_over = Instant::now() >= stop.kill_at;
        if patience_over && !stop.killed {
            stop.killed = true;
            if !self.owned().is_empty() {
                self.log.note("the grace time is over: SIGKILL");
            }
            self.kill_everything();
            self.reap();
        }
        if self.child.as_ref().is_none_or(|child| child.ended) && self.owned().is_empty() {
            self.close_output();
            self.finish();
        } else if patience_over {
            self.kill_everything();
        }
    }

    fn finish(&mut self) {
        if let Some(group) = &self.spec.cgroup {
            group.remove();
        }
        self.status.phase = Phase::Stopped;
        self.status.crash_looping = false;
        self.log.note("stopped");
        self.publish();
    }

    fn marks(&self) -> Marks<'_> {
        Marks {
            variable: Some((INSTANCE_VARIABLE, self.spec.instance_id.as_str())),
            session: self.status.process.as_ref(),
            ancestor: Some(std::process::id()),
            also: Vec::new(),
        }
    }

    fn owned(&self) -> Vec<procfs::Stat> {
        let also = self.spec.cgroup.as_ref().map(Group::pids).unwrap_or_default();
        procfs::owned(&Marks { also, ..self.marks() })
    }

    fn kill_everything(&mut self) {
        if let Err(left) = kill_owned(&self.marks(), self.spec.cgroup.as_ref(), || {}) {
            self.log.note(&format!("these processes do not end even on SIGKILL: {left:?}"));
        }
    }

    /// Write the status down, then tell it.
    fn publish(&mut self) {
        if let Err(error) = write_json(Path::new(STATUS_FILE), &self.status, Durability::Renamed) {
            self.log.note(&format!("the status could not be written: {error}"));
        }
        self.control.publish(&self.status);
    }
}

impl<P: Read + AsFd> Output<P> {
    fn new(pipe: P, stream: LogStream) -> Self {
        if let Ok(flags) = rustix::fs::fcntl_getfl(&pipe) {
            let _ = rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK);
        }
        Self { pipe: Some(pipe), stream, splitter: LineSplitter::default() }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Some of what is there. Bounded, so that a process that prints without end does not keep the
    /// loop from hearing a stop.
    fn read(&mut self, log: &mut LogWriter) {
        const TURN_BYTES: usize = 256 * 1024;
        let mut buffer = [0; 16 * 1024];
        let mut taken = 0;
        while taken < TURN_BYTES {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.pipe = None;
                    self.splitter.finish(|line| log.line(self.stream, line));
                }
                Ok(count) => {
                    taken += count;
                    self.splitter.push(&buffer[..count], |line| log.line(self.stream, line));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// The process ended: take what is left, then let the pipe go.
    fn finish(&mut self, log: &mut LogWriter) {
        self.read(log);
        self.splitter.finish(|line| log.line(self.stream, line));
        self.pipe = None;
    }
}

/// A stream that becomes readable when the signal came.
fn signal_pipe(signal: i32) -> Result<UnixStream, String> {
    let failed = |error: std::io::Error| format!("could not listen to signals: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    signal_hook::low_level::pipe::register(signal, theirs).map_err(failed)?;
    Ok(ours)
}

/// Empty a signal's stream; answers whether there was anything.
fn drained(stream: &mut UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut any = false;
    while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {
        any = true;
    }
    any
}
