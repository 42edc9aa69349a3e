//! Files that hold secrets: private from the first byte, and either the old or the new contents.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;
use zeroize::Zeroizing;

/// Largest private file that is read: a key with a long chain stays far below.
const PRIVATE_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a private file cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} '{path}': {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// File it was attempted on.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others than the owner can get at the file.
    #[error("'{path}' has mode {mode:04o} and is open to other users: run `chmod 600 {path}`")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a regular file.
    #[error("'{0}' is not a regular file")]
    NotAFile(PathBuf),
    /// Larger than any key.
    #[error("'{path}' has {bytes} bytes, a private file has at most 1048576")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// Writes a file that only its owner can read, atomically: after a crash at any point the path holds
/// the old contents or the new, on stable storage once this returns.
///
/// # Errors
///
/// [`FileError::Io`] when any step fails; the old contents stay.
pub fn write_private(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), FileError> {
    let path = path.as_ref();
    let directory = directory_of(path);
    let temporary = temporary_beside(path, directory)?;
    let result =
        write_new(&temporary, bytes).map_err(|source| io_error("write", &temporary, source)).and_then(|()| {
            fs::rename(&temporary, path).map_err(|source| io_error("rename into place", path, source))
        });
    if result.is_err() {
        // Nothing more can be done about a leftover; it is private too.
        let _removed = fs::remove_file(&temporary);
        return result;
    }
    // The rename itself survives a power cut only with the directory synced.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io_error("sync directory", directory, source))
}

/// Reads a file that only its owner may read.
///
/// # Errors
///
/// [`FileError::TooOpen`] when group or others have any permission on it; otherwise what kept it
/// from being read.
pub fn read_private(path: impl AsRef<Path>) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|source| io_error("open", path, source))?;
    // Of the open file, not of the path: what is checked is what is read.
    let metadata = file.metadata().map_err(|source| io_error("inspect", path, source))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), mode });
    }
    if metadata.len() > PRIVATE_FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned(), bytes: metadata.len() });
    }
    // Room for everything at once: growing would leave copies of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.take(PRIVATE_FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| io_error("read", path, source))?;
    Ok(bytes)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

fn temporary_beside(path: &Path, directory: &Path) -> Result<PathBuf, FileError> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| FileError::NotAFile(path.to_owned()))?;
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    Ok(directory.join(format!(".{}.{}-{number}.tmp", name.to_string_lossy(), process::id())))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io { action, path: path.to_owned(), source }
}
