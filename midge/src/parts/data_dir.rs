//! The data directory: made if missing, checked before anything is read from it.

use crate::exit::{self, WithCode, failure};
use anyhow::Context as _;
use midge_runtime::{SocketTaken, clear_socket};
use midge_store::{Batch, Durability, OpenError, Store, StoreInfo};
use std::fs::{DirBuilder, Permissions, metadata, set_permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The directory of one role and what lies in it.
pub(crate) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Makes the directory, its key directory (0700) and the directory for sockets where they are missing.
    pub(crate) fn prepare(path: &Path, run_dir: &Path) -> anyhow::Result<Self> {
        // Workloads of other users reach the sockets below; keys and store have modes of their own.
        for (dir, mode) in [(path, 0o755), (&path.join("keys"), 0o700), (run_dir, 0o755)] {
            make(dir, mode)
                .with_context(|| {
                    format!("cannot make {} (data-dir); choose another or create it", dir.display())
                })
                .code(exit::IO)?;
        }
        let keys = path.join("keys");
        let mode = metadata(&keys).code(exit::IO)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            let keys = keys.display();
            return Err(failure(
                exit::PERMISSION,
                format!(
                    "{keys} has mode {mode:04o}: others may reach the private keys; run chmod 700 {keys}"
                ),
            ));
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

/// Makes a directory with this mode, whatever the umask; one that exists keeps its own.
fn make(dir: &Path, mode: u32) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    set_permissions(dir, Permissions::from_mode(mode))
}

/// Binds a Unix socket with this mode; one that a killed process left behind is replaced.
pub(crate) fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<tokio::net::UnixListener> {
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
    set_permissions(path, Permissions::from_mode(mode)).code(exit::IO)?;
    Ok(listener)
}
