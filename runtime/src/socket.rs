//! Whether a Unix socket may be made at a path, and removed at the end: a dead one is replaced, a living one and
//! whatever else is there never.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What is in the way of a Unix socket. The texts name no path: whoever asked knows it and its key.
#[derive(Debug, Error)]
pub enum SocketTaken {
    /// Somebody listens there.
    #[error("another process serves it")]
    InUse,
    /// The path is that of something else: a file, a directory, a link.
    #[error("it exists and is not a socket")]
    NotASocket,
    /// The path cannot be looked at.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Says whether a socket may be made at this path, for callers that rename theirs over what is there.
///
/// # Errors
/// When there is anything but nothing or a socket that nobody listens on.
pub fn check_socket(path: &Path) -> Result<(), SocketTaken> {
    is_dead_socket(path).map(drop)
}

/// Removes the socket that a killed process has left at this path.
///
/// # Errors
/// When there is anything but nothing or a socket that nobody listens on, which is left as it is.
pub fn clear_socket(path: &Path) -> Result<(), SocketTaken> {
    if is_dead_socket(path)? {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The name of a bound socket, which goes with its owner. Whatever has taken the name over meanwhile stays.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    file: (u64, u64),
}

impl SocketName {
    /// Takes charge of the socket that has just been bound to this path.
    ///
    /// # Errors
    /// When the path cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: file(path)? })
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketName {
    fn drop(&mut self) {
        let is_own = file(&self.path).is_ok_and(|file| file == self.file);
        if is_own && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Returns what tells a file from all others: device and inode.
fn file(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn is_dead_socket(path: &Path) -> Result<bool, SocketTaken> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketTaken::NotASocket);
    }
    match probe(path) {
        Err(Errno::CONNREFUSED) => Ok(true),
        // It went meanwhile.
        Err(Errno::NOENT) => Ok(false),
        // A full backlog is a living one too.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Err(SocketTaken::InUse),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn probe(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_nothing_and_a_dead_socket_give_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        clear_socket(&path).unwrap();
        let living = UnixListener::bind(&path).unwrap();
        assert!(matches!(clear_socket(&path), Err(SocketTaken::InUse)));
        drop(living);
        check_socket(&path).unwrap();
        assert!(path.exists(), "it was only looked at");
        clear_socket(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_name_goes_with_its_owner_unless_it_is_no_longer_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let bound = UnixListener::bind(&path).unwrap();
        drop(SocketName::of(&path).unwrap());
        assert!(!path.exists());
        assert!(SocketName::of(&path).is_err());

        let again = UnixListener::bind(&path).unwrap();
        let name = SocketName::of(&path).unwrap();
        // Both are there at once: an inode that is free may be given to the next file.
        fs::rename(&path, folder.path().join("kept")).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(name);
        assert!(path.exists(), "it is another one's");
        drop((bound, again, other));
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.toml");
        fs::write(&file, "precious").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link, &folder.path().to_owned()] {
            assert!(matches!(clear_socket(path), Err(SocketTaken::NotASocket)), "{path:?}");
        }
        assert_eq!(fs::read(&link).unwrap(), b"precious");
    }
}
