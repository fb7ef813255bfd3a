//! How an image is run.

use super::checker::Checker;
use crate::raw::{Service, VolumeValue};
use api::images::{ContainerSpec, ImageReference, ImageSource, Isolation, PullPolicy, VolumeMount};
use api::secret::Secret;
use api::services::{RunSpec, SourceSpec};
use std::collections::{BTreeMap, BTreeSet};

const PATHS_LIMIT: usize = 50;
const WORDS_LIMIT: usize = 1000;
const FILE_LIMIT_BYTES: usize = 512 * 1024;

/// Capabilities that lead out of a container, or to the machine's network, disks and kernel.
const DANGEROUS: [&str; 12] = [
    "ALL",
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PTRACE",
    "SYS_BOOT",
    "SYS_TIME",
    "DAC_READ_SEARCH",
    "NET_ADMIN",
    "BPF",
    "PERFMON",
    "MAC_ADMIN",
];
const KNOWN: [&str; 18] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "KILL",
    "LEASE",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "SYS_NICE",
    "SYS_RESOURCE",
];

/// Where the service comes from, and how it is run, if it comes from an image.
pub fn resolve(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> Option<(SourceSpec, RunSpec)> {
    refuse_what_is_of_git(check, field, raw);
    let source = source(check, field, raw);
    let at = |name: &str| format!("{field}.{name}");
    let spec = ContainerSpec {
        entrypoint: words(check, &at("entrypoint"), raw.entrypoint.as_deref()),
        command: words(check, &at("command"), raw.command.as_deref()),
        user: user(check, &at("user"), raw.user.as_deref()),
        read_only: raw.read_only.unwrap_or(false),
        tmpfs: tmpfs(check, &at("tmpfs"), raw),
        volumes: volumes(check, &at("volumes"), raw),
        files: files(check, &at("files"), raw),
        capabilities: capabilities(check, &at("capabilities"), &raw.capabilities),
        open_files: check.count(&at("open_files"), raw.open_files, 64..=1_048_576).map(u64::from),
        isolation: isolation(check, &at("isolation"), raw.isolation.as_deref()),
    };
    refuse_shared_paths(check, field, &spec);
    Some((SourceSpec::Image(source?), RunSpec::Container(spec)))
}

/// The other way round: a service that is built from a repository has no container to say these things of.
pub fn refuse_what_is_of_images(check: &mut Checker<'_, '_>, field: &str, raw: &Service) {
    let written = [
        ("pull", raw.pull.is_some()),
        ("entrypoint", raw.entrypoint.is_some()),
        ("command", raw.command.is_some()),
        ("user", raw.user.is_some()),
        ("read_only", raw.read_only.is_some()),
        ("tmpfs", !raw.tmpfs.is_empty()),
        ("volumes", !raw.volumes.is_empty()),
        ("files", !raw.files.is_empty()),
        ("capabilities", !raw.capabilities.is_empty()),
        ("open_files", raw.open_files.is_some()),
        ("isolation", raw.isolation.is_some()),
    ];
    for (name, _) in written.into_iter().filter(|(_, is_written)| *is_written) {
        let help = match name {
            "command" => "write the command that runs the service as `run`, or name an `image`",
            _ => "leave it out, or name an `image`",
        };
        let message = format!("`{name}` is for services that come from an `image`");
        check.fail(&format!("{field}.{name}"), message, Some(help.into()));
    }
}

fn refuse_what_is_of_git(check: &mut Checker<'_, '_>, field: &str, raw: &Service) {
    let written = [
        ("git", raw.git.is_some()),
        ("branch", raw.branch.is_some()),
        ("tag", raw.tag.is_some()),
        ("commit", raw.commit.is_some()),
        ("directory", raw.directory.is_some()),
        ("submodules", raw.submodules.is_some()),
        ("build", raw.build.is_some()),
        ("run", raw.run.is_some()),
        ("static", raw.static_files.is_some()),
    ];
    for (name, _) in written.into_iter().filter(|(_, is_written)| *is_written) {
        let help = match name {
            "tag" => "write it with the image: `image = \"name:tag\"`",
            "run" => "write it as `command`, a list of words: `command = [\"serve\", \"--all\"]`; or leave `image` out",
            "build" => "an image is built elsewhere and pushed to a registry; leave out one of the two",
            _ => "leave out one of the two",
        };
        let message =
            format!("`image` and `{name}` are both given: a service comes from an image or from a repository");
        check.fail(&format!("{field}.{name}"), message, Some(help.into()));
    }
}

fn source(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> Option<ImageSource> {
    let credential = raw.credential.as_ref().and_then(|text| check.name(&format!("{field}.credential"), text));
    let pull = match raw.pull.as_deref() {
        None | Some("missing") => PullPolicy::Missing,
        Some("always") => PullPolicy::Always,
        Some("never") => PullPolicy::Never,
        Some(other) => {
            let help = "write \"missing\" (if the server lacks it), \"always\" or \"never\"";
            check.fail(&format!("{field}.pull"), unknown(other, "a time to pull an image"), Some(help.into()));
            PullPolicy::Missing
        }
    };
    let text = raw.image.as_deref()?;
    match text.parse::<ImageReference>() {
        Ok(image) => Some(ImageSource { image, pull, credential }),
        Err(error) => {
            let said = error.to_string();
            let (message, help) = said.rsplit_once("; ").unwrap_or((&said, "write it as `nginx:1.27`"));
            check.fail(&format!("{field}.image"), message.to_owned(), Some(help.to_owned()));
            None
        }
    }
}

fn unknown(text: &str, what: &str) -> String {
    format!("`{}` is not {what}", text.chars().take(80).collect::<String>().escape_debug())
}

fn words(check: &mut Checker<'_, '_>, field: &str, words: Option<&[String]>) -> Option<Vec<String>> {
    let words = words?;
    if words.is_empty() || words[0].is_empty() {
        check.fail(
            field,
            "there is no program in it".into(),
            Some("write `[\"serve\", \"--port\", \"8080\"]`, or leave it out".into()),
        );
    } else if words.len() > WORDS_LIMIT || words.iter().any(|word| word.contains('\0')) {
        let message =
            format!("it has more than {WORDS_LIMIT} words, or one with a NUL character, which no program can be given");
        check.fail(field, message, Some("put what is long into a file of the image".into()));
    }
    Some(words.to_vec())
}

/// `1000`, `app`, `app:app`
fn user(check: &mut Checker<'_, '_>, field: &str, text: Option<&str>) -> Option<String> {
    let text = text?;
    let is_name = |name: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        (1..=64).contains(&name.len()) && name.chars().all(inner) && !name.starts_with('-')
    };
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if !is_name(user) || !group.is_none_or(is_name) {
        let help = "write a name or number, with a group if needed: \"app\", \"1000:1000\"";
        check.fail(field, unknown(text, "a user of a container"), Some(help.into()));
        return None;
    }
    Some(text.to_owned())
}

/// An absolute path in the container, without anything that an engine could read as more than a path.
fn path(check: &mut Checker<'_, '_>, field: &str, text: &str) -> Option<String> {
    let problem = match text {
        _ if !text.starts_with('/') => "it must begin with `/`",
        _ if text.len() > 1024 => "it may have at most 1024 characters",
        _ if text.chars().any(|c| c.is_control() || matches!(c, ':' | ',' | '\\')) => {
            "colons, commas, backslashes and control characters cannot be in it"
        }
        _ if text.split('/').any(|part| matches!(part, "." | "..")) => "it holds `.` or `..`",
        _ if ["/", "/proc", "/sys", "/dev"].contains(&text.trim_end_matches('/')) || text == "/" => {
            "a container needs what is there"
        }
        _ => return Some(text.trim_end_matches('/').to_owned()),
    };
    let help = "write an absolute path such as \"/var/lib/app\"";
    check.fail(field, format!("{}: {problem}", unknown(text, "a usable path")), Some(help.into()));
    None
}

fn is_too_many(check: &mut Checker<'_, '_>, field: &str, count: usize) -> bool {
    if count > PATHS_LIMIT {
        check.fail(field, format!("{count} paths; there may be {PATHS_LIMIT}"), None);
    }
    count > PATHS_LIMIT
}

fn tmpfs(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> BTreeMap<String, Option<u64>> {
    let mut found = BTreeMap::new();
    if is_too_many(check, field, raw.tmpfs.len()) {
        return found;
    }
    for (text, size) in &raw.tmpfs {
        let field = format!("{field}.{text}");
        let bytes = check.size(&field, Some(size), 4096..=(64 << 40));
        if let Some(path) = path(check, &field, text) {
            found.insert(path, bytes);
        }
    }
    found
}

fn volumes(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> BTreeMap<String, VolumeMount> {
    let mut found = BTreeMap::new();
    if is_too_many(check, field, raw.volumes.len()) {
        return found;
    }
    for (text, value) in &raw.volumes {
        let field = format!("{field}.{text}");
        let (name, read_only, name_field) = match value {
            VolumeValue::Name(name) => (Some(name), false, field.clone()),
            VolumeValue::Table(table) => {
                (table.volume.as_ref(), table.read_only.unwrap_or(false), format!("{field}.volume"))
            }
        };
        let Some(name) = name else {
            check.missing::<()>(&name_field, "the volume has no name", "write `volume = \"data\"`");
            continue;
        };
        if name.starts_with(['/', '.', '~']) {
            let help = "name a volume, such as \"data\": it is made when it is first needed, and kept";
            check.fail(&name_field, "folders of the machine cannot be mounted".into(), Some(help.into()));
            continue;
        }
        let (path, volume) = (path(check, &field, text), check.name(&name_field, name));
        if let (Some(path), Some(volume)) = (path, volume) {
            found.insert(path, VolumeMount { volume, read_only });
        }
    }
    found
}

fn files(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> BTreeMap<String, Secret> {
    let mut found = BTreeMap::new();
    if is_too_many(check, field, raw.files.len()) {
        return found;
    }
    for (text, content) in &raw.files {
        let field = format!("{field}.{text}");
        if content.len() > FILE_LIMIT_BYTES {
            // The content may be secret and is never repeated.
            check.fail(
                &field,
                "the file has more than 512 KiB".into(),
                Some("put what is large into the image".into()),
            );
        } else if let Some(path) = path(check, &field, text) {
            found.insert(path, Secret::new(content.clone()));
        }
    }
    found
}

fn capabilities(check: &mut Checker<'_, '_>, field: &str, raw: &[String]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (index, text) in raw.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if DANGEROUS.contains(&name) {
            let message = format!("`{name}` would give the container power over the machine");
            check.fail(&field, message, Some("run what needs it outside of Mainstay".into()));
        } else if KNOWN.contains(&name) {
            found.insert(name.to_owned());
        } else {
            let help = format!("it is one of {}", KNOWN.join(", "));
            check.fail(&field, unknown(text, "a capability that can be given"), Some(help));
        }
    }
    found.into_iter().collect()
}

fn isolation(check: &mut Checker<'_, '_>, field: &str, text: Option<&str>) -> Isolation {
    match text {
        None | Some("container") => Isolation::Container,
        Some("gvisor") => Isolation::Gvisor,
        Some(other) => {
            let help = "write \"container\" or \"gvisor\"";
            check.fail(field, unknown(other, "a kind of isolation"), Some(help.into()));
            Isolation::Container
        }
    }
}

fn refuse_shared_paths(check: &mut Checker<'_, '_>, field: &str, spec: &ContainerSpec) {
    let mut takers: BTreeMap<&String, &str> = BTreeMap::new();
    let all = [
        ("tmpfs", spec.tmpfs.keys().collect::<Vec<_>>()),
        ("volumes", spec.volumes.keys().collect()),
        ("files", spec.files.keys().collect()),
    ];
    for (kind, paths) in all {
        for path in paths {
            if let Some(other) = takers.insert(path, kind) {
                let message = format!("`{path}` is also in `{other}`");
                check.fail(&format!("{field}.{kind}.{path}"), message, Some("keep one of the two".into()));
            }
        }
    }
}
