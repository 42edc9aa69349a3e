//! What a client of a random history saw, read back from how it is spelled.

use crate::world::*;
use mqtt_proto::QoS;

/// A PUBLISH as a client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: QoS,
    pub(crate) pid: Option<u16>,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) ids: Vec<u32>,
    pub(crate) expiry: Option<u64>,
}

impl Seen {
    /// Reads the spelling of [`World`].
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = text.strip_prefix("PUBLISH ")?.replace(", ", ",");
        let mut words = text.split(' ');
        let topic = words.next()?.to_owned();
        let payload = words.next()?.trim_matches('"').to_owned();
        let (qos, pid, retain, dup, ids, expiry) = (Q0, None, false, false, Vec::new(), None);
        let mut seen = Self { topic, payload, qos, pid, retain, dup, ids, expiry };
        for word in words {
            match word.split_at(1) {
                ("q", qos) => seen.qos = [Q0, Q1, Q2][qos.parse::<usize>().unwrap()],
                ("#", pid) => seen.pid = pid.parse().ok(),
                _ if word == "retain" => seen.retain = true,
                _ if word == "dup" => seen.dup = true,
                // The world resolves them.
                _ if word == "no-topic" || word.starts_with("alias=") => {}
                _ if word.starts_with("ids=") => {
                    let ids = word.trim_start_matches("ids=[").trim_end_matches(']');
                    seen.ids = ids.split(',').map(|id| id.parse().unwrap()).collect();
                }
                _ => seen.expiry = Some(word.strip_prefix("expiry=")?.parse().unwrap()),
            }
        }
        Some(seen)
    }
}
