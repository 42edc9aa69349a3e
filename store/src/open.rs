//! Opens a store file: takes its lock, refuses what must not be touched, sets and reads back what durability needs.

use crate::create::create;
use crate::error::OpenError;
use crate::limits::{
    LOG_BYTES_KEPT, LOG_PAGES, QUICK_CHECK_ALWAYS_BYTES, READER_CACHE_KIB, WRITER_CACHE_KIB,
};
use crate::store::StoreInfo;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::{info, warn};

/// "MIDG", in the header of every store.
pub(crate) const APPLICATION_ID: i32 = 0x4d49_4447;
/// Newest format this program reads and the one it writes.
pub(crate) const FORMAT: i32 = 1;

/// The connections of an opened store, and the lock that keeps every other process out.
pub(crate) struct Opened {
    pub(crate) writer: Connection,
    pub(crate) reader: Connection,
    pub(crate) lock: File,
}

pub(crate) fn open(path: &Path, wanted: &StoreInfo) -> Result<Opened, OpenError> {
    let lock = lock(path)?;
    match fs::metadata(path) {
        Ok(metadata) => refuse_exposed_or_empty(path, &metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => create(path, wanted)?,
        Err(error) => return Err(OpenError::io(path, &error)),
    }
    let engine = |error: rusqlite::Error| OpenError::engine(path, &error);
    let writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_CACHE_KIB).map_err(engine)?;
    // A file that is refused below stays as it is found: closing must not move its log into it.
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(engine)?;
    refuse_foreign(path, &writer)?;
    set_journal(path, &writer)?;
    refuse_damaged(path, &writer)?;
    refuse_other_owner(path, &writer, wanted)?;
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(engine)?;
    mark_open(&writer).map_err(engine)?;
    let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, READER_CACHE_KIB).map_err(engine)?;
    Ok(Opened { writer, reader, lock })
}

/// Records that everything was flushed, so that the next start need not check the file.
pub(crate) fn mark_clean(writer: &Connection) -> rusqlite::Result<()> {
    writer.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('clean', 'closed')", ())?;
    Ok(())
}

/// Returns the path with `suffix` appended to its file name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The lock is a file of its own: closing any descriptor of the database would drop SQLite's own (POSIX) locks.
fn lock(path: &Path) -> Result<File, OpenError> {
    let directory = directory_of(path);
    fs::metadata(directory).map_err(|error| OpenError::Io {
        path: path.to_owned(),
        detail: format!("directory {}: {error}", directory.display()),
    })?;
    let lock_path = sibling(path, ".lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| OpenError::io(&lock_path, &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let pid = lock.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse().ok());
            return Err(OpenError::InUse { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(OpenError::io(&lock_path, &error)),
    }
    // Only a hint for the message above: a full disk must not keep the store from being read.
    if let Err(error) =
        lock.set_len(0).and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()))
    {
        warn!(path = %lock_path.display(), %error, "cannot note the process id in the lock file");
    }
    Ok(lock)
}

fn refuse_exposed_or_empty(path: &Path, metadata: &fs::Metadata) -> Result<(), OpenError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Permissions { path: path.to_owned(), mode });
    }
    // SQLite takes an empty file for a new database: that would be emptying the store in silence.
    if metadata.len() == 0 {
        return Err(OpenError::Corrupted { path: path.to_owned(), detail: "the file is empty".to_owned() });
    }
    Ok(())
}

fn connect(path: &Path, access: OpenFlags, cache_kib: i32) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // Only an operator's own `sqlite3` can be in the way, for a moment.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    Ok(connection)
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

fn refuse_foreign(path: &Path, writer: &Connection) -> Result<(), OpenError> {
    let engine = |error: rusqlite::Error| OpenError::engine(path, &error);
    let application_id = number(writer, "application_id").map_err(engine)?;
    if application_id != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned(), application_id });
    }
    let found = number(writer, "user_version").map_err(engine)?;
    match found {
        FORMAT => Ok(()),
        newer if newer > FORMAT => {
            Err(OpenError::NewerFormat { path: path.to_owned(), found, supported: FORMAT })
        }
        // The format is written in the transaction that makes the tables, so no older or absent one exists.
        _ => Err(OpenError::Corrupted { path: path.to_owned(), detail: format!("format {found}") }),
    }
}

fn set_journal(path: &Path, writer: &Connection) -> Result<(), OpenError> {
    let engine = |error: rusqlite::Error| OpenError::engine(path, &error);
    let refused = |setting, wanted: &str, found: String| OpenError::Setting {
        path: path.to_owned(),
        setting,
        wanted: wanted.to_owned(),
        found,
    };
    let mode: String =
        writer.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(engine)?;
    if mode != "wal" {
        return Err(refused("journal_mode", "wal", mode));
    }
    writer.pragma_update(None, "synchronous", "FULL").map_err(engine)?;
    let level = number(writer, "synchronous").map_err(engine)?;
    if level != 2 {
        return Err(refused("synchronous", "2", level.to_string()));
    }
    writer.pragma_update_and_check(None, "wal_autocheckpoint", LOG_PAGES, |_| Ok(())).map_err(engine)?;
    writer.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_KEPT, |_| Ok(())).map_err(engine)
}

fn refuse_damaged(path: &Path, writer: &Connection) -> Result<(), OpenError> {
    let engine = |error: rusqlite::Error| OpenError::engine(path, &error);
    let clean = meta(writer, "clean").map_err(engine)?.is_some();
    let bytes = fs::metadata(path).map_err(|error| OpenError::io(path, &error))?.len();
    if clean && bytes > QUICK_CHECK_ALWAYS_BYTES {
        return Ok(());
    }
    if !clean {
        info!(path = %path.display(), bytes, "store was not closed; checking it");
    }
    let verdict: String = writer.query_row("PRAGMA quick_check(1)", (), |row| row.get(0)).map_err(engine)?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(OpenError::Corrupted { path: path.to_owned(), detail: verdict.replace('\n', ", ") })
}

fn refuse_other_owner(path: &Path, writer: &Connection, wanted: &StoreInfo) -> Result<(), OpenError> {
    let recorded = |name: &'static str| {
        let value = meta(writer, name).map_err(|error| OpenError::engine(path, &error))?;
        value.ok_or_else(|| OpenError::Corrupted {
            path: path.to_owned(),
            detail: format!("no {name} is recorded"),
        })
    };
    let (path, wanted) = (path.to_owned(), wanted.clone());
    let (role, trust_domain) = (recorded("role")?, recorded("trust_domain")?);
    if trust_domain != wanted.trust_domain {
        return Err(OpenError::OtherTrustDomain { path, found: trust_domain, wanted: wanted.trust_domain });
    }
    if role != wanted.role {
        return Err(OpenError::OtherRole { path, found: role, wanted: wanted.role });
    }
    Ok(())
}

fn mark_open(writer: &Connection) -> rusqlite::Result<()> {
    writer.execute("DELETE FROM meta WHERE name = 'clean'", ())?;
    Ok(())
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()
}
