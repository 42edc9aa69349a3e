//! Makes a new store file: complete or not there at all.

use crate::error::OpenError;
use crate::open::{APPLICATION_ID, FORMAT, directory_of, sibling};
use crate::store::StoreInfo;
use rusqlite::{Connection, OpenFlags, params};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Creates the file under another name, makes it durable, and renames it: an empty or half-made file under the
/// store's own name is therefore always damage, never a start that was cut short.
pub(crate) fn create(path: &Path, info: &StoreInfo) -> Result<(), OpenError> {
    refuse_orphan_log(path)?;
    let draft = sibling(path, ".new");
    for leftover in [draft.clone(), sibling(&draft, "-journal")] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(OpenError::io(&leftover, &error));
            }
            _ => {}
        }
    }
    // SQLite gives its log and index the mode of the database, so this one mode covers all three files.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    drop(made.map_err(|error| OpenError::io(path, &error))?);
    fill(&draft, info).map_err(|error| OpenError::engine(path, &error))?;
    publish(&draft, path).map_err(|error| OpenError::io(path, &error))
}

/// A log left without its database would be replayed into the new one.
fn refuse_orphan_log(path: &Path) -> Result<(), OpenError> {
    let log = sibling(path, "-wal");
    match fs::metadata(&log) {
        Ok(metadata) if metadata.len() > 0 => Err(OpenError::OrphanLog { path: path.to_owned(), log }),
        _ => Ok(()),
    }
}

fn fill(draft: &Path, info: &StoreInfo) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(draft, flags)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let schema = connection.transaction()?;
    schema.pragma_update(None, "application_id", APPLICATION_ID)?;
    schema.pragma_update(None, "user_version", FORMAT)?;
    // Without row ids a record is one entry of one tree, not of two: half the work of a write.
    schema.execute_batch(
        "CREATE TABLE kv (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT;",
    )?;
    for (name, value) in [("role", &*info.role), ("trust_domain", &*info.trust_domain), ("clean", "new")] {
        schema.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", params![name, value])?;
    }
    schema.commit()?;
    connection.close().map_err(|(_, error)| error)
}

fn publish(draft: &Path, path: &Path) -> io::Result<()> {
    File::open(draft)?.sync_all()?;
    fs::rename(draft, path)?;
    File::open(directory_of(path))?.sync_all()
}
