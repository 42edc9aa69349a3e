//! The policy language as docs/policy.md puts it, for one question at a time: rules are read as they are written, and
//! nothing is shared with the compiled policy that the broker asks.

use crate::world::*;
use midge_policy::Rule;
use mqtt_proto::{Publication, QoS};
use std::collections::BTreeMap;

type Captures = BTreeMap<String, String>;

/// Somebody on a connection, or the one that a message came by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party<'a> {
    pub(crate) id: &'a str,
    pub(crate) client_id: &'a str,
    /// Unknown for what is not of a connection: it fails every condition and escapes no deny.
    pub(crate) listener: Option<&'a str>,
}

/// Says what rules allow.
#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) rules: Vec<Rule>,
}

/// Matches level by level; a wildcard at the start does not match what starts with `$`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    fn rest(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            ([level, filter @ ..], [name, topic @ ..]) => {
                (*level == "+" || level == name) && rest(filter, topic)
            }
            _ => false,
        }
    }
    let (filter, topic): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    !(topic[0].starts_with('$') && ["+", "#"].contains(&filter[0])) && rest(&filter, &topic)
}

/// What the captures of a pattern stand for in an identity; `None` where it does not speak of it.
fn captures(pattern: &str, id: &str) -> Option<Captures> {
    let (pattern, id) = (pattern.strip_prefix("spiffe://")?, id.strip_prefix("spiffe://")?);
    let (mut pattern, mut id) = (pattern.split('/'), id.split('/'));
    let (wanted, domain) = (pattern.next()?, id.next()?);
    let mut found = Captures::from([("{td}".to_owned(), domain.to_owned())]);
    if ![domain, "*", "{td}"].contains(&wanted) {
        return None;
    }
    loop {
        match (pattern.next(), id.next()) {
            (Some("**"), _) | (None, None) => return Some(found),
            (Some("*"), Some(_)) => {}
            (Some(name), Some(segment)) if name.starts_with('{') => {
                if found.insert(name.to_owned(), segment.to_owned()).is_some_and(|known| known != segment) {
                    return None;
                }
            }
            (Some(literal), Some(segment)) if literal == segment => {}
            _ => return None,
        }
    }
}

/// A rule that speaks of a party.
struct Held<'a> {
    rule: &'a Rule,
    captures: Captures,
    allows: bool,
    denies: bool,
}

impl<'a> Held<'a> {
    fn of(rule: &'a Rule, party: Party<'_>) -> Option<Self> {
        let captures = captures(&rule.id, party.id)?;
        let is_excepted = |unless: &String| {
            // A capture that is named again stands for the same.
            let same =
                |(name, value): (&String, &String)| captures.get(name).is_none_or(|known| known == value);
            self::captures(unless, party.id).is_some_and(|found| found.iter().all(same))
        };
        if rule.unless.iter().any(is_excepted) {
            return None;
        }
        let is_client = |pattern: &String| {
            let text = captures.iter().fold(pattern.clone(), |text, (name, value)| text.replace(name, value));
            match text.strip_suffix('*') {
                Some(start) => party.client_id.starts_with(start),
                None => party.client_id == text,
            }
        };
        let is_client = rule.client_id.is_empty() || rule.client_id.iter().any(is_client);
        let is_here = party.listener.map(|name| rule.listener.iter().any(|listener| listener == name));
        let everywhere = rule.listener.is_empty();
        let allows = is_client && (everywhere || is_here == Some(true));
        let denies = is_client && (everywhere || is_here != Some(false));
        Some(Self { rule, captures, allows, denies })
    }

    fn lists(&self, filters: &[String], topic: &str) -> bool {
        filters.iter().any(|filter| {
            let level = |level| self.captures.get(level).map_or(level, |value| value.as_str());
            matches(&filter.split('/').map(level).collect::<Vec<_>>().join("/"), topic)
        })
    }

    /// Whether the conditions of the rule let it allow this.
    fn admits(&self, publication: &Publication, is_will: bool, may_name: impl Fn(&str) -> bool) -> bool {
        let rule = self.rule;
        let reply = publication.properties.as_ref().and_then(|properties| properties.response_topic.as_ref());
        let reply = reply.map(|reply| reply.as_str());
        let forbids =
            (is_will && rule.will == Some(false)) || (publication.retain && rule.retain == Some(false));
        !forbids
            && rule.qos_max.is_none_or(|max| publication.qos as u8 <= max)
            && rule.payload_max.is_none_or(|max| publication.payload.len() <= max as usize)
            && reply.is_none_or(|reply| self.lists(&rule.response_topics, reply) || may_name(reply))
    }
}

impl Oracle {
    fn held(&self, party: Party<'_>) -> Vec<Held<'_>> {
        self.rules.iter().filter_map(|rule| Held::of(rule, party)).collect()
    }

    pub(crate) fn may_publish(&self, party: Party<'_>, publication: &Publication, is_will: bool) -> bool {
        let held = self.held(party);
        let is_denied = |topic: &str| held.iter().any(|h| h.denies && h.lists(&h.rule.deny_publish, topic));
        let allows = |h: &Held<'_>, topic: &str| h.allows && h.lists(&h.rule.publish, topic);
        let may_name = |reply: &str| !is_denied(reply) && held.iter().any(|h| allows(h, reply));
        let topic = publication.topic.as_str();
        !is_denied(topic) && held.iter().any(|h| allows(h, topic) && h.admits(publication, is_will, may_name))
    }

    /// The highest QoS at which a party may receive a topic, if it may.
    pub(crate) fn may_receive(&self, party: Party<'_>, topic: &str) -> Option<QoS> {
        let held = self.held(party);
        let is_denied = held.iter().any(|h| {
            h.denies && (h.lists(&h.rule.deny_subscribe, topic) || h.lists(&h.rule.deny_receive, topic))
        });
        let allows = |h: &&Held<'_>| {
            h.allows && (h.lists(&h.rule.subscribe, topic) || h.lists(&h.rule.receive, topic))
        };
        let best = held.iter().filter(allows).map(|h| h.rule.qos_max.unwrap_or(2)).max();
        best.filter(|_| !is_denied).map(|max| [Q0, Q1, Q2][usize::from(max)])
    }
}

#[test]
fn the_oracle_reads_rules_as_they_are_documented() {
    let rule = Rule {
        id: "spiffe://{td}/edge/{me}/**".into(),
        unless: vec!["spiffe://*/edge/{me}/guest".into()],
        publish: vec!["a/{me}".into(), "$x".into()],
        subscribe: vec!["#".into()],
        deny_receive: vec!["b/+".into()],
        listener: vec!["tls".into()],
        client_id: Vec::new(),
        qos_max: Some(1),
        will: Some(false),
        ..Rule::default()
    };
    let oracle = Oracle { rules: vec![rule] };
    let party = |id, listener| Party { id, client_id: "c", listener };
    let ada = party("spiffe://plant/edge/ada", Some("tls"));
    let guest = party("spiffe://plant/edge/ada/guest", Some("tls"));
    let far = party("spiffe://plant/edge/ada", Some("tcp"));
    let says = |topic: &str, qos| Publication { qos, ..will(topic, "x", 0).unwrap().message };
    for (topic, qos, is_will, may) in [
        ("a/ada", Q1, false, true),
        ("$x", Q0, false, true),
        ("a/bob", Q1, false, false),
        ("a/ada", Q2, false, false),
        ("a/ada", Q1, true, false),
    ] {
        assert_eq!(oracle.may_publish(ada, &says(topic, qos), is_will), may, "{topic}");
        assert!(!oracle.may_publish(guest, &says(topic, qos), is_will));
        assert!(!oracle.may_publish(far, &says(topic, qos), is_will));
    }
    let reads = ["b", "b/c", "b/c/d", "$x"].map(|topic| oracle.may_receive(ada, topic));
    assert_eq!(reads, [Some(Q1), None, Some(Q1), None]);
    assert_eq!(oracle.may_receive(far, "b"), None);
}
