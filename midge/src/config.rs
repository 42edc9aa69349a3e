//! Configuration files: one TOML file per role, every key with a default that is safe.

mod cloud;
mod edge;
mod load;
#[cfg(test)]
mod tests;

pub(crate) use cloud::CloudConfig;
pub(crate) use edge::{AgentConfig, CloudLink, EdgeConfig, PolicyConfig};
pub(crate) use load::{ConfigError, Role, load, parse_any};

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

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    #[default]
    Human,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".into() }
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
