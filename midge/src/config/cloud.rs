//! What `cloud.toml` says.

use super::{AuditSection, HttpConfig, IssuerSection, LogConfig, run_dir};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `cloud.toml`: the cloud end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct CloudConfig {
    /// Trust domain, such as `plant.example`.
    pub trust_domain: String,
    /// Directory for keys, store and audit.
    #[serde(default = "data_dir")]
    pub data_dir: PathBuf,
    /// Directory for the admin socket; default: `run` in `data-dir`.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    /// Address of the bootstrap endpoints `/ca.crt` and `/edge.crt` (HTTPS).
    #[serde(default = "bootstrap")]
    pub bootstrap: SocketAddr,
    /// Address of the edgehub channel (websocket over mTLS).
    #[serde(default = "channel")]
    pub channel: SocketAddr,
    /// Lifetime of an edge's intermediate CA in seconds: how long a box lasts without the cloud.
    #[serde(default = "edge_ca_ttl")]
    pub edge_ca_ttl_secs: u32,
    /// Lifetime of a node's own SVID in seconds.
    #[serde(default = "node_svid_ttl")]
    pub node_svid_ttl_secs: u32,
    /// Bytes of the audit log kept of each node: the oldest files are deleted.
    #[serde(default = "node_audit_bytes_max")]
    pub node_audit_bytes_max: u64,
    /// Lifetimes.
    #[serde(default = "issuer")]
    pub issuer: IssuerSection,
    /// Audit log.
    #[serde(default)]
    pub audit: AuditSection,
    /// Health and metrics.
    #[serde(default)]
    pub http: HttpConfig,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
}

impl CloudConfig {
    pub(crate) fn run_dir(&self) -> PathBuf {
        run_dir(self.run_dir.as_ref(), &self.data_dir)
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.run_dir().join("admin.sock")
    }
}

fn data_dir() -> PathBuf {
    "/var/lib/midge-cloud".into()
}

fn bootstrap() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 10_002))
}

fn channel() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 10_000))
}

fn edge_ca_ttl() -> u32 {
    90 * 24 * 3600
}

fn node_svid_ttl() -> u32 {
    90 * 24 * 3600
}

fn node_audit_bytes_max() -> u64 {
    256 * 1024 * 1024
}

fn issuer() -> IssuerSection {
    // The root outlives every edge CA it signs, several times over.
    IssuerSection { ca_ttl_secs: 5 * 365 * 24 * 3600, x509_svid_ttl_secs: 3600 }
}
