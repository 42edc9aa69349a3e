//! Whether a Unix socket may be made at a path: a dead one is replaced, a living one and any other file never.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
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
