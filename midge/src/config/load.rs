//! Loads configuration files and says what is wrong with them, with key and remedy.

use super::{AgentConfig, CloudConfig, EdgeConfig, LogConfig};
use http::Uri;
use midge_identity::{TrustDomain, node_id};
use serde::de::DeserializeOwned;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Shortest default lifetime of SVIDs in seconds: with less, connections end before renewed SVIDs have replaced theirs.
const SVID_TTL_SECS_MIN: u32 = 5;

/// Which program a file configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Edge,
    Cloud,
    Agent,
}

impl Role {
    /// Its command.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Cloud => "cloud",
            Self::Agent => "agent",
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}")]
    Invalid { path: PathBuf, message: String },
}

/// Loads and checks one file.
pub(crate) fn load<T: Checked>(path: &Path) -> Result<T, ConfigError> {
    let text = read(path)?;
    parse(path, &text)
}

/// Parses a file of whichever role it is: the role whose keys it has.
pub(crate) fn parse_any(path: &Path) -> Result<Role, ConfigError> {
    let text = read(path)?;
    let role = guess_role(path, &text, 1)?.unwrap_or(Role::Cloud);
    match role {
        Role::Edge => parse::<EdgeConfig>(path, &text).map(drop)?,
        Role::Cloud => parse::<CloudConfig>(path, &text).map(drop)?,
        Role::Agent => parse::<AgentConfig>(path, &text).map(drop)?,
    }
    Ok(role)
}

/// The role of whose keys the file has so many.
fn guess_role(path: &Path, text: &str, least: usize) -> Result<Option<Role>, ConfigError> {
    const EDGE: [&str; 6] = ["node", "mqtt", "cloud", "policy", "event-bus", "open-to-own-uid"];
    const AGENT: [&str; 3] = ["edge-socket", "workload-socket", "agent-id"];
    const CLOUD: [&str; 5] =
        ["bootstrap", "channel", "edge-ca-ttl-secs", "node-svid-ttl-secs", "node-audit-bytes-max"];
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    let has = |keys: &[&str]| keys.iter().filter(|key| table.contains_key(**key)).count() >= least;
    if table.contains_key("rule") {
        let message = "this is a policy file, not a configuration: `midge policy check` reads it".to_owned();
        return Err(ConfigError::Invalid { path: path.to_owned(), message });
    }
    let roles = [(Role::Edge, &EDGE[..]), (Role::Agent, &AGENT), (Role::Cloud, &CLOUD)];
    Ok(roles.into_iter().find(|(_, keys)| has(keys)).map(|(role, _)| role))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn parse<T: Checked>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let invalid = |message: String| ConfigError::Invalid { path: path.to_owned(), message };
    // A file of another role has many keys that this one does not know: the first of them says little. One such key alone
    // is a mistake in a file of this role.
    if let Some(role) = guess_role(path, text, 2)?.filter(|role| *role != T::ROLE) {
        return Err(invalid(format!("this is a configuration for `midge {}`", role.name())));
    }
    let config: T = toml::from_str(text).map_err(|error| invalid(error.to_string().trim_end().to_owned()))?;
    let problems = config.problems();
    if problems.is_empty() { Ok(config) } else { Err(invalid(problems.join("\n"))) }
}

/// What TOML's types cannot say.
pub(crate) trait Checked: DeserializeOwned {
    /// Whose configuration it is.
    const ROLE: Role;

    /// Every problem, each with its key and the remedy.
    fn problems(&self) -> Vec<String>;
}

impl Checked for EdgeConfig {
    const ROLE: Role = Role::Edge;

    fn problems(&self) -> Vec<String> {
        let mut problems = trust_domain_problems(&self.trust_domain);
        let is_name = TrustDomain::new("example.org").and_then(|domain| node_id(&domain, &self.node)).is_ok();
        if !is_name {
            problems.push(format!(
                "node = \"{}\": use letters, digits, `.`, `-` and `_` (SPIFFE-ID §2.2)",
                self.node
            ));
        }
        problems.extend(issuer_problems(&self.issuer));
        problems.extend(self.mqtt.problems());
        problems.extend(federation_problems(&self.trust_domain, &self.mqtt.federates_with));
        problems.extend(self.audit.problems());
        if let Some(cloud) = &self.cloud {
            for (key, value, scheme) in [
                ("cloud.bootstrap", &cloud.bootstrap, "https://"),
                ("cloud.channel", &cloud.channel, "wss://"),
            ] {
                if !value.starts_with(scheme) {
                    problems.push(format!("{key} = \"{value}\": must start with {scheme}"));
                } else if !is_address(value) {
                    problems
                        .push(format!("{key} = \"{value}\": write {scheme}host:port, and nothing after it"));
                }
            }
        }
        problems.extend(log_problems(&self.log));
        problems.extend(port_problems(&[
            ("mqtt.tls", self.mqtt.tls),
            ("mqtt.tcp", self.mqtt.tcp),
            ("mqtt.websocket-tls", self.mqtt.websocket_tls),
            ("mqtt.websocket-loopback", self.mqtt.websocket_loopback),
            ("http.address", self.http.address),
        ]));
        if self.event_bus.enabled && self.mqtt.tls.is_none() {
            problems.push(
                "event-bus.enabled = true needs mqtt.tls: the event-bus is a client of that listener".into(),
            );
        }
        problems
    }
}

impl Checked for CloudConfig {
    const ROLE: Role = Role::Cloud;

    fn problems(&self) -> Vec<String> {
        let mut problems = trust_domain_problems(&self.trust_domain);
        problems.extend(issuer_problems(&self.issuer));
        problems.extend(self.audit.problems());
        if self.audit.stream {
            problems.push("audit.stream = true: a cloud has no MQTT broker; stream at the boxes".into());
        }
        problems.extend(log_problems(&self.log));
        problems.extend(port_problems(&[
            ("bootstrap", Some(self.bootstrap)),
            ("channel", Some(self.channel)),
            ("http.address", self.http.address),
        ]));
        for (key, secs) in
            [("edge-ca-ttl-secs", self.edge_ca_ttl_secs), ("node-svid-ttl-secs", self.node_svid_ttl_secs)]
        {
            if secs < SVID_TTL_SECS_MIN * 6 {
                problems.push(format!("{key} = {secs}: write {} or more", SVID_TTL_SECS_MIN * 6));
            }
        }
        if self.edge_ca_ttl_secs > self.issuer.ca_ttl_secs {
            problems.push(format!(
                "edge-ca-ttl-secs = {}: longer than issuer.ca-ttl-secs = {}; an intermediate cannot outlive its root",
                self.edge_ca_ttl_secs, self.issuer.ca_ttl_secs
            ));
        }
        problems
    }
}

impl Checked for AgentConfig {
    const ROLE: Role = Role::Agent;

    fn problems(&self) -> Vec<String> {
        let id = self.agent_id.as_deref();
        let wrong = id.and_then(|id| midge_identity::parse_spiffe_id(id).err().map(|error| (id, error)));
        let problem = wrong.map(|(id, error)| {
            format!("agent-id = \"{id}\": {error}; write spiffe://<trust domain>/edge/<node>/agent/<host>")
        });
        problem.into_iter().chain(log_problems(&self.log)).collect()
    }
}

/// Whether it is `scheme://host:port`, as a connection to the cloud needs it.
fn is_address(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|uri| {
        let has_port = uri.port_u16().is_some_and(|port| port > 0);
        let is_plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        has_port
            && is_plain
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.path_and_query().is_none_or(|path| path == "/")
    })
}

fn log_problems(log: &LogConfig) -> Option<String> {
    midge_runtime::logs::check(&log.filter).err().map(|error| format!("log.filter: {error}"))
}

/// Finds listeners that cannot both have their port; 0 is a port of its own each time.
fn port_problems(listeners: &[(&str, Option<SocketAddr>)]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut before: Vec<(&str, SocketAddr)> = Vec::new();
    for (key, address) in listeners.iter().filter_map(|(key, address)| address.map(|address| (*key, address)))
    {
        for (other, taken) in &before {
            if address.port() != 0 && address.port() == taken.port() && overlap(address.ip(), taken.ip()) {
                problems.push(format!(
                    "{key} = \"{address}\": {other} = \"{taken}\" has that port; choose another"
                ));
            }
        }
        before.push((key, address));
    }
    problems
}

fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    // `[::]` takes connections of IPv4 too.
    let takes = |all: IpAddr, other: IpAddr| all.is_unspecified() && (all.is_ipv6() || other.is_ipv4());
    one == other || takes(one, other) || takes(other, one)
}

fn trust_domain_problems(name: &str) -> Vec<String> {
    let valid = TrustDomain::new(name).is_ok_and(|domain| domain.as_str() == name);
    if valid {
        Vec::new()
    } else {
        vec![format!(
            "trust-domain = \"{name}\": use lower-case letters, digits, `.`, `-` and `_`, without scheme (SPIFFE-ID §2.1)"
        )]
    }
}

fn federation_problems(own: &str, names: &[String]) -> Vec<String> {
    let wrong = |name: &String| {
        let valid = TrustDomain::new(name).is_ok_and(|domain| domain.as_str() == name);
        if !valid {
            Some(format!(
                "mqtt.federates-with: \"{name}\" is not a trust domain; write it in lower case without scheme, such as \"other.org\""
            ))
        } else if name == own {
            Some(format!("mqtt.federates-with: \"{name}\" is the own trust domain; leave it out"))
        } else {
            None
        }
    };
    names.iter().filter_map(wrong).collect()
}

fn issuer_problems(issuer: &super::IssuerSection) -> Vec<String> {
    let mut problems = Vec::new();
    if issuer.x509_svid_ttl_secs < SVID_TTL_SECS_MIN {
        problems.push(format!(
            "issuer.x509-svid-ttl-secs = {}: write {SVID_TTL_SECS_MIN} or more; SVIDs are renewed at half of their life",
            issuer.x509_svid_ttl_secs
        ));
    }
    // spiffe.md §2.2: a full SVID lifetime is only sure up to a sixth of the CA's.
    if u64::from(issuer.x509_svid_ttl_secs) * 6 > u64::from(issuer.ca_ttl_secs) {
        problems.push(format!(
            "issuer.x509-svid-ttl-secs = {}: at most a sixth of issuer.ca-ttl-secs = {}, or SVIDs are cut short before each CA rotation",
            issuer.x509_svid_ttl_secs, issuer.ca_ttl_secs
        ));
    }
    problems
}
