//! Configuration files: one TOML file per role, every key with a default that is safe.

mod cloud;
mod edge;
mod load;
#[cfg(test)]
mod tests;

pub(crate) use cloud::CloudConfig;
pub(crate) use edge::{AgentConfig, CloudLink, EdgeConfig, PolicyConfig};
pub(crate) use load::{ConfigError, Role, load, parse_any};

use midge_audit::Bounds;
use midge_runtime::logs::LogFormat;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Section `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    /// `human` or `json`.
    pub format: LogFormat,
    /// Filter such as `info` or `info,midge_broker=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".into() }
    }
}

/// Section `[audit]`: the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct AuditSection {
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Seconds before the next file is begun, however small this one is.
    pub file_age_max_secs: u32,
    /// Bytes of all files together; the oldest are deleted.
    pub total_bytes_max: u64,
    /// Longest time in seconds that a line waits for a signature and stable storage.
    pub checkpoint_secs: u32,
    /// Whether a box publishes the lines at `$identity/audit/#`, to those who may subscribe there.
    pub stream: bool,
}

impl AuditSection {
    pub(crate) fn bounds(&self) -> Bounds {
        let Self { file_bytes_max, file_age_max_secs, total_bytes_max, checkpoint_secs, stream: _ } = *self;
        Bounds { file_bytes_max, file_age_max_secs, total_bytes_max, checkpoint_secs }
    }

    /// What cannot be meant, with its key.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.file_bytes_max < 64 * 1024 {
            problems.push(format!("audit.file-bytes-max = {}: at least 65536", self.file_bytes_max));
        }
        if self.total_bytes_max < self.file_bytes_max.saturating_mul(2) {
            problems.push(format!(
                "audit.total-bytes-max = {}: at least twice audit.file-bytes-max",
                self.total_bytes_max
            ));
        }
        if self.file_age_max_secs < 60 {
            problems.push(format!("audit.file-age-max-secs = {}: at least 60", self.file_age_max_secs));
        }
        if !(1..=3_600).contains(&self.checkpoint_secs) {
            problems.push(format!("audit.checkpoint-secs = {}: from 1 to 3600", self.checkpoint_secs));
        }
        problems
    }
}

impl Default for AuditSection {
    fn default() -> Self {
        let Bounds { file_bytes_max, file_age_max_secs, total_bytes_max, checkpoint_secs } =
            Bounds::default();
        Self { file_bytes_max, file_age_max_secs, total_bytes_max, checkpoint_secs, stream: false }
    }
}

/// Section `[http]`: health and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct HttpConfig {
    /// Address of `/live`, `/ready` and `/metrics`; absent means none.
    pub address: Option<SocketAddr>,
}

/// Section `[issuer]`: lifetimes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct IssuerSection {
    /// Lifetime of CA certificates in seconds.
    pub ca_ttl_secs: u32,
    /// Default lifetime of X.509-SVIDs in seconds.
    pub x509_svid_ttl_secs: u32,
}

impl Default for IssuerSection {
    fn default() -> Self {
        // An edge box must last for weeks without its cloud, unlike SPIRE's server (24 h).
        Self { ca_ttl_secs: 90 * 24 * 3600, x509_svid_ttl_secs: 3600 }
    }
}

/// Directory for sockets: as configured, else `run` in the data directory.
pub(crate) fn run_dir(configured: Option<&PathBuf>, data_dir: &std::path::Path) -> PathBuf {
    configured.cloned().unwrap_or_else(|| data_dir.join("run"))
}
