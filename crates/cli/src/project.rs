//! What is deployed: a manifest (read or worked out), and the exact source that goes with it.
//!
//! Mainstay deploys commits, not folders. On a control plane on this very machine the source is the
//! repository here, at HEAD; on one elsewhere it is `origin` at the branch that is checked out,
//! because nobody else can read this disk. Either way what is *not* deployed (changes that are not
//! committed or not pushed) is said aloud.

use crate::exit::{Failure, SourceText};
use crate::worktree::{self, Repository};
use api::plans::{DefaultSource, PlanRequest};
use api::services::{GitRef, GitUrl};
use api::tokens::Info;
use client::Client;
use manifest::detect::Folder;
use std::path::{Path, PathBuf};

/// A manifest and where its code comes from.
#[derive(Debug)]
pub struct Project {
    pub manifest: SourceText,
    pub source: Option<DefaultSource>,
    /// What was seen, when there is no manifest file.
    pub detected: Option<manifest::Detection>,
    pub warnings: Vec<String>,
}

impl Project {
    pub fn plan_request(&self) -> PlanRequest {
        PlanRequest {
            manifest: self.manifest.text.clone(),
            manifest_path: Some(self.manifest.path.clone()),
            default_source: self.source.clone(),
        }
    }

    /// An error of the control plane, shown in the text it is about.
    pub fn explain(&self, error: client::ClientError) -> Failure {
        Failure::from(error).about(self.manifest.clone())
    }
}

/// Where the source may come from, seen from the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// It reads this machine's disk.
    Local,
    /// It is on this machine, but was not told that it may.
    Forbidden,
    Remote,
}

/// Loads what `PATH` or a git address names, for one control plane.
pub async fn load(target: &str, client: &Client) -> Result<Project, Failure> {
    let info: Info = client.info().await?;
    let reach = match (client.is_loopback(), info.local_sources) {
        (true, true) => Reach::Local,
        (true, false) => Reach::Forbidden,
        (false, _) => Reach::Remote,
    };
    if looks_like_address(target) { load_address(target).await } else { load_folder(Path::new(target), reach).await }
}

/// Whether a folder of this machine could be deployed to a control plane on it: a manifest that can be
/// read, and a commit. Nothing is started or asked for it.
pub async fn check(folder: &Path) -> Result<(), Failure> {
    let project = load_folder(folder, Reach::Local).await?;
    manifest::parse(&project.manifest.text, project.source.as_ref()).map(|_| ()).map_err(|errors| {
        let error: api::error::ApiError = errors.into();
        Failure::from(error).about(project.manifest)
    })
}

/// Whether there is something at a path that could be deployed: a manifest, or a project that is recognised.
pub fn is_deployable(folder: &Path) -> bool {
    folder.join(manifest::FILE_NAME).is_file() || manifest::detect(&Folder::new(folder)).is_ok()
}

pub fn looks_like_address(target: &str) -> bool {
    let scp_like = target
        .split_once(':')
        .is_some_and(|(host, path)| host.contains('@') && !host.contains('/') && !path.is_empty());
    (target.contains("://") || scp_like || target.contains("::")) && !Path::new(target).exists()
}

/// The manifest of a folder: its `mainstay.toml`, or one worked out from what is there.
pub fn read_manifest(folder: &Path) -> Result<(SourceText, Option<manifest::Detection>), Failure> {
    let file = folder.join(manifest::FILE_NAME);
    let shown = shown_path(&file);
    match std::fs::read(&file) {
        Ok(bytes) if bytes.len() > manifest::TEXT_LIMIT_BYTES => Err(Failure::general(format!(
            "{shown} is larger than {} bytes; that is no manifest",
            manifest::TEXT_LIMIT_BYTES
        ))),
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok((SourceText { path: shown, text }, None)),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                Err(Failure::general(format!("{shown} is not UTF-8 text: byte {at} fits no character"))
                    .help("save it as UTF-8"))
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let detection = manifest::detect(&Folder::new(folder))
                .map_err(|error| Failure::general(error.to_string()).help(error.help()))?;
            let text = SourceText { path: format!("{shown} (detected)"), text: detection.manifest.clone() };
            Ok((text, Some(detection)))
        }
        Err(error) => Err(Failure::general(format!("cannot read {shown}: {error}"))),
    }
}

async fn load_folder(path: &Path, reach: Reach) -> Result<Project, Failure> {
    let folder = existing_folder(path)?;
    let (manifest, detected) = read_manifest(&folder)?;
    let repository = Repository::around(&folder).await?;
    let mut project = Project { manifest, source: None, detected, warnings: vec![] };
    let Some(repository) = repository else {
        // A manifest whose services all name their own repository needs none here.
        return if project.detected.is_none() && names_all_sources(&project.manifest.text) {
            Ok(project)
        } else {
            Err(no_repository(&folder))
        };
    };
    let head = repository.head().await?;
    let Some(head) = head else {
        let failure = Failure::general(format!(
            "{} has no commit yet, and Mainstay deploys commits",
            repository.toplevel.display()
        ));
        return Err(failure.help("commit what you want to run: git add . && git commit -m \"First version\""));
    };
    let inside = folder.strip_prefix(&repository.toplevel).unwrap_or(Path::new(""));
    let directory = inside.to_string_lossy().into_owned();
    let (url, reference) = match reach {
        Reach::Local => (format!("file://{}", repository.toplevel.display()), head),
        Reach::Remote | Reach::Forbidden => remote_source(&repository, &head, reach, &mut project.warnings).await?,
    };
    let git: GitUrl = url.parse().map_err(|error| Failure::general(format!("{error}")))?;
    let reference: GitRef = reference.parse().map_err(|error| Failure::general(format!("{error}")))?;
    warn_of_uncommitted(&repository, &directory, &mut project).await?;
    project.source = Some(DefaultSource { git, reference: Some(reference), directory });
    Ok(project)
}

async fn remote_source(
    repository: &Repository,
    head: &str,
    reach: Reach,
    warnings: &mut Vec<String>,
) -> Result<(String, String), Failure> {
    let Some(origin) = repository.origin().await? else {
        let why = match reach {
            Reach::Forbidden => "the control plane may not read repositories of this machine",
            _ => "a control plane elsewhere cannot read this disk",
        };
        let failure =
            Failure::general(format!("{} has no remote called origin, and {why}", repository.toplevel.display()));
        let push = "push it somewhere: git remote add origin URL && git push -u origin HEAD";
        return Err(match reach {
            Reach::Forbidden => failure.help(format!("{push}; or start the control plane with --allow-local-sources")),
            _ => failure.help(push),
        });
    };
    if !repository.is_pushed().await? {
        let short = &head[..head.len().min(10)];
        warnings
            .push(format!("commit {short} is not pushed to {origin}; what is there is deployed. Push first: git push"));
    }
    let reference = repository.branch().await?.unwrap_or_else(|| head.to_owned());
    Ok((origin, reference))
}

async fn warn_of_uncommitted(repository: &Repository, directory: &str, project: &mut Project) -> Result<(), Failure> {
    let mut paths = repository.uncommitted(directory).await?;
    // The manifest travels as text: it counts as it is on disk, committed or not.
    let is_manifest = |path: &str| Path::new(path).file_name().is_some_and(|name| name == manifest::FILE_NAME);
    paths.retain(|path| !is_manifest(path));
    match paths.as_slice() {
        [] => {}
        [one] => project.warnings.push(format!("1 uncommitted file is not deployed ({one}); commit it")),
        several => project.warnings.push(format!(
            "{} are not deployed ({}, …); commit them",
            api::words::count_of(several, "uncommitted file"),
            several[0]
        )),
    }
    if !directory.is_empty() && !repository.is_committed(directory).await? {
        let failure = Failure::general(format!(
            "the folder {directory} is not part of the last commit, so it cannot be deployed"
        ));
        return Err(failure.help(format!("commit it: git add {directory} && git commit")));
    }
    Ok(())
}

/// `URL` or `URL#BRANCH`.
async fn load_address(target: &str) -> Result<Project, Failure> {
    let (address, reference) =
        target.split_once('#').map_or((target, None), |(address, reference)| (address, Some(reference)));
    let git: GitUrl = address.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let wanted: Option<GitRef> =
        reference.map(str::parse).transpose().map_err(|error| Failure::usage(format!("{error}")))?;
    let place =
        tempfile::tempdir().map_err(|error| Failure::general(format!("cannot make a temporary folder: {error}")))?;
    // The folder's name becomes the stack's name when the manifest has to be worked out.
    let name = address
        .trim_end_matches('/')
        .trim_end_matches(".git")
        .rsplit(['/', ':'])
        .next()
        .filter(|name| !name.is_empty());
    let folder = place.path().join(name.unwrap_or("app"));
    worktree::clone(address, wanted.as_ref().map(GitRef::as_str), &folder).await?;
    let (mut manifest, detected) = read_manifest(&folder)?;
    manifest.path = format!("{address} {}", if detected.is_some() { "(detected)" } else { manifest::FILE_NAME });
    let reference = match wanted {
        Some(reference) => Some(reference),
        None => match Repository::around(&folder).await? {
            Some(copy) => copy.branch().await?.and_then(|branch| branch.parse().ok()),
            None => None,
        },
    };
    let source = DefaultSource { git, reference, directory: String::new() };
    Ok(Project { manifest, source: Some(source), detected, warnings: vec![] })
}

fn existing_folder(path: &Path) -> Result<PathBuf, Failure> {
    let is_manifest = path.file_name().is_some_and(|name| name == manifest::FILE_NAME) && path.is_file();
    let folder = if is_manifest {
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    } else {
        path
    };
    match folder.canonicalize() {
        Ok(folder) if folder.is_dir() => Ok(folder),
        Ok(folder) => {
            let failure = Failure::usage(format!("{} is a file", folder.display()));
            Err(failure.help(format!("name the folder with the project, or its {}", manifest::FILE_NAME)))
        }
        Err(error) => {
            let failure = Failure::usage(format!("cannot open `{}`: {error}", path.display()));
            Err(failure.help("name a folder, or a git address such as https://host/repository"))
        }
    }
}

fn names_all_sources(text: &str) -> bool {
    // Anything else that is wrong with it is said better by the control plane.
    match manifest::parse(text, None) {
        Ok(_) => true,
        Err(errors) => !errors.0.iter().any(|error| error.field.as_deref().is_some_and(|field| field.ends_with("git"))),
    }
}

fn no_repository(folder: &Path) -> Failure {
    let failure =
        Failure::general(format!("{} is not in a git repository, and Mainstay deploys commits", folder.display()));
    failure.help("make one: git init && git add . && git commit -m \"First version\"")
}

fn shown_path(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let shown = here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    shown.display().to_string()
}
