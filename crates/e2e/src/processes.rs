//! What runs for a test, as the kernel tells it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The variable by which Mainstay marks the processes of an instance.
const INSTANCE_VARIABLE: &str = "MAINSTAY_INSTANCE=";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Pid and command line of every process whose command line or working directory is in the folder.
pub fn processes_of(folder: &Path) -> Vec<(u32, String)> {
    let text = folder.to_string_lossy();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let alive = !line.is_empty();
        if alive && (line.contains(&*text) || cwd.starts_with(folder)) {
            found.push((pid, line));
        }
    }
    found
}

/// The pids of each instance's processes.
pub fn instances_of(folder: &Path) -> BTreeMap<String, Vec<u32>> {
    let mut instances: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (pid, _) in processes_of(folder) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let marks = variables.filter_map(|v| v.strip_prefix(INSTANCE_VARIABLE).map(str::to_owned));
        for instance in marks {
            instances.entry(instance).or_default().push(pid);
        }
    }
    instances
}

/// State letter and parent of a process; `None` when there is none.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, also brackets.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

pub fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

/// Whether a process is over: what is left at most is an exit code that nobody has asked for. Its
/// sockets and files are closed by then, which the end of its first thread alone does not mean: the others
/// hold them until they have ended, too.
pub fn has_ended(pid: u32) -> bool {
    match stat(pid) {
        None | Some(('X', _)) => true,
        Some(('Z', _)) => std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1,
        Some(_) => false,
    }
}

/// Looks ten times a second whether any instance has two processes at once.
pub struct CopyWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl CopyWatch {
    pub fn start(folder: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (folder, ending) = (folder.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || watch(folder, &ending));
        Self { stop, thread }
    }

    /// Every sighting of a second copy.
    pub fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| vec!["the watch for second copies broke".into()])
    }
}

fn watch(folder: PathBuf, ending: &AtomicBool) -> Vec<String> {
    let mut sightings = Vec::new();
    while !ending.load(Ordering::Relaxed) && sightings.len() < 20 {
        for (instance, pids) in instances_of(&folder) {
            // /proc is not read in one moment: both must be there afterwards, too.
            let alive: Vec<u32> = pids.into_iter().filter(|pid| !has_ended(*pid)).collect();
            if alive.len() > 1 {
                sightings.push(format!("instance {instance} had the processes {alive:?} at once"));
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    sightings
}
