//! What `edge.toml` and `agent.toml` say.

use super::{AuditSection, HttpConfig, IssuerSection, LogConfig, run_dir};
use midge_broker::MqttConfig;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `edge.toml`: the edge box, with its cloud or standalone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct EdgeConfig {
    /// Trust domain, such as `plant.example`.
    pub trust_domain: String,
    /// Name of this box: its identity is `spiffe://<trust-domain>/edge/<node>`.
    pub node: String,
    /// Directory for keys, store and audit log.
    #[serde(default = "data_dir")]
    pub data_dir: PathBuf,
    /// Directory for the admin and Workload API sockets; default: `run` in `data-dir`.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    /// Lets the user that runs midge do everything: for measuring and conformance suites only.
    #[serde(default)]
    pub open_to_own_uid: bool,
    /// The cloud this box belongs to; absent means standalone with a root of its own.
    #[serde(default)]
    pub cloud: Option<CloudLink>,
    /// Where MQTT is served.
    #[serde(default)]
    pub mqtt: MqttConfig,
    /// Lifetimes.
    #[serde(default)]
    pub issuer: IssuerSection,
    /// Rules.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// The box's own MQTT client.
    #[serde(default)]
    pub event_bus: EventBusSection,
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

/// Section `[cloud]` of the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct CloudLink {
    /// Bootstrap address, such as `https://cloud.example:10002`.
    pub bootstrap: String,
    /// Channel address, such as `wss://cloud.example:10000`.
    pub channel: String,
    /// File with the join token (0600); needed until the box has enrolled.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
}

/// Section `[policy]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct PolicyConfig {
    /// Directory whose `*.toml` files hold rules; read at start and whenever they change.
    pub dir: Option<PathBuf>,
    /// Directory of a candidate's `*.toml` files, evaluated beside those in force while there are any.
    pub shadow: Option<PathBuf>,
    /// Whether the built-in rules for mappers, event-bus and boxes apply.
    pub builtin: bool,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { dir: None, shadow: None, builtin: true }
    }
}

/// Section `[event-bus]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct EventBusSection {
    /// Whether the event-bus runs.
    pub enabled: bool,
}

impl Default for EventBusSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl EdgeConfig {
    pub(crate) fn run_dir(&self) -> PathBuf {
        run_dir(self.run_dir.as_ref(), &self.data_dir)
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.run_dir().join("admin.sock")
    }

    pub(crate) fn workload_socket(&self) -> PathBuf {
        self.run_dir().join("workload.sock")
    }
}

/// `agent.toml`: an agent in a process of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct AgentConfig {
    /// Admin socket of the edge on this host.
    #[serde(default = "admin_socket")]
    pub edge_socket: PathBuf,
    /// Path of the Workload API socket.
    #[serde(default = "workload_socket")]
    pub workload_socket: PathBuf,
    /// SPIFFE ID of this agent: that of the box, or one below its `/agent/`; default: the box's.
    #[serde(default)]
    pub agent_id: Option<String>,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
}

fn data_dir() -> PathBuf {
    "/var/lib/midge".into()
}

fn admin_socket() -> PathBuf {
    crate::DEFAULT_ADMIN_SOCKET.into()
}

fn workload_socket() -> PathBuf {
    "/run/midge-agent/workload.sock".into()
}
