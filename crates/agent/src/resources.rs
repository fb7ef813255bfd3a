//! Use of the machine as a whole, from `/proc` and `statvfs`. What cannot be read is 0, or absent.

use api::observed::{CpuTime, Resources};
use plan::disk::Space;
use std::fs;
use std::path::Path;

/// `/proc` counts CPU time in units of `USER_HZ`, which is 100 on every Linux that Rust supports.
pub const TICKS_PER_SECOND: u64 = 100;

/// Reads `<proc>/stat`, `<proc>/loadavg` and `<proc>/meminfo` and the disk that `data` lies on.
pub fn read(proc: &Path, data: &Path) -> Resources {
    let meminfo = fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let loadavg = fs::read_to_string(proc.join("loadavg")).unwrap_or_default();
    let disk = space(data);
    Resources {
        cpu_count: cpu_count(),
        cpu: fs::read_to_string(proc.join("stat")).ok().and_then(|stat| cpu_time(&stat)),
        load_1m: loadavg.split_ascii_whitespace().next().and_then(|t| t.parse().ok()).unwrap_or(0.0),
        memory_total_bytes: meminfo_bytes(&meminfo, "MemTotal:"),
        memory_available_bytes: meminfo_bytes(&meminfo, "MemAvailable:"),
        disk_total_bytes: disk.total_bytes,
        disk_available_bytes: disk.available_bytes,
        ..Resources::default()
    }
}

pub fn cpu_count() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// The first line of `/proc/stat`: user, nice, system, idle, waiting for a disk, interrupts, soft interrupts and
/// taken by the hypervisor, of all processors together. What guests used is in user already.
fn cpu_time(stat: &str) -> Option<CpuTime> {
    const IDLE: [usize; 2] = [3, 4];
    const COUNTED: usize = 8;
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields.split_ascii_whitespace().take(COUNTED).map_while(|t| t.parse().ok()).collect();
    let total: u64 = ticks.iter().fold(0, |sum, ticks| sum.saturating_add(*ticks));
    let idle: u64 = IDLE.iter().filter_map(|field| ticks.get(*field)).sum();
    let milliseconds = |ticks: u64| ticks.saturating_mul(1000 / TICKS_PER_SECOND);
    (ticks.len() > IDLE[0])
        .then(|| CpuTime { busy_ms: milliseconds(total.saturating_sub(idle)), total_ms: milliseconds(total) })
}

pub fn meminfo_bytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find(|line| line.starts_with(key));
    let kilobytes = line.and_then(|line| line.split_ascii_whitespace().nth(1)).and_then(|t| t.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Of the disk that a path lies on, as far as an ordinary user may fill it.
pub fn space(path: &Path) -> Space {
    let counted = rustix::fs::statvfs(path);
    counted.map_or_else(|_| Space::default(), |stat| Space::of_blocks(stat.f_blocks, stat.f_bavail, stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_load_and_disk_of_this_machine_are_plausible() {
        let seen = read(Path::new("/proc"), Path::new("/"));
        assert!(seen.memory_total_bytes > seen.memory_available_bytes && seen.memory_available_bytes > 0);
        assert!(seen.disk_total_bytes >= seen.disk_available_bytes && seen.disk_total_bytes > 0);
        assert!(seen.cpu_count > 0);
        let cpu = seen.cpu.unwrap();
        assert!(cpu.total_ms > cpu.busy_ms && cpu.busy_ms > 0, "{cpu:?}");
    }

    #[test]
    fn processors_are_busy_with_all_but_idling_and_waiting_for_a_disk() {
        let text = "cpu  10 20 30 400 40 1 2 3 9 9\ncpu0 5 10 15 200 20 0 1 1 0 0\n";
        assert_eq!(cpu_time(text), Some(CpuTime { busy_ms: 660, total_ms: 5_060 }));
        assert_eq!(cpu_time("cpu  10 20 30 400"), Some(CpuTime { busy_ms: 600, total_ms: 4_600 }));
        for strange in ["", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 x 4 5 6 7 8"] {
            assert_eq!(cpu_time(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_machine_that_does_not_say_reads_as_zero() {
        let seen = read(Path::new("/nonexistent"), Path::new("/nonexistent"));
        assert_eq!((seen.memory_total_bytes, seen.disk_total_bytes), (0, 0));
    }
}
