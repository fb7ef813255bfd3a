//! `mainstay down`: the end of `mainstay up --detach`.

use crate::answers::Stopped;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::running::{self, Running};
use crate::system;
use api::words::count;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long control plane and agent may take to end.
const END_LIMIT: Duration = Duration::from_secs(40);

/// Stop Mainstay on this machine, with its gateway and all its services
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Leave services and gateway running
    #[arg(long)]
    pub keep_services: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let data_dir = context.data_dir()?;
    let running = running::find(&data_dir);
    if let Some(running) = &running {
        end(&data_dir, running).await?;
    }
    let stopped = if options.keep_services || !data_dir.join("agent").is_dir() {
        None
    } else {
        Some(system::stop_everything(&data_dir).await?)
    };
    let services = stopped.as_ref().map_or(0, |stopped| stopped.instances);
    let gateway = stopped.as_ref().is_some_and(|stopped| stopped.gateway);
    let answer = Stopped { control_plane: running, instances: services, gateway };
    context.printer.either(&answer, |answer, printer| match (&answer.control_plane, services, gateway) {
        (None, 0, false) => printer.data(&format!("nothing of Mainstay runs on {}", data_dir.display())),
        _ => {
            let parts = [
                answer.control_plane.as_ref().map(|running| format!("Mainstay (pid {})", running.pid)),
                gateway.then(|| "the gateway".to_owned()),
                (services > 0).then(|| count(services, "instance")),
            ];
            printer.data(&format!("stopped {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
            printer.hint("They come back with the next `mainstay up`.");
        }
    });
    Ok(Exit::Ok)
}

async fn end(data_dir: &Path, running: &Running) -> Result<(), Failure> {
    if running.command != "up" {
        let failure = Failure::general(format!(
            "the control plane here (pid {}) was started with `mainstay {}`",
            running.pid, running.command
        ));
        return Err(failure.help("stop it where it was started; its service manager would start it again"));
    }
    let pid = i32::try_from(running.pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::general(format!("{} is not a process id", running.pid)))?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|errno| {
        Failure::general(format!("cannot stop Mainstay (pid {}): {}", running.pid, std::io::Error::from(errno)))
    })?;
    let deadline = Instant::now() + END_LIMIT;
    // The claim ends with the process, so its pid cannot be mistaken for another's.
    while running::find(data_dir).is_some_and(|now| now.pid == running.pid) {
        if Instant::now() >= deadline {
            let failure = Failure::new(
                Exit::TimedOut,
                format!("Mainstay (pid {}) did not end within {} s", running.pid, END_LIMIT.as_secs()),
            );
            return Err(failure.help(format!("look at its log, or end it: kill -9 {}", running.pid)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
