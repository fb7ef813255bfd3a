//! The way back: a backup becomes a data directory (and a database) again. What a backup is stands one level up.

use super::{
    DATABASE, FILE_LIMIT_BYTES, FILES, Manifest, Part, Restored, check, damaged, database, part, stamp, sync_folder,
};
use crate::options::ServerOptions;
use crate::{clock, files, recovery};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use store::{Scope, Store};

/// Beyond every number that was given out since the backup: see `Store::counters_advance`.
const NUMBERS_AHEAD: i64 = 10_000_000;

/// Puts a control plane back. The caller holds the claim on the data directory, so that none runs there.
pub async fn restore(
    file: &Path,
    options: &ServerOptions,
    replace: bool,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Restored> {
    let manifest = check(file)?;
    if manifest.schema > store::NEWEST_SCHEMA {
        bail!(
            "{} was made by Mainstay {}, whose database has schema {}; this is {} and knows up to {}. Nothing was \
             changed. Use Mainstay {} or newer",
            file.display(),
            manifest.version,
            manifest.schema,
            env!("CARGO_PKG_VERSION"),
            store::NEWEST_SCHEMA,
            manifest.version
        );
    }
    let directory = options.directory();
    refuse_occupied(options, &directory, replace).await?;
    let building = Building::beside(&directory)?;
    for part in manifest.parts.iter().filter(|part| part.name != DATABASE) {
        write_file(file, &manifest, part, &building.path)?;
    }
    // The key is looked at before it takes the place of one that works.
    files::signing_key(&building.path)?;
    let url = match &options.database_url {
        Some(url) => url.clone(),
        None => ServerOptions::database_url_in(&building.path),
    };
    let mut rows = database(file, &manifest)?;
    store::load(&url, manifest.schema, &mut rows, progress).await.context("write the database")?;
    let (servers, services) = verify(&url, &manifest).await?;
    let set_aside = building.take_place_of(&directory)?;
    Ok(Restored { directory, set_aside, manifest, servers, services })
}

/// Never over a control plane that is there, unless it may be set aside.
async fn refuse_occupied(options: &ServerOptions, directory: &Path, replace: bool) -> Result<()> {
    if let Some(url) = &options.database_url {
        let empty = store::is_empty(url).await.context("look at the database that is to be filled")?;
        ensure!(
            empty,
            "the database that --database names is not empty; make an empty one and name that. Nothing was changed"
        );
    }
    let occupied = ["mainstay.db", FILES[0]].iter().find(|name| directory.join(name).exists());
    match occupied {
        Some(name) if !replace => bail!(
            "there is a control plane in {} ({name}). Nothing was changed. To put the backup in its place and set what \
             is there aside, say --replace; to put it elsewhere, name another --data-dir",
            directory.display()
        ),
        _ => Ok(()),
    }
}

fn write_file(file: &Path, manifest: &Manifest, of: &Part, directory: &Path) -> Result<()> {
    // A name from a file becomes a path only if it is one of ours.
    ensure!(
        FILES.contains(&of.name.as_str()),
        "{} has a part `{}` that this version does not know; use a newer one",
        file.display(),
        of.name
    );
    ensure!(of.length <= FILE_LIMIT_BYTES, damaged(file, &format!("its part {} is too large", of.name)));
    let path = directory.join(&of.name);
    let mut content = Vec::new();
    part(file, manifest, &of.name)?.read_to_end(&mut content).with_context(|| format!("read {}", file.display()))?;
    let write = || -> io::Result<()> {
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        out.write_all(&content)?;
        out.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Opens what was loaded as a control plane would, counts, and notes that agents may be ahead of it.
async fn verify(url: &str, manifest: &Manifest) -> Result<(usize, usize)> {
    let store = Store::open(url).await.context("open the restored database")?;
    let looked = async {
        store.integrity_check().await?;
        let rows = store.row_counts().await?;
        for (table, expected) in &manifest.rows {
            let found = rows.get(table).copied().unwrap_or_default();
            ensure!(found == *expected, "the restored table {table} has {found} rows instead of {expected}");
        }
        let (mut servers, mut services) = (0, 0);
        for (organization, _) in store.organization_list().await? {
            let scope = Scope::system(organization, "restore");
            servers += store.server_list(&scope).await?.len();
            services += store.service_list(&scope, None).await?.len();
            recovery::mark_restored(&store, &scope, clock::now_ms()).await?;
        }
        store.counters_advance(NUMBERS_AHEAD).await?;
        Ok((servers, services))
    };
    let counted = looked.await;
    store.close().await;
    counted
}

/// A control plane's directory while it is put together; gone unless it takes its place.
struct Building {
    path: PathBuf,
}

impl Building {
    fn beside(directory: &Path) -> Result<Self> {
        let path = directory.with_extension(format!("restoring-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        files::make_directory(&path)?;
        Ok(Self { path })
    }

    /// Answers where what was there lies now.
    fn take_place_of(&self, directory: &Path) -> Result<Option<PathBuf>> {
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("write {}", self.path.display()))?;
        let mut aside = None;
        if directory.exists() {
            let now = stamp("%Y%m%dT%H%M%SZ");
            let mut path = directory.with_extension(format!("before-restore-{now}"));
            for number in 2.. {
                if !path.exists() {
                    break;
                }
                path = directory.with_extension(format!("before-restore-{now}-{number}"));
            }
            fs::rename(directory, &path).with_context(|| format!("set {} aside", directory.display()))?;
            aside = Some(path);
        }
        if let Err(error) = fs::rename(&self.path, directory) {
            if let Some(aside) = &aside {
                let _ = fs::rename(aside, directory);
            }
            return Err(error).with_context(|| format!("put the restored control plane in {}", directory.display()));
        }
        sync_folder(directory)?;
        Ok(aside)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
