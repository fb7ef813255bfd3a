//! A control plane in one file: everything that it needs to come back, made while it works.
//!
//! ```text
//! mainstay backup, format 1. It holds secrets. …       a line for whoever finds the file
//! signing.key │ sealing.key │ cli-token │ …            the files beside the database
//! database.jsonl.gz                                    every row, see store::dump
//! {"format":1,"schema":…,"rows":…,"parts":[…]}         the manifest: what and how much, SHA-256 of each part
//! mainstay backup ends. Manifest at …, SHA-256 …       fixed length, so that it is found from the end
//! ```
//!
//! Why a form of our own: one file is what a person moves around at night; rows instead of a database
//! file move between SQLite and PostgreSQL and need no `pg_dump` of the right version; and *every* byte of
//! it is covered (parts tile the space between the first line and the manifest, the last line vouches for
//! the manifest, the first and the last line are compared as they are), so that a truncated or altered
//! file is refused as a whole and nothing is ever half believed. `head -1` says what it is, and
//! `mainstay restore --check` what is in it.
//!
//! **Written** beside its target, synced, read again and checked, and only then given its name; never
//! over something that is there. **Restored** into a new directory that takes its place with one rename;
//! what was there is set aside, never deleted.
//!
//! Deliberately absent: encryption. The file is as secret as the data directory, and is made readable by
//! its owner alone; whoever sends it away has tools for that (`age`, `gpg`), with keys that must not lie
//! beside it.

mod restore;

pub use restore::restore;

use crate::clock;
use crate::files;
use crate::options::ServerOptions;
use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use store::{DumpSummary, Store};

const FIRST_LINE: &str = "mainstay backup, format 1. It holds secrets: keep it as safe as the machine. \
                          To put it back: mainstay restore FILE\n";
const ANY_FORMAT: &str = "mainstay backup, format ";
const FORMAT: u32 = 1;
const DATABASE: &str = "database.jsonl.gz";
/// In the control plane's directory; those that are there are taken along.
const FILES: [&str; 4] =
    [files::SIGNING_KEY, files::SEALING_KEY, crate::bootstrap::CLI_TOKEN_FILE, crate::bootstrap::PASSWORD_FILE];
/// Such a file is a line of text.
const FILE_LIMIT_BYTES: u64 = 64 * 1024;
const MANIFEST_LIMIT_BYTES: u64 = 1024 * 1024;

/// What a backup says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = BackupManifest)]
pub struct Manifest {
    pub format: u32,
    /// Of the Mainstay that wrote it.
    pub version: String,
    /// Of the database's schema.
    pub schema: i64,
    /// `sqlite` or `postgres`: where it came from. It goes into either.
    pub database: String,
    /// `2026-11-21T15:04:05Z`
    pub created_at: String,
    pub created_at_ms: api::UnixMillis,
    pub organizations: Vec<String>,
    pub with_logs: bool,
    pub rows: BTreeMap<String, u64>,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = BackupPart)]
pub struct Part {
    pub name: String,
    pub length: u64,
    pub sha256: String,
}

/// A file that was made, or looked at.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Backup {
    #[schema(value_type = String)]
    pub file: PathBuf,
    pub bytes: u64,
    pub manifest: Manifest,
}

/// Where a control plane was put back to.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Restored {
    #[schema(value_type = String)]
    pub directory: PathBuf,
    /// What was there before.
    #[schema(value_type = Option<String>)]
    pub set_aside: Option<PathBuf>,
    pub manifest: Manifest,
    pub servers: usize,
    pub services: usize,
}

/// Writes a backup of the control plane with these options to `file`; it may be at work.
pub async fn create(
    options: &ServerOptions,
    file: &Path,
    with_logs: bool,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Backup> {
    let directory = options.directory();
    ensure!(
        directory.join(FILES[0]).is_file(),
        "there is no control plane in {}: {} is missing; name its data directory with --data-dir",
        directory.display(),
        FILES[0]
    );
    refuse_existing(file)?;
    let store = Store::open_as_is(&options.database_url()).await.context("open the control plane's database")?;
    let partial = Partial::beside(file)?;
    let written = write_all(&store, &directory, &partial.path, with_logs, progress).await;
    store.close().await;
    written?;
    let manifest = check(&partial.path).context("the backup was written, but reading it again shows a fault")?;
    partial.name_it(file)?;
    let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
    Ok(Backup { file: file.to_owned(), bytes, manifest })
}

fn refuse_existing(file: &Path) -> Result<()> {
    ensure!(
        fs::symlink_metadata(file).is_err(),
        "{} is there already and is not overwritten; name another file",
        file.display()
    );
    Ok(())
}

async fn write_all(
    store: &Store,
    directory: &Path,
    path: &Path,
    with_logs: bool,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<()> {
    let writing = || format!("write the backup {}", path.display());
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(writing)?;
    let mut out = Hashed::new(BufWriter::new(file));
    out.write_all(FIRST_LINE.as_bytes()).with_context(writing)?;
    let mut parts = Vec::new();
    for name in FILES {
        let content = match fs::read(directory.join(name)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", directory.join(name).display())),
        };
        out.begin();
        out.write_all(&content).with_context(writing)?;
        parts.push(out.part(name));
    }
    let organizations = store.organization_list().await.context("read the organizations")?;
    out.begin();
    let mut gzip = GzEncoder::new(&mut out, Compression::fast());
    let created_at_ms = clock::now_ms();
    let DumpSummary { schema, rows } = store.dump(&mut gzip, with_logs, progress).await.context("read the database")?;
    gzip.finish().with_context(writing)?;
    parts.push(out.part(DATABASE));
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        schema,
        database: store.dialect_name().into(),
        created_at: stamp("%Y-%m-%dT%H:%M:%SZ"),
        created_at_ms,
        organizations: organizations.into_iter().map(|(_, name)| name).collect(),
        with_logs,
        rows,
        parts,
    };
    let at = out.total;
    out.begin();
    let mut text = serde_json::to_vec(&manifest).context("write the manifest down")?;
    text.push(b'\n');
    out.write_all(&text).with_context(writing)?;
    let sha256 = out.part("manifest").sha256;
    out.write_all(last_line(at, &sha256).as_bytes()).with_context(writing)?;
    let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error).with_context(writing)?;
    file.sync_all().with_context(writing)
}

/// Always of the same length.
fn last_line(manifest_at: u64, sha256: &str) -> String {
    format!("mainstay backup ends. Manifest at {manifest_at:020}, SHA-256 {sha256}\n")
}

fn last_line_length() -> u64 {
    last_line(0, &"0".repeat(64)).len() as u64
}

/// Reads a backup whole and compares every byte with what was written.
pub fn check(path: &Path) -> Result<Manifest> {
    let (mut file, manifest) = open(path)?;
    let mut remains = FIRST_LINE.len() as u64;
    for part in &manifest.parts {
        file.seek(SeekFrom::Start(remains))
            .and_then(|_| {
                let mut hash = Hashed::new(io::sink());
                hash.begin();
                io::copy(&mut Read::take(&mut file, part.length), &mut hash)?;
                Ok(hash.part(&part.name))
            })
            .with_context(|| format!("read {}", path.display()))
            .and_then(|found| {
                ensure!(found == *part, damaged(path, &format!("its part {} is not what was written", part.name)));
                Ok(())
            })?;
        remains += part.length;
    }
    let rows = count_rows(database(path, &manifest)?).with_context(|| damaged(path, "its rows cannot be read"))?;
    ensure!(rows == manifest.rows, damaged(path, "it does not hold as many rows as it says"));
    Ok(manifest)
}

fn damaged(path: &Path, what: &str) -> String {
    format!(
        "{} is damaged: {what}. Nothing was changed. Use another backup, or copy this one again from where it came from",
        path.display()
    )
}

/// The manifest, once the first and last line and its own hash are right.
fn open(path: &Path) -> Result<(File, Manifest)> {
    let reading = || format!("read the backup {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let length = file.metadata().with_context(reading)?.len();
    let mut first = vec![0; FIRST_LINE.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
    file.read_exact(&mut first).with_context(reading)?;
    if first != FIRST_LINE.as_bytes() {
        let format = first.strip_prefix(ANY_FORMAT.as_bytes()).and_then(|rest| rest.first()).copied();
        match format {
            Some(digit) if digit.is_ascii_digit() && u32::from(digit - b'0') > FORMAT => bail!(
                "{} was made by a newer Mainstay: this one knows format {FORMAT} only. Use the newer program",
                path.display()
            ),
            Some(_) => bail!(damaged(path, "its first line was altered or cut off")),
            None => bail!("{} is no backup of Mainstay, or its beginning is damaged", path.display()),
        }
    }
    let end = length.checked_sub(last_line_length()).filter(|end| *end >= FIRST_LINE.len() as u64);
    let end = end.with_context(|| damaged(path, "it is cut off"))?;
    let last = read_at(&mut file, end, last_line_length()).with_context(reading)?;
    let last =
        String::from_utf8(last).map_err(|_| anyhow::anyhow!(damaged(path, "it is cut off or altered at its end")))?;
    let cut = || damaged(path, "it is cut off or altered at its end");
    let (at, sha256) = parse_last_line(&last).with_context(cut)?;
    let size = end.checked_sub(at).filter(|size| *size <= MANIFEST_LIMIT_BYTES).with_context(cut)?;
    let text = read_at(&mut file, at, size).with_context(reading)?;
    ensure!(wire::sha256_hex(&text) == sha256, damaged(path, "its manifest is not what was written"));
    let manifest: Manifest =
        serde_json::from_slice(&text).with_context(|| damaged(path, "its manifest cannot be read"))?;
    let parts: u64 = manifest.parts.iter().map(|part| part.length).sum();
    ensure!(FIRST_LINE.len() as u64 + parts == at, damaged(path, "its parts do not fill it"));
    Ok((file, manifest))
}

fn parse_last_line(line: &str) -> Option<(u64, String)> {
    let at = line.split_once("Manifest at ")?.1.get(..20)?.parse().ok()?;
    let sha256 = line.trim_end().rsplit_once(' ')?.1.to_owned();
    (line == last_line(at, &sha256)).then_some((at, sha256))
}

fn read_at(file: &mut File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The bytes of one part.
fn part(path: &Path, manifest: &Manifest, name: &str) -> Result<io::Take<File>> {
    let before: u64 = manifest.parts.iter().take_while(|part| part.name != name).map(|part| part.length).sum();
    let part = manifest.parts.iter().find(|part| part.name == name);
    let part = part.with_context(|| format!("{} has no part {name}", path.display()))?;
    let mut file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    file.seek(SeekFrom::Start(FIRST_LINE.len() as u64 + before)).with_context(|| format!("read {}", path.display()))?;
    Ok(Read::take(file, part.length))
}

fn database(path: &Path, manifest: &Manifest) -> Result<BufReader<GzDecoder<BufReader<io::Take<File>>>>> {
    Ok(BufReader::new(GzDecoder::new(BufReader::new(part(path, manifest, DATABASE)?))))
}

fn count_rows(input: impl BufRead) -> Result<BTreeMap<String, u64>> {
    #[derive(Deserialize)]
    struct Head {
        table: String,
    }
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    let mut table = None;
    for line in input.lines() {
        let line = line?;
        if line.starts_with('[') {
            let count = table.as_ref().and_then(|table| rows.get_mut(table));
            *count.context("a row comes before any table")? += 1;
        } else {
            let head: Head = serde_json::from_str(&line)?;
            rows.insert(head.table.clone(), 0);
            table = Some(head.table);
        }
    }
    Ok(rows)
}

/// A file that has no name yet; gone unless it gets one.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn beside(file: &Path) -> Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(file.file_name().with_context(|| format!("{} names no file", file.display()))?);
        name.push(format!(".{}.partial", std::process::id()));
        Ok(Self { path: file.with_file_name(name) })
    }

    /// A link is refused where a name is taken, so nothing is overwritten even if two make a backup at once.
    fn name_it(&self, file: &Path) -> Result<()> {
        let named = fs::hard_link(&self.path, file).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Err(error),
            // Not every file system has links.
            _ if fs::symlink_metadata(file).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            _ => fs::rename(&self.path, file),
        });
        named.with_context(|| format!("give the backup its name {}", file.display()))?;
        sync_folder(file)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A rename survives a power cut once the folder is written.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("write {}", folder.display()))
}

fn stamp(form: &str) -> String {
    let now = jiff::Timestamp::from_millisecond(clock::now_ms()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    now.strftime(form).to_string()
}

/// `mainstay-20261121T150405Z.backup`
pub fn file_name() -> String {
    format!("mainstay-{}.backup", stamp("%Y%m%dT%H%M%SZ"))
}

/// Counts and hashes what goes through, part by part.
struct Hashed<W> {
    inner: W,
    hash: digest::Context,
    length: u64,
    total: u64,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: digest::Context::new(&digest::SHA256), length: 0, total: 0 }
    }

    fn begin(&mut self) {
        self.hash = digest::Context::new(&digest::SHA256);
        self.length = 0;
    }

    fn part(&self, name: &str) -> Part {
        Part { name: name.into(), length: self.length, sha256: hex::encode(self.hash.clone().finish()) }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        self.total += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A control plane with little in it, and a backup of it.
    async fn backed_up(folder: &Path) -> (ServerOptions, Backup) {
        let options = ServerOptions::new(folder.join("data"));
        files::make_directory(&options.directory()).unwrap();
        files::signing_key(&options.directory()).unwrap();
        let store = Store::open(&options.database_url()).await.unwrap();
        let id = crate::state::fresh(api::ids::OrganizationId::from_uuid);
        store.organization_ensure(&id, "default", 1).await.unwrap();
        store.close().await;
        let backup = create(&options, &folder.join("a.backup"), true, &mut |_| {}).await.unwrap();
        (options, backup)
    }

    #[tokio::test]
    async fn a_backup_with_any_bit_flipped_or_cut_off_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_, backup) = backed_up(folder.path()).await;
        let good = fs::read(&backup.file).unwrap();
        let path = folder.path().join("bad.backup");
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1 << (place % 8);
            fs::write(&path, &bad).unwrap();
            assert!(check(&path).is_err(), "a bit of byte {place} of {} was flipped", good.len());
            fs::write(&path, &good[..place]).unwrap();
            assert!(check(&path).is_err(), "cut off at {place} of {}", good.len());
        }
        fs::write(&path, &good).unwrap();
        assert_eq!(check(&path).unwrap(), backup.manifest);
    }

    #[tokio::test]
    async fn a_backup_is_closed_to_others_never_overwrites_and_leaves_nothing_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let (options, backup) = backed_up(folder.path()).await;
        assert_eq!(fs::metadata(&backup.file).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = create(&options, &backup.file, true, &mut |_| {}).await.unwrap_err();
        assert!(refused.to_string().contains("not overwritten"), "{refused:#}");
        fs::remove_file(options.directory().join("mainstay.db")).unwrap();
        create(&options, &folder.path().join("b.backup"), true, &mut |_| {}).await.unwrap_err();
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.backup", "data"]);
    }

    #[tokio::test]
    async fn a_restore_sets_aside_and_never_deletes_and_one_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (options, backup) = backed_up(folder.path()).await;
        let key = fs::read(options.directory().join("signing.key")).unwrap();
        let refused = restore(&backup.file, &options, false, &mut |_| {}).await.unwrap_err();
        assert!(refused.to_string().contains("--replace"), "{refused:#}");
        let restored = restore(&backup.file, &options, true, &mut |_| {}).await.unwrap();
        assert_eq!(fs::read(options.directory().join("signing.key")).unwrap(), key);
        assert_eq!(fs::read(restored.set_aside.unwrap().join("signing.key")).unwrap(), key);

        // A newer Mainstay's backup, whole in itself.
        let newer = rewritten(&backup.file, folder.path(), |manifest| manifest.schema = 9_999);
        let refused = restore(&newer, &options, true, &mut |_| {}).await.unwrap_err().to_string();
        assert!(refused.contains("schema 9999") && refused.contains("or newer"), "{refused}");
        let odd = rewritten(&backup.file, folder.path(), |manifest| manifest.parts[0].name = "../../escape".into());
        restore(&odd, &options, true, &mut |_| {}).await.unwrap_err();
        let left: Vec<_> = fs::read_dir(options.data_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "the control plane and what was set aside before: {left:?}");
    }

    /// The same backup with another manifest, and everything that vouches for it.
    fn rewritten(file: &Path, folder: &Path, change: impl FnOnce(&mut Manifest)) -> PathBuf {
        let (_, mut manifest) = open(file).unwrap();
        let parts: u64 = manifest.parts.iter().map(|part| part.length).sum();
        let at = FIRST_LINE.len() as u64 + parts;
        change(&mut manifest);
        let mut bytes = fs::read(file).unwrap();
        bytes.truncate(at as usize);
        let text = serde_json::to_vec(&manifest).unwrap();
        bytes.extend_from_slice(&text);
        bytes.extend_from_slice(last_line(at, &wire::sha256_hex(&text)).as_bytes());
        let path = folder.join("rewritten.backup");
        fs::write(&path, bytes).unwrap();
        path
    }
}
