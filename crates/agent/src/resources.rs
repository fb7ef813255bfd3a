//! Use of the machine as a whole, from `/proc` and `statvfs`. What cannot be read is 0.

use api::observed::Resources;
use plan::disk::Space;
use std::fs;
use std::path::Path;

/// Reads `<proc>/loadavg` and `<proc>/meminfo` and the disk that `data` lies on.
pub fn read(proc: &Path, data: &Path) -> Resources {
    let meminfo = fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let loadavg = fs::read_to_string(proc.join("loadavg")).unwrap_or_default();
    let disk = space(data);
    Resources {
        cpu_count: cpu_count(),
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
    }

    #[test]
    fn a_machine_that_does_not_say_reads_as_zero() {
        let seen = read(Path::new("/nonexistent"), Path::new("/nonexistent"));
        assert_eq!((seen.memory_total_bytes, seen.disk_total_bytes), (0, 0));
    }
}
