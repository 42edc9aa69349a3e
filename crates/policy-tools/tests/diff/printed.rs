//! What a diff prints, read as people read it, and the requests that it is held against.

use crate::world::{bind, filled, filled_words, levels, matches};
use midge_identity::SpiffeId;
use midge_policy::{Context, LISTENERS, PublishFacts, Rights, SubscribeMode};
use midge_policy_tools::{Access, Change, Diff, Kind, Ruleset};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use proptest::prelude::*;

/// One request, apart from who and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) payload_len: usize,
    pub(crate) will: bool,
    pub(crate) group: Option<&'static str>,
    pub(crate) listener: &'static str,
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let qos = proptest::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let group = proptest::sample::select(vec![None, Some("a"), Some("b"), Some("g"), Some("h")]);
    let listener = proptest::sample::select(LISTENERS.to_vec());
    (qos, any::<bool>(), 0_usize..4, any::<bool>(), group, listener).prop_map(
        |(qos, retain, payload_len, will, group, listener)| Request {
            qos,
            retain,
            payload_len,
            will,
            group,
            listener,
        },
    )
}

impl Request {
    pub(crate) fn context(&self) -> Context<'static> {
        Context { client_id: None, listener: Some(self.listener) }
    }
}

pub(crate) fn filter(text: &str, request: Request) -> SharedFilter {
    match request.group {
        Some(group) => SharedFilter::new(&format!("$share/{group}/{text}")).unwrap(),
        None => SharedFilter::new(text).unwrap(),
    }
}

pub(crate) fn may_subscribe(rights: &Rights, filter: &SharedFilter, request: Request) -> bool {
    let permit = rights.subscribe(filter, request.qos, SubscribeMode::Reject);
    permit.is_ok_and(|permit| permit.qos() == request.qos)
}

/// A topic, by its levels, and the filter that is spelled as it.
pub(crate) type Topic = (TopicName, Vec<String>, SharedFilter);

pub(crate) fn may(rights: &Rights, access: Access, (name, _, filter): &Topic, request: Request) -> bool {
    let Request { qos, retain, payload_len, .. } = request;
    let facts = PublishFacts { qos, retain, payload_len, response_topic: None };
    match access {
        Access::Publish if request.will => rights.will(name, facts).is_ok(),
        Access::Publish => rights.publish(name, facts).is_ok(),
        Access::Receive => match request.group {
            Some(group) => rights.receive_shared(name, group).is_ok_and(|permit| permit.qos() >= qos),
            None => rights.receive(name).is_ok_and(|permit| permit.qos() >= qos),
        },
        Access::Subscribe | Access::SubscribeLiteral | Access::SubscribePart => {
            may_subscribe(rights, filter, request)
        }
    }
}

/// Reads the printed condition.
pub(crate) fn holds(when: &str, request: Request) -> bool {
    let range = |text: &str, value: u64| {
        text.split(" or ").any(|range| {
            let words: Vec<&str> = range.trim_end_matches(" B").split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            match words[1] {
                "up" => value <= number(3),
                "from" => value >= number(2),
                _ if words.len() == 4 => (number(1)..=number(3)).contains(&value),
                _ => value == number(1),
            }
        })
    };
    when.replace("shared, but", "shared but").split(", ").filter(|part| !part.is_empty()).all(|part| {
        match part {
            "shared" => request.group.is_some(),
            "not shared" => request.group.is_none(),
            "retained" => request.retain,
            "not retained" => !request.retain,
            "as a will" => request.will,
            "not as a will" => !request.will,
            qos if qos.starts_with("qos") => range(qos, request.qos as u64),
            payload if payload.starts_with("payload") => range(payload, request.payload_len as u64),
            listener if listener.contains("on listener ") => {
                let (not, names) = listener.split_once("on listener ").unwrap();
                names.split(" or ").any(|name| name == request.listener) == not.is_empty()
            }
            group => {
                let (before, names) =
                    group.split_once("in share group ").unwrap_or_else(|| panic!("{group}"));
                let named = request.group.is_some_and(|group| names.split(" or ").any(|name| name == group));
                match before {
                    "" => named,
                    "not " => !named,
                    "not shared or " => named || request.group.is_none(),
                    "shared but not " => !named && request.group.is_some(),
                    other => panic!("{other}"),
                }
            }
        }
    })
}

pub(crate) fn belongs(kind: &Kind, id: &SpiffeId) -> bool {
    bind(&kind.id, id).is_some() && kind.except.iter().all(|except| bind(except, id).is_none())
}

pub(crate) fn includes(kind: &Kind, change: &Change, id: &SpiffeId, topic: &str) -> bool {
    let bound = bind(&kind.id, id).unwrap();
    let includes = |filter: &String| matches(&levels(&filled(filter, &bound)), &levels(topic));
    includes(&change.filter) && !change.except.iter().any(includes)
}

/// A printed change for one identity: gained, access, filter and what is left out, both by their levels.
pub(crate) type Filled = (bool, Access, Vec<String>, Vec<Vec<String>>);

pub(crate) fn filled_in(kind: &Kind, id: &SpiffeId, request: Request) -> Vec<Filled> {
    let bound = bind(&kind.id, id).unwrap();
    let changes = kind.changes.iter().filter(|change| holds(&filled_words(&change.when, &bound), request));
    let fill = |filter: &String| levels(&filled(filter, &bound));
    changes
        .map(|change| {
            (change.gained, change.access, fill(&change.filter), change.except.iter().map(fill).collect())
        })
        .collect()
}

/// Tells what the diff says of one decision: `Some(true)` is gained.
pub(crate) fn printed(changes: &[Filled], access: Access, topic: &[String]) -> Option<bool> {
    let mut found = changes.iter().filter(|(_, of, filter, except)| {
        *of == access && matches(filter, topic) && !except.iter().any(|except| matches(except, topic))
    });
    let first = found.next()?.0;
    assert!(found.all(|(gained, ..)| *gained == first), "gained and lost");
    Some(first)
}

/// What changes for one identity, as a kind of its own.
pub(crate) fn alone(old: &Ruleset, new: &Ruleset, id: &SpiffeId) -> Kind {
    Kind {
        id: id.to_string(),
        except: Vec::new(),
        example: id.to_string(),
        changes: Diff::for_identity(old, new, id).unwrap(),
    }
}
