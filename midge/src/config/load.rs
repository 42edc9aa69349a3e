use super::{AgentConfig, CloudConfig, EdgeConfig};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Which program a file configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Edge,
    Cloud,
    Agent,
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
    let role = guess_role(&text);
    match role {
        Role::Edge => parse::<EdgeConfig>(path, &text).map(drop)?,
        Role::Cloud => parse::<CloudConfig>(path, &text).map(drop)?,
        Role::Agent => parse::<AgentConfig>(path, &text).map(drop)?,
    }
    Ok(role)
}

fn guess_role(text: &str) -> Role {
    const EDGE: [&str; 6] = ["node", "mqtt", "cloud", "policy", "event-bus", "open-to-own-uid"];
    const AGENT: [&str; 3] = ["edge-socket", "workload-socket", "agent-id"];
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    let has = |keys: &[&str]| keys.iter().any(|key| table.contains_key(*key));
    if has(&EDGE) {
        Role::Edge
    } else if has(&AGENT) {
        Role::Agent
    } else {
        Role::Cloud
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn parse<T: Checked>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let invalid = |message: String| ConfigError::Invalid { path: path.to_owned(), message };
    let config: T = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let problems = config.problems();
    if problems.is_empty() { Ok(config) } else { Err(invalid(problems.join("\n"))) }
}

/// What TOML's types cannot say.
pub(crate) trait Checked: DeserializeOwned {
    /// Every problem, each with its key and the remedy.
    fn problems(&self) -> Vec<String>;
}

impl Checked for EdgeConfig {
    fn problems(&self) -> Vec<String> {
        let mut problems = trust_domain_problems(&self.trust_domain);
        let node = format!("spiffe://{}/edge/{}", "example.org", self.node);
        if self.node.contains('/') || midge_identity::SpiffeId::new(&node).is_err() {
            problems.push(format!(
                "node = \"{}\": use letters, digits, `.`, `-` and `_` (SPIFFE-ID §2.2)",
                self.node
            ));
        }
        problems.extend(issuer_problems(&self.issuer));
        problems.extend(self.mqtt.problems());
        problems.extend(self.audit.problems());
        if let Some(cloud) = &self.cloud {
            for (key, value, scheme) in [
                ("cloud.bootstrap", &cloud.bootstrap, "https://"),
                ("cloud.channel", &cloud.channel, "wss://"),
            ] {
                if !value.starts_with(scheme) {
                    problems.push(format!("{key} = \"{value}\": must start with {scheme}"));
                }
            }
        }
        if self.event_bus.enabled && self.mqtt.tls.is_none() {
            problems.push(
                "event-bus.enabled = true needs mqtt.tls: the event-bus is a client of that listener".into(),
            );
        }
        problems
    }
}

impl Checked for CloudConfig {
    fn problems(&self) -> Vec<String> {
        let mut problems = trust_domain_problems(&self.trust_domain);
        problems.extend(issuer_problems(&self.issuer));
        problems.extend(self.audit.problems());
        if self.audit.stream {
            problems.push("audit.stream = true: a cloud has no MQTT broker; stream at the boxes".into());
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
    fn problems(&self) -> Vec<String> {
        let id = self.agent_id.as_deref();
        let wrong = id.and_then(|id| midge_identity::parse_spiffe_id(id).err().map(|error| (id, error)));
        let problem = wrong.map(|(id, error)| {
            format!("agent-id = \"{id}\": {error}; write spiffe://<trust domain>/edge/<node>/agent/<host>")
        });
        problem.into_iter().collect()
    }
}

fn trust_domain_problems(name: &str) -> Vec<String> {
    let valid = midge_identity::TrustDomain::new(name).is_ok_and(|domain| domain.as_str() == name);
    if valid {
        Vec::new()
    } else {
        vec![format!(
            "trust-domain = \"{name}\": use lower-case letters, digits, `.`, `-` and `_`, without scheme (SPIFFE-ID §2.1)"
        )]
    }
}

fn issuer_problems(issuer: &super::IssuerSection) -> Vec<String> {
    let mut problems = Vec::new();
    if issuer.x509_svid_ttl_secs == 0 || issuer.ca_ttl_secs == 0 {
        problems.push("issuer: lifetimes must be above 0".into());
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
