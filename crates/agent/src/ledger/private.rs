//! The ledger is readable by its owner alone: the desired state in it holds what services keep secret.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

const OWNER_ONLY: u32 = 0o600;

/// Makes the file private, and makes it if it is not there. SQLite gives its companions (`-wal`, `-shm`)
/// the same mode.
pub fn make_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(OWNER_ONLY).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Ledger;
    use super::*;

    #[tokio::test]
    async fn a_ledger_and_its_companions_are_readable_by_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let _opened = Ledger::open(&path).await.unwrap();
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, OWNER_ONLY, "{name}");
        }
    }
}
