//! What other platforms call it.

/// Words that other platforms use for a field of ours.
pub fn synonym(written: &str) -> Option<&'static str> {
    Some(match written.to_ascii_lowercase().as_str() {
        "command" | "cmd" | "start" | "entrypoint" | "start_command" => "run",
        "repo" | "repository" | "url" | "source" => "git",
        "ref" | "rev" | "revision" => "branch",
        "dir" | "root" | "path" | "workdir" | "working_directory" => "directory",
        "domain" | "domains" | "host" | "hostname" | "hosts" => "route",
        "environment" | "variables" | "vars" => "env",
        "instances" | "scale" | "count" => "replicas",
        "healthcheck" | "health_check" | "check" => "health",
        "mem" | "ram" | "memory_limit" => "memory",
        "cpus" | "cores" => "cpu",
        "processes" | "tasks" => "pids",
        "public" | "files" | "static_dir" => "static",
        "deploy" => "rollout",
        _ => return None,
    })
}
