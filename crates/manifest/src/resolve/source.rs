//! Where the code of a service comes from.

use super::checker::Checker;
use crate::raw::Service;
use api::plans::DefaultSource;
use api::services::{CommitSha, GitRef, GitSource, SourceSpec};

pub fn resolve(
    check: &mut Checker<'_, '_>,
    field: &str,
    raw: &Service,
    default: Option<&DefaultSource>,
) -> Option<SourceSpec> {
    let reference = reference(check, field, raw);
    let credential = raw.credential.as_ref().and_then(|text| check.name(&format!("{field}.credential"), text));
    let base = if raw.git.is_some() { "" } else { default.map_or("", |d| d.directory.as_str()) };
    let directory = match &raw.directory {
        Some(text) => check.folder(&format!("{field}.directory"), base, text, "the repository"),
        None => Some(base.trim_matches('/').to_owned()),
    };
    let (git, reference) = match (&raw.git, default) {
        (Some(text), _) => (check.git(&format!("{field}.git"), text.parse())?, reference),
        (None, Some(default)) => (default.git.clone(), reference.or_else(|| default.reference.clone())),
        (None, None) => {
            let message = "there is no `git`, and the manifest does not come from a repository";
            return check.missing(&format!("{field}.git"), message, "write `git = \"https://…\"`");
        }
    };
    let submodules = raw.submodules.unwrap_or(false);
    Some(SourceSpec::Git(GitSource { git, reference, directory: directory?, credential, submodules }))
}

fn reference(check: &mut Checker<'_, '_>, field: &str, raw: &Service) -> Option<GitRef> {
    let written: Vec<(&str, &String)> = [("branch", &raw.branch), ("tag", &raw.tag), ("commit", &raw.commit)]
        .into_iter()
        .filter_map(|(n, v)| Some((n, v.as_ref()?)))
        .collect();
    if let [(first, _), (second, _), ..] = written[..] {
        let message = format!("`{first}` and `{second}` are both given, and may name different commits");
        check.fail(&format!("{field}.{second}"), message, Some("keep one of `branch`, `tag` and `commit`".into()));
        return None;
    }
    let (kind, text) = *written.first()?;
    let field = format!("{field}.{kind}");
    let reference: GitRef = check.git(&field, text.parse())?;
    if kind == "commit" && text.parse::<CommitSha>().is_err() {
        let message = format!("`{reference}` is not a full commit SHA: it has 40 or 64 lowercase hexadecimal digits");
        check.fail(&field, message, Some("`git rev-parse HEAD` prints it; write a branch or tag as such".into()));
        return None;
    }
    Some(reference)
}
