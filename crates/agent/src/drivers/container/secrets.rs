//! Files with secret content, for one container.
//!
//! They lie in a folder that only the agent's user may enter, in memory where the machine has such a place (`/run`), and
//! are mounted into the container one by one, read-only. Whoever is in the container as its user can read them; other
//! users of the machine cannot get to them.

use crate::drivers::files::{private_directory, remove_tree};
use api::ids::InstanceId;
use api::secret::Secret;
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the files of all instances of one agent are.
#[derive(Debug, Clone)]
pub struct SecretFiles {
    root: PathBuf,
}

impl SecretFiles {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn folder(&self, id: &InstanceId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Write them anew. Answers where each is, by its path in the container.
    pub fn write(
        &self,
        id: &InstanceId,
        files: &BTreeMap<String, Secret>,
        user: Option<&str>,
    ) -> io::Result<BTreeMap<String, PathBuf>> {
        let folder = self.folder(id);
        remove_tree(&folder)?;
        if files.is_empty() {
            return Ok(BTreeMap::new());
        }
        private_directory(&folder)?;
        let mut written = BTreeMap::new();
        for (number, (path, content)) in files.iter().enumerate() {
            let place = folder.join(number.to_string());
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&place)?;
            file.write_all(content.expose().as_bytes())?;
            give(&place, user)?;
            written.insert(path.clone(), place);
        }
        Ok(written)
    }

    pub fn remove(&self, id: &InstanceId) {
        if let Err(error) = remove_tree(&self.folder(id)) {
            tracing::warn!(%error, instance = %id, "secret files of an instance that is gone cannot be removed");
        }
    }
}

/// To a user that is a number alone. A name is one of the image's, which is not known here: then the folder above is what
/// keeps others out.
fn give(path: &Path, user: Option<&str>) -> io::Result<()> {
    let (uid, gid) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        None => (Some(0), Some(0)),
        Some((uid, gid)) => (uid.parse::<u32>().ok(), gid.parse::<u32>().ok()),
    };
    let given = uid.is_some_and(|uid| std::os::unix::fs::chown(path, Some(uid), gid).is_ok());
    std::fs::set_permissions(path, Permissions::from_mode(if given { 0o400 } else { 0o444 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agent_gets_to_the_folder_and_the_files_are_written_anew() {
        let place = tempfile::tempdir().unwrap();
        let secrets = SecretFiles::new(place.path().join("files"));
        let id = InstanceId::from_uuid(uuid::Uuid::nil());
        let files = |content: &str| BTreeMap::from([("/etc/key".to_owned(), Secret::new(content.to_owned()))]);
        secrets.write(&id, &files("one"), Some("app")).unwrap();
        let written = secrets.write(&id, &files("two"), Some("app")).unwrap();
        let path = &written["/etc/key"];
        assert_eq!(std::fs::read_to_string(path).unwrap(), "two");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path), mode(path.parent().unwrap())), (0o444, 0o700));
        secrets.remove(&id);
        assert!(!path.exists());
    }
}
