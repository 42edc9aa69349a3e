//! The data directory: made if missing, checked before anything is read from it.

use crate::exit::{self, WithCode, failure};
use anyhow::Context as _;
use midge_runtime::{SocketName, SocketTaken, clear_socket};
use midge_store::{Batch, Durability, OpenError, Store, StoreInfo};
use rustix::process::geteuid;
use std::fs::{DirBuilder, Permissions, metadata, set_permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The directory of one role and what lies in it.
pub(crate) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Makes the directory, its key directory (0700) and the directory for sockets where they are missing. What is
    /// there is refused where somebody else than this user and root may exchange or change it.
    pub(crate) fn prepare(path: &Path, run_dir: &Path) -> anyhow::Result<Self> {
        let (own, keys) = (geteuid().as_raw(), path.join("keys"));
        // Workloads of other users reach the sockets below; keys and store have modes of their own.
        made(path, 0o755)?;
        closed(path, 0o022, "others may exchange the store and the keys", "chmod go-w")?;
        owned(path, own)?;
        made(&keys, 0o700)?;
        closed(&keys, 0o077, "others may reach the private keys", "chmod 700")?;
        made(run_dir, 0o755)?;
        let inside = std::fs::read_dir(&keys).code(exit::IO)?.filter_map(|item| Some(item.ok()?.path()));
        let kept = KEPT.iter().map(|name| path.join(name));
        for path in [keys.clone()].into_iter().chain(inside).chain(kept) {
            owned(&path, own)?;
        }
        Ok(Self { path: path.to_owned() })
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Opens the store of a role; refuses one of another role or trust domain.
    pub(crate) fn store(&self, role: &str, trust_domain: &str) -> anyhow::Result<Store> {
        self.open("midge.db", role, trust_domain)
    }

    /// Refuses the store of another node: CA, SVIDs and entries in it are of that name. One that does not say whose it
    /// is, of an older version, is taken over.
    pub(crate) async fn claim(&self, store: &Store, node: &str) -> anyhow::Result<()> {
        const NODE: &str = "node";
        let Some(owner) = store.get(NODE).await.code(exit::IO)? else {
            let batch = Batch::new().put(NODE, node);
            return store.commit(batch, Durability::PowerLoss).await.code(exit::IO);
        };
        let owner = String::from_utf8_lossy(&owner);
        if owner == node {
            return Ok(());
        }
        let path = self.path.display();
        Err(failure(
            exit::CONFIG,
            format!(
                "{path} belongs to node \"{owner}\", not to \"{node}\": its certificates and entries bear that name; \
                 set node = \"{owner}\" or choose another data-dir"
            ),
        ))
    }

    /// Opens the store of the broker's sessions and messages.
    pub(crate) fn mqtt_store(&self, trust_domain: &str) -> anyhow::Result<Store> {
        self.open("mqtt.db", "mqtt", trust_domain)
    }

    fn open(&self, name: &str, role: &str, trust_domain: &str) -> anyhow::Result<Store> {
        let path = self.path.join(name);
        Store::open(&path, &StoreInfo::new(role, trust_domain)).map_err(|error| {
            let code = match &error {
                OpenError::InUse { .. } => exit::UNAVAILABLE,
                OpenError::Permissions { .. } => exit::PERMISSION,
                OpenError::Io { .. }
                | OpenError::Full { .. }
                | OpenError::Corrupted { .. }
                | OpenError::OrphanLog { .. } => exit::IO,
                _ => exit::CONFIG,
            };
            failure(code, error.to_string())
        })
    }
}

/// The audit log's newest file.
pub(crate) fn audit_log(data_dir: &Path) -> PathBuf {
    data_dir.join("audit.jsonl")
}

/// The key that signs the audit log.
pub(crate) fn audit_key(data_dir: &Path) -> PathBuf {
    data_dir.join("keys/audit.key")
}

/// What Midge keeps beside the keys, and nobody else may own.
const KEPT: [&str; 12] = [
    "midge.db",
    "midge.db-wal",
    "midge.db-shm",
    "midge.db-journal",
    "midge.db.lock",
    "mqtt.db",
    "mqtt.db-wal",
    "mqtt.db-shm",
    "mqtt.db-journal",
    "mqtt.db.lock",
    "audit.jsonl",
    "node-audit",
];

/// Refuses a directory that lets others do what these bits of its mode say.
fn closed(dir: &Path, bits: u32, harm: &str, remedy: &str) -> anyhow::Result<()> {
    let mode = metadata(dir).code(exit::IO)?.mode() & 0o7777;
    if mode & bits == 0 {
        return Ok(());
    }
    let dir = dir.display();
    Err(failure(exit::PERMISSION, format!("{dir} has mode {mode:04o}: {harm}; run {remedy} {dir}")))
}

/// Refuses what belongs to somebody else: its owner may change it, whatever its mode. Root may do that anyway.
fn owned(path: &Path, own: u32) -> anyhow::Result<()> {
    let owner = match metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.code(exit::IO)?.uid(),
    };
    if owner == own || owner == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(failure(
        exit::PERMISSION,
        format!(
            "{path} belongs to uid {owner}, who may change it, and Midge runs as uid {own}: run Midge as its owner, \
             or chown {own} {path}"
        ),
    ))
}

fn made(dir: &Path, mode: u32) -> anyhow::Result<()> {
    make(dir, mode)
        .with_context(|| format!("cannot make {} (data-dir); choose another or create it", dir.display()))
        .code(exit::IO)
}

/// Makes a directory with this mode, whatever the umask; one that exists keeps its own.
fn make(dir: &Path, mode: u32) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    set_permissions(dir, Permissions::from_mode(mode))
}

/// Returns a path for others, who may look from elsewhere than where the process was started.
pub(crate) fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Binds a Unix socket with this mode; one that a killed process left behind is replaced.
pub(crate) fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<(tokio::net::UnixListener, SocketName)> {
    clear_socket(path).map_err(|taken| {
        let path = path.display();
        match taken {
            SocketTaken::InUse => {
                failure(exit::UNAVAILABLE, format!("{path} is served by another process; stop it first"))
            }
            SocketTaken::NotASocket => {
                failure(exit::CONFIG, format!("{path} exists and is not a socket; move it away"))
            }
            SocketTaken::Io(error) => failure(exit::IO, format!("cannot replace {path}: {error}")),
        }
    })?;
    let listener = tokio::net::UnixListener::bind(path)
        .with_context(|| format!("cannot bind {}", path.display()))
        .code(exit::IO)?;
    let name = SocketName::of(path).code(exit::IO)?;
    set_permissions(path, Permissions::from_mode(mode)).code(exit::IO)?;
    Ok((listener, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: u32 = 65_534;

    fn told(dir: &Path) -> Option<String> {
        DataDir::prepare(dir, &dir.join("run")).err().map(|error| error.to_string())
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("data");
        assert_eq!(told(&dir), None);
        let shown = dir.display().to_string();
        for mode in [0o777, 0o775, 0o757, 0o720, 0o702, 0o1777] {
            set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            let told = told(&dir).unwrap();
            assert!(
                told.contains(&format!("{mode:04o}")) && told.contains(&format!("chmod go-w {shown}")),
                "{told}"
            );
        }
        for mode in [0o755, 0o750, 0o700] {
            set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            assert_eq!(told(&dir), None);
        }
    }

    #[test]
    fn what_somebody_else_owns_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("data");
        assert_eq!(told(&dir), None);
        for name in ["midge.db", "mqtt.db-wal", "audit.jsonl", "keys/x509-ca-a.key", "unrelated"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        assert_eq!(told(&dir), None);
        let own = geteuid().as_raw();
        assert!(owned(&dir, own + 1).is_err() == (own != 0), "root may own everything");
        if own != 0 {
            return;
        }
        for name in [".", "keys", "midge.db", "mqtt.db-wal", "audit.jsonl", "keys/x509-ca-a.key"] {
            let path = if name == "." { dir.clone() } else { dir.join(name) };
            std::os::unix::fs::chown(&path, Some(NOBODY), None).unwrap();
            let told = told(&dir).unwrap();
            assert!(told.contains(&path.display().to_string()) && told.contains("65534"), "{told}");
            std::os::unix::fs::chown(&path, Some(own), None).unwrap();
        }
        std::os::unix::fs::chown(dir.join("unrelated"), Some(NOBODY), None).unwrap();
        assert_eq!(told(&dir), None);
    }
}
