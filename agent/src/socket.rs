//! A listening Unix socket that replaces a dead one, never a living one, and goes with its owner.

use crate::AgentError;
use midge_runtime::{SocketName, SocketTaken, check_socket};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};
use tokio::net::UnixListener;

// Workloads run as any user; connecting needs the right to write.
const SOCKET_MODE: u32 = 0o666;
const DIRECTORY_MODE: u32 = 0o755;

/// The socket.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    name: SocketName,
}

impl Socket {
    pub(crate) fn bind(path: &Path) -> Result<Self, AgentError> {
        let failed = |error| AgentError::Listen { path: path.to_owned(), error };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            create_directory(directory).map_err(failed)?;
        }
        refuse_living(path)?;
        // Under another name first: nobody may connect before the mode is set, and of two
        // processes starting at once neither is left with a socket that has no name.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        let hidden = path.with_file_name(name);
        remove(&hidden).map_err(failed)?;
        let listener = UnixListener::bind(&hidden).map_err(failed)?;
        let named = fs::set_permissions(&hidden, Permissions::from_mode(SOCKET_MODE))
            .and_then(|()| fs::rename(&hidden, path))
            .and_then(|()| SocketName::of(path));
        let name = match named {
            Ok(name) => name,
            Err(error) => {
                drop(remove(&hidden));
                return Err(failed(error));
            }
        };
        Ok(Self { listener, name })
    }

    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(crate) fn path(&self) -> &Path {
        self.name.path()
    }
}

fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    // Whatever the umask, workloads must get through.
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

fn refuse_living(path: &Path) -> Result<(), AgentError> {
    check_socket(path).map_err(|taken| match taken {
        SocketTaken::InUse => AgentError::SocketInUse { path: path.to_owned() },
        SocketTaken::NotASocket => AgentError::NotASocket { path: path.to_owned() },
        SocketTaken::Io(error) => AgentError::Listen { path: path.to_owned(), error },
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/agent.sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, DIRECTORY_MODE);
        assert!(matches!(Socket::bind(&path), Err(AgentError::SocketInUse { .. })));
        drop(first);
        assert!(!path.exists(), "it goes with its owner");

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = Socket::bind(&path).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        // The name has passed to another process.
        fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(second);
        assert!(path.exists());
        drop(other);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(AgentError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
