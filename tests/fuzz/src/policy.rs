//! Rules as text: whatever compiles decides alike in every way it can be asked.

use midge_identity::SpiffeId;
use midge_policy::{Policy, PublishFacts, Rights, SubscribeMode};
use mqtt_proto::{QoS, SharedFilter, TopicName};

/// Identities and topic levels that rules are asked about.
const IDS: [&str; 4] = [
    "spiffe://plant/press",
    "spiffe://plant/edge/e1/mapper/m1",
    "spiffe://plant/edge/e1/app/a",
    "spiffe://other/x",
];
const LEVELS: [&str; 5] = ["a", "m1", "e1", "$x", ""];

/// A policy file, a line of `===`, and topic filters, one a line.
///
/// A filter that is granted whole may receive every topic it matches; one that is granted and filtered, or denied, is
/// asked for too. What one reading of the file permits, another does.
pub fn policy(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (rules, filters) = text.split_once("\n===\n").unwrap_or((text, "#\na/+"));
    let Ok(policy) = Policy::from_toml_str(rules, "fuzz.toml") else { return };
    let again = Policy::from_toml_str(rules, "fuzz.toml").expect("the same text compiled before");
    for id in IDS {
        let id = SpiffeId::new(id).expect("these are SPIFFE IDs");
        let rights = policy.rights(&id);
        let twin = again.rights(&id);
        for filter in filters.lines().take(8).filter_map(|filter| SharedFilter::new(filter).ok()) {
            hold(&rights, &twin, &filter);
        }
    }
}

fn hold(rights: &Rights, twin: &Rights, filter: &SharedFilter) {
    for mode in [SubscribeMode::Reject, SubscribeMode::Narrow, SubscribeMode::Filter] {
        let permit = rights.subscribe(filter, QoS::ExactlyOnce, mode);
        let again = twin.subscribe(filter, QoS::ExactlyOnce, mode);
        assert_eq!(permit.is_ok(), again.is_ok(), "{filter} {mode:?}");
        let Ok(permit) = permit else { continue };
        assert!(!permit.parts().is_empty(), "{filter} {mode:?}");
        for part in permit.parts().iter().filter(|part| !part.is_filtered()) {
            for topic in topics(part.filter().as_str()) {
                assert!(filter.filter.matches(&topic), "{filter} was granted {}", part.filter());
                assert!(
                    receives(rights, filter, &topic),
                    "{} is granted whole, {topic} is not",
                    part.filter()
                );
            }
        }
    }
    for topic in topics(filter.filter.as_str()) {
        assert!(filter.filter.matches(&topic), "{filter} on {topic}");
        assert_eq!(receives(rights, filter, &topic), receives(twin, filter, &topic), "{topic}");
        let publishes = |rights: &Rights| rights.publish(&topic, PublishFacts::default()).is_ok();
        assert_eq!(publishes(rights), publishes(twin), "{topic}");
    }
}

fn receives(rights: &Rights, filter: &SharedFilter, topic: &TopicName) -> bool {
    match &filter.group {
        None => rights.receive(topic).is_ok(),
        Some(group) => rights.receive_shared(topic, group).is_ok(),
    }
}

/// Some topics that a filter matches: every wildcard by every level.
fn topics(filter: &str) -> Vec<TopicName> {
    let mut texts = vec![String::new()];
    for (position, level) in filter.split('/').take(5).enumerate() {
        let slash = if position == 0 { "" } else { "/" };
        let choices: Vec<String> = match level {
            "#" => LEVELS
                .iter()
                .flat_map(|name| [format!("{slash}{name}"), format!("{slash}{name}/b")])
                .collect(),
            "+" => LEVELS.iter().map(|name| format!("{slash}{name}")).collect(),
            name => vec![format!("{slash}{name}")],
        };
        let longer =
            texts.iter().flat_map(|text| choices.iter().map(move |choice| format!("{text}{choice}")));
        texts = longer.take(64).collect();
    }
    let whole = filter.split('/').count() <= 5;
    let names = texts.iter().filter_map(|text| TopicName::new(text).ok()).filter(|_| whole);
    names.filter(|name| !(name.is_system() && filter.starts_with(['+', '#']))).collect()
}
