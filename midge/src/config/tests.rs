use super::edge::{EventBusSection, PolicyConfig};
use super::load::Checked;
use super::*;
use midge_broker::{LimitsConfig, MqttConfig, SubscribeModes};
use serde::de::{Deserializer, Visitor, value::Error as FieldsError};
use std::collections::BTreeSet;
use std::path::Path;
use toml::{Table, Value};

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf")
}

fn conf_text(name: &str) -> String {
    std::fs::read_to_string(conf().join(name)).unwrap()
}

/// Names of the fields of a struct, as serde knows them.
struct Fields<'a>(&'a mut BTreeSet<String>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = FieldsError;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, FieldsError> {
        Err(serde::de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, FieldsError> {
        self.0.extend(fields.iter().map(|field| (*field).to_owned()));
        Err(serde::de::Error::custom("only the names were wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn keys<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    assert!(T::deserialize(Fields(&mut names)).is_err());
    assert!(!names.is_empty());
    names
}

/// The file with its optional keys set: `# key = …` and `# [section]` lines without their `# `.
fn with_optional_keys(text: &str) -> String {
    let is_key = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '-' | '0'..='9'))
    };
    let lines = text.lines().map(|line| {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let section = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let key = bare.split_once(" = ").map(|(key, _)| key);
        if section.or(key).is_some_and(is_key) { bare } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn names_every_key<T: Checked>(file: &str, sections: &[(&str, BTreeSet<String>)]) {
    let text = with_optional_keys(&conf_text(file));
    let table: Table = toml::from_str(&text).unwrap();
    let present = |table: &Table| table.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(present(&table), keys::<T>(), "{file}");
    for (name, value) in &table {
        let Value::Table(section) = value else { continue };
        let known = sections.iter().find(|(known, _)| known == name);
        let (_, expected) = known.unwrap_or_else(|| panic!("{file}: section {name} is not compared here"));
        assert_eq!(present(section), *expected, "{file}: [{name}]");
        // A section within a section.
        for (inner, value) in section {
            let Value::Table(inner_section) = value else { continue };
            let inner = format!("{name}.{inner}");
            let known = sections.iter().find(|(known, _)| *known == inner);
            let (_, expected) = known.unwrap_or_else(|| panic!("{file}: [{inner}] is not compared here"));
            assert_eq!(present(inner_section), *expected, "{file}: [{inner}]");
        }
    }
    let config: T = toml::from_str(&text).unwrap();
    assert_eq!(config.problems(), [""; 0], "{file}: the optional keys have good examples");
}

/// What the file says, that and nothing else, is what holds with the required keys alone.
fn is_all_defaults<T: Checked + Serialize>(file: &str, required: &[&str]) {
    let full: Table = toml::from_str(&conf_text(file)).unwrap();
    let minimal: Table = full
        .iter()
        .filter(|(key, _)| required.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    assert_eq!(minimal.len(), required.len());
    let defaults = Table::try_from(minimal.try_into::<T>().unwrap()).unwrap();
    // Sections in which every key is optional say nothing by themselves.
    let spoken = |table: Table| -> Table {
        table
            .into_iter()
            .filter(|(_, value)| value.as_table().is_none_or(|section| !section.is_empty()))
            .collect()
    };
    assert_eq!(spoken(full), spoken(defaults), "{file}");
}

#[test]
fn every_file_in_conf_loads() {
    let mut count = 0;
    for item in std::fs::read_dir(conf()).unwrap() {
        let path = item.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        let expected = match path.file_stem().unwrap().to_str().unwrap() {
            "cloud" | "cloud.full" => Role::Cloud,
            "agent" | "agent.full" => Role::Agent,
            _ => Role::Edge,
        };
        assert_eq!(parse_any(&path).unwrap(), expected, "{}", path.display());
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn a_file_of_another_role_is_told_as_such() {
    let told = |error: ConfigError| error.to_string();
    let text = load::<CloudConfig>(&conf().join("standalone.toml")).map(drop).map_err(told).unwrap_err();
    assert!(text.ends_with("this is a configuration for `midge edge`"), "{text}");
    let text = load::<EdgeConfig>(&conf().join("cloud.full.toml")).map(drop).map_err(told).unwrap_err();
    assert!(text.ends_with("this is a configuration for `midge cloud`"), "{text}");
    let text = parse_any(&conf().join("policies/default.toml")).map_err(told).unwrap_err();
    assert!(text.contains("this is a policy file") && text.contains("midge policy check"), "{text}");
}

#[tokio::test]
async fn the_policies_in_conf_load() {
    let policy =
        PolicyConfig { dir: Some(conf().join("policies")), builtin: false, ..PolicyConfig::default() };
    assert!(crate::parts::policy::file_rules(&policy, None).await.unwrap().sources.policy().rules() > 0);
}

#[test]
fn the_full_edge_file_names_every_key_at_its_default() {
    let sections = [
        ("cloud", keys::<CloudLink>()),
        ("mqtt", keys::<MqttConfig>()),
        ("mqtt.limits", keys::<LimitsConfig>()),
        ("mqtt.subscribe-mode", keys::<SubscribeModes>()),
        ("issuer", keys::<IssuerSection>()),
        ("policy", keys::<PolicyConfig>()),
        ("audit", keys::<AuditSection>()),
        ("event-bus", keys::<EventBusSection>()),
        ("http", keys::<HttpConfig>()),
        ("log", keys::<LogConfig>()),
    ];
    names_every_key::<EdgeConfig>("edge.full.toml", &sections);
    is_all_defaults::<EdgeConfig>("edge.full.toml", &["trust-domain", "node"]);
}

#[test]
fn the_full_cloud_file_names_every_key_at_its_default() {
    let sections = [
        ("issuer", keys::<IssuerSection>()),
        ("audit", keys::<AuditSection>()),
        ("http", keys::<HttpConfig>()),
        ("log", keys::<LogConfig>()),
    ];
    names_every_key::<CloudConfig>("cloud.full.toml", &sections);
    is_all_defaults::<CloudConfig>("cloud.full.toml", &["trust-domain"]);
}

#[test]
fn the_full_agent_file_names_every_key_at_its_default() {
    names_every_key::<AgentConfig>("agent.full.toml", &[("log", keys::<LogConfig>())]);
    is_all_defaults::<AgentConfig>("agent.full.toml", &[]);
}

fn refusal<T: Checked + std::fmt::Debug>(text: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let error = load::<T>(file.path()).unwrap_err();
    assert!(matches!(error, ConfigError::Invalid { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&file.path().display().to_string()), "{text}");
    text
}

const EDGE: &str = "trust-domain = \"plant.example\"\nnode = \"box-1\"\n";

#[test]
fn wrong_edge_files_are_refused_with_the_key_and_the_remedy() {
    let cloud = |bootstrap: &str, channel: &str| {
        format!("{EDGE}[cloud]\nbootstrap = \"{bootstrap}\"\nchannel = \"{channel}\"\n")
    };
    for (text, key, remedy) in [
        (format!("{EDGE}data-dri = \"x\"\n"), "`data-dri`", "`data-dir`"),
        (format!("{EDGE}[mqtt]\nport = 1883\n"), "`port`", "`tcp`"),
        (format!("{EDGE}[mqtt]\ntls = 8883\n"), "tls = 8883", "expected a string"),
        (format!("{EDGE}[mqtt]\ntls = \"box-1\"\n"), "tls = \"box-1\"", "write IP:PORT"),
        (format!("{EDGE}[issuer\n"), "line 3", "]"),
        ("node = \"box-1\"\n".into(), "node", "missing field `trust-domain`"),
        ("trust-domain = \"plant.example\"\n".into(), "trust-domain", "missing field `node`"),
        (
            "trust-domain = \"Plant.example\"\nnode = \"b\"\n".into(),
            "trust-domain = \"Plant.example\"",
            "use lower-case",
        ),
        ("trust-domain = \"spiffe://plant\"\nnode = \"b\"\n".into(), "trust-domain = ", "without scheme"),
        ("trust-domain = \"plant\"\nnode = \"a/b\"\n".into(), "node = \"a/b\"", "use letters, digits"),
        ("trust-domain = \"plant\"\nnode = \"..\"\n".into(), "node = \"..\"", "use letters, digits"),
        (format!("{EDGE}[issuer]\nx509-svid-ttl-secs = 0\n"), "issuer.x509-svid-ttl-secs = 0", "5 or more"),
        (format!("{EDGE}[mqtt]\nconnections-max = 0\n"), "mqtt.connections-max = 0", "2 or more"),
        (
            format!("{EDGE}[mqtt.limits]\ntopic-levels-max = 0\n"),
            "mqtt.limits.topic-levels-max = 0",
            "8 or more",
        ),
        (
            format!("{EDGE}[mqtt]\ntcp = \"0.0.0.0:1883\"\n"),
            "mqtt.tcp = \"0.0.0.0:1883\"",
            "not a loopback address",
        ),
        (
            format!("{EDGE}[mqtt]\ntcp = \"127.0.0.1:8883\"\n"),
            "mqtt.tcp = \"127.0.0.1:8883\"",
            "mqtt.tls = \"0.0.0.0:8883\"",
        ),
        (format!("{EDGE}[http]\naddress = \"[::]:1883\"\n"), "http.address = \"[::]:1883\"", "mqtt.tcp"),
        (format!("{EDGE}[log]\nfilter = \"inof\"\n"), "log.filter", "use a level such as info"),
        (
            format!("{EDGE}[log]\nfilter = \"info,midge_broker=debgu\"\n"),
            "log.filter",
            "use a level such as info",
        ),
        (cloud("https://", "wss://c:2"), "cloud.bootstrap = \"https://\"", "write https://host:port"),
        (
            cloud("https://c:99999", "wss://c:2"),
            "cloud.bootstrap = \"https://c:99999\"",
            "write https://host:port",
        ),
        (cloud("https://c:1", "wss://c:abc"), "cloud.channel = \"wss://c:abc\"", "write wss://host:port"),
        (cloud("https://c:1", "wss://c"), "cloud.channel = \"wss://c\"", "write wss://host:port"),
        (cloud("https://c:1/x", "wss://c:2"), "cloud.bootstrap = \"https://c:1/x\"", "nothing after it"),
        (
            format!("{EDGE}[issuer]\nx509-svid-ttl-secs = 3600\nca-ttl-secs = 21599\n"),
            "issuer.x509-svid-ttl-secs = 3600",
            "at most a sixth of issuer.ca-ttl-secs = 21599",
        ),
        (cloud("http://c:1", "wss://c:2"), "cloud.bootstrap", "must start with https://"),
        (cloud("https://c:1", "ws://c:2"), "cloud.channel", "must start with wss://"),
        (format!("{EDGE}[log]\nformat = \"xml\"\n"), "format", "`json`"),
    ] {
        let error = refusal::<EdgeConfig>(&text);
        assert!(error.contains(key) && error.contains(remedy), "{text}: {error}");
    }
}

#[test]
fn addresses_that_do_not_meet_are_taken() {
    let config = |mqtt: &str, rest: &str| {
        toml::from_str::<EdgeConfig>(&format!("{EDGE}[mqtt]\n{mqtt}\n{rest}")).unwrap()
    };
    let cloud =
        "[cloud]\nbootstrap = \"https://[::1]:10002/\"\nchannel = \"wss://cloud.plant.example:10000\"";
    for (mqtt, rest) in [
        ("tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"", cloud),
        ("tls = \"192.0.2.1:8883\"\ntcp = \"127.0.0.1:8883\"", ""),
        ("tls = \"0.0.0.0:8883\"\ntcp = \"[::1]:8883\"", "[log]\nfilter = \"warn,midge_broker=debug\""),
        ("packet-size-max = 1024", "[issuer]\nx509-svid-ttl-secs = 5"),
    ] {
        assert_eq!(config(mqtt, rest).problems(), [""; 0], "{mqtt}");
    }
}

#[test]
fn every_problem_of_a_file_is_told_at_once() {
    let error = refusal::<EdgeConfig>("trust-domain = \"A\"\nnode = \"b c\"\n[issuer]\nca-ttl-secs = 60\n");
    for key in ["trust-domain", "node", "issuer.x509-svid-ttl-secs"] {
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn wrong_cloud_and_agent_files_are_refused_with_the_key_and_the_remedy() {
    let cloud = "trust-domain = \"plant.example\"\n";
    let error = refusal::<CloudConfig>(&format!("{cloud}edge-ca-ttl-secs = 4000000000\n"));
    assert!(
        error.contains("edge-ca-ttl-secs = 4000000000") && error.contains("issuer.ca-ttl-secs"),
        "{error}"
    );
    let error =
        refusal::<CloudConfig>(&format!("{cloud}node-svid-ttl-secs = 0\nchannel = \"127.0.0.1:10002\"\n"));
    assert!(
        error.contains("node-svid-ttl-secs = 0") && error.contains("bootstrap = \"0.0.0.0:10002\""),
        "{error}"
    );
    let error = refusal::<CloudConfig>(&format!("{cloud}node = \"box-1\"\n"));
    assert!(error.contains("`node`") && error.contains("`channel`"), "{error}");
    let error = refusal::<AgentConfig>("agent-id = \"box-1\"\n");
    assert!(error.contains("agent-id = \"box-1\"") && error.contains("/agent/<host>"), "{error}");
    let error = refusal::<AgentConfig>("[log]\nfilter = \"verbose\"\n");
    assert!(error.contains("log.filter") && error.contains("\"verbose\" is no level"), "{error}");
    let error = refusal::<AgentConfig>("socket = \"/run/a.sock\"\n");
    assert!(error.contains("`socket`") && error.contains("`workload-socket`"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load::<EdgeConfig>(Path::new("/nonexistent/edge.toml")).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(error.to_string().contains("/nonexistent/edge.toml"), "{error}");
}

#[test]
fn other_trust_domains_are_named_as_they_are_and_the_own_one_is_none() {
    let problems = |names: &[&str]| {
        let text =
            format!("trust-domain = \"plant.example\"\nnode = \"a\"\n[mqtt]\nfederates-with = {names:?}\n");
        let config: EdgeConfig = toml::from_str(&text).unwrap();
        config.problems()
    };
    assert!(problems(&["other.org", "third.org"]).is_empty());
    for (name, wanted) in [
        ("plant.example", "is the own trust domain"),
        ("spiffe://other.org", "without scheme"),
        ("Other.org", "in lower case"),
        ("*", "is not a trust domain"),
        ("", "is not a trust domain"),
    ] {
        let told = problems(&["other.org", name]);
        assert!(
            told.len() == 1 && told[0].starts_with("mqtt.federates-with: ") && told[0].contains(wanted),
            "{told:?}"
        );
    }
}
