//! `$SYS`: the broker's figures as retained messages, under mosquitto's names where it has one.

use crate::Metrics;
use mqtt_proto::{Publication, QoS, TopicName};
use std::collections::HashMap;
use std::time::Duration;

/// Minutes over which load is averaged.
const WINDOWS: [(u16, &str); 3] = [(1, "1min"), (5, "5min"), (15, "15min")];
/// A load that moved by less is published as it was.
const LOAD_STEP: f64 = 0.01;

/// What the shell knows beside the core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysFacts {
    /// Since the start.
    pub uptime: Duration,
    /// Bytes of MQTT read from clients.
    pub bytes_in: u64,
    /// Bytes of MQTT written to clients.
    pub bytes_out: u64,
    /// Sockets accepted.
    pub sockets: u64,
    /// Further values, by the levels after `$SYS/`.
    pub others: Vec<(String, String)>,
}

/// What was published so far, and the averages.
#[derive(Debug, Default)]
pub struct SysTopics {
    published: HashMap<String, String>,
    loads: HashMap<&'static str, Load>,
    last: Duration,
    clients_maximum: u64,
}

/// Averages of one counter per minute, over each window.
#[derive(Debug, Default)]
struct Load {
    total: u64,
    averages: [f64; WINDOWS.len()],
}

impl SysTopics {
    /// Returns what has changed since it was last asked, as retained messages of QoS 0.
    pub fn update(&mut self, metrics: &Metrics, facts: &SysFacts) -> Vec<Publication> {
        self.clients_maximum = self.clients_maximum.max(metrics.sessions);
        let mut values = figures(metrics, facts, self.clients_maximum);
        self.add_loads(metrics, facts, &mut values);
        values.extend(facts.others.iter().cloned());
        let changed = values.into_iter().filter_map(|(name, value)| self.publication(name, value));
        changed.collect()
    }

    fn publication(&mut self, name: String, value: String) -> Option<Publication> {
        if self.published.get(&name) == Some(&value) {
            return None;
        }
        let topic = TopicName::new(format!("$SYS/{name}")).ok()?;
        let payload = value.clone().into_bytes().into();
        self.published.insert(name, value);
        Some(Publication { topic, payload, qos: QoS::AtMostOnce, retain: true, properties: None })
    }

    fn add_loads(&mut self, metrics: &Metrics, facts: &SysFacts, values: &mut Vec<(String, String)>) {
        let passed = facts.uptime.saturating_sub(self.last).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        self.last = facts.uptime;
        for (name, total) in rates(metrics, facts) {
            let load = self.loads.entry(name).or_default();
            let per_minute = float(total.saturating_sub(load.total)) * 60.0 / passed;
            load.total = total;
            for ((minutes, window), average) in WINDOWS.into_iter().zip(&mut load.averages) {
                let kept = (-passed / (f64::from(minutes) * 60.0)).exp();
                let next = per_minute + kept * (*average - per_minute);
                // Else every idle broker would publish for ever what it approaches.
                if (next - *average).abs() >= LOAD_STEP {
                    *average = next;
                }
                values.push((format!("broker/load/{name}/{window}"), format!("{average:.2}")));
            }
        }
    }
}

fn figures(metrics: &Metrics, facts: &SysFacts, clients_maximum: u64) -> Vec<(String, String)> {
    let stored = metrics.retained_messages.saturating_add(metrics.waiting_messages);
    let stored_bytes = metrics.retained_bytes.saturating_add(metrics.waiting_bytes);
    let away = metrics.sessions.saturating_sub(metrics.connections);
    let numbers = [
        ("broker/clients/total", metrics.sessions),
        ("broker/clients/connected", metrics.connections),
        ("broker/clients/active", metrics.connections),
        ("broker/clients/disconnected", away),
        ("broker/clients/inactive", away),
        ("broker/clients/maximum", clients_maximum),
        ("broker/clients/expired", metrics.sessions_expired),
        ("broker/messages/received", metrics.packets_in),
        ("broker/messages/sent", metrics.packets_out),
        ("broker/messages/stored", stored),
        ("broker/store/messages/count", stored),
        ("broker/store/messages/bytes", stored_bytes),
        ("broker/publish/messages/received", metrics.messages_in),
        ("broker/publish/messages/sent", metrics.messages_out),
        ("broker/publish/messages/dropped", metrics.dropped.total()),
        ("broker/publish/bytes/received", metrics.payload_bytes_in),
        ("broker/publish/bytes/sent", metrics.payload_bytes_out),
        ("broker/bytes/received", facts.bytes_in),
        ("broker/bytes/sent", facts.bytes_out),
        ("broker/subscriptions/count", metrics.subscriptions),
        ("broker/retained messages/count", metrics.retained_messages),
        ("midge/retained messages/bytes", metrics.retained_bytes),
        ("midge/denials/connect", metrics.denials.connect),
        ("midge/denials/publish", metrics.denials.publish),
        ("midge/denials/subscribe", metrics.denials.subscribe),
        ("midge/denials/receive", metrics.denials.receive),
        ("midge/denials/will", metrics.denials.will),
    ];
    let mut values: Vec<_> =
        numbers.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
    values.push(("broker/uptime".to_owned(), format!("{} seconds", facts.uptime.as_secs())));
    values
}

fn rates(metrics: &Metrics, facts: &SysFacts) -> [(&'static str, u64); 9] {
    [
        ("messages/received", metrics.packets_in),
        ("messages/sent", metrics.packets_out),
        ("publish/received", metrics.messages_in),
        ("publish/sent", metrics.messages_out),
        ("publish/dropped", metrics.dropped.total()),
        ("bytes/received", facts.bytes_in),
        ("bytes/sent", facts.bytes_out),
        ("sockets", facts.sockets),
        ("connections", metrics.connects),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "an average has no more digits than a float")]
fn float(value: u64) -> f64 {
    value as f64
}
