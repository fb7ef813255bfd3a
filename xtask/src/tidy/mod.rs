//! The rules of the project that a machine can check. Each rule is a file; each complaint names the
//! place and the mend. What is not here is taste, and is read in review.

mod arrows;
mod docs;
mod licences;
mod purity;
mod sources;

use crate::{cargo, root, steps};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What all rules look at: read once.
pub struct Tree {
    pub root: PathBuf,
    /// `cargo metadata` with all dependencies.
    pub metadata: Value,
    /// Every file that git tracks or would track, relative to the root.
    pub files: Vec<String>,
}

impl Tree {
    fn read() -> Result<Self> {
        let root = root();
        let metadata = steps::output(Command::new(cargo()).current_dir(&root).args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
        ]))?;
        let metadata = serde_json::from_str(&metadata).context("cargo metadata wrote something else than JSON")?;
        let listed = steps::output(Command::new("git").current_dir(&root).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        let mut files: Vec<String> =
            listed.lines().map(str::to_owned).filter(|file| root.join(file).is_file()).collect();
        files.sort();
        Ok(Self { root, metadata, files })
    }

    /// The text of a file, or `None` when it is not text.
    pub fn text(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }

    pub fn with_extension<'t>(&'t self, extension: &'t str) -> impl Iterator<Item = &'t str> {
        self.files
            .iter()
            .map(String::as_str)
            .filter(move |file| Path::new(file).extension().is_some_and(|e| e == extension))
    }

    /// Name and dependencies of our own crates.
    pub fn crates(&self) -> Vec<&Value> {
        let members: Vec<&str> =
            self.metadata["workspace_members"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let packages = self.metadata["packages"].as_array().into_iter().flatten();
        packages.filter(|p| p["id"].as_str().is_some_and(|id| members.contains(&id))).collect()
    }
}

/// What a rule is called, and what gives its complaints.
type Rule = (&'static str, fn(&Tree) -> Vec<String>);

pub fn run() -> Result<()> {
    let tree = Tree::read()?;
    let rules: [Rule; 5] = [
        ("crates depend only along the arrows", arrows::check),
        ("sources", sources::check),
        ("planning is pure", purity::check),
        ("paths named in the docs exist", docs::check),
        ("licences and sources of dependencies", licences::check),
    ];
    let mut count = 0;
    for (name, check) in rules {
        let complaints = check(&tree);
        for complaint in &complaints {
            println!("{name}: {complaint}");
        }
        count += complaints.len();
    }
    if count > 0 {
        bail!("{count} complaint{}", if count == 1 { "" } else { "s" });
    }
    println!("tidy: {} rules, {} files, nothing to complain about", rules.len(), tree.files.len());
    Ok(())
}
