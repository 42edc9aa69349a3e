//! Publishes `$SYS` at its interval. What is in it, the core knows.

use crate::{Hub, Parts};
use broker_core::{SysFacts, SysTopics};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Publishes for ever; without an interval it does nothing for ever.
pub(crate) async fn publish(hub: &Hub, parts: &Parts, interval: Option<Duration>) {
    let Some(interval) = interval else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut topics = SysTopics::default();
    loop {
        ticks.tick().await;
        let facts = facts(hub, parts);
        hub.publish_own(topics.update(&hub.metrics(), &facts));
    }
}

fn facts(hub: &Hub, parts: &Parts) -> SysFacts {
    let traffic = hub.traffic();
    let epoch = parts.policy.borrow().epoch();
    let version = concat!("midge ", env!("CARGO_PKG_VERSION"));
    let mut others = vec![
        ("broker/version".to_owned(), version.to_owned()),
        ("midge/policy/epoch".to_owned(), epoch.to_string()),
    ];
    // The nearest to what mosquitto counts of its own: all that this process has in memory.
    if let Some((now, largest)) = midge_runtime::memory_bytes() {
        others.push(("broker/heap/current".to_owned(), now.to_string()));
        others.push(("broker/heap/maximum".to_owned(), largest.to_string()));
    }
    others.extend((parts.facts)().into_iter().map(|(name, value)| (format!("midge/{name}"), value)));
    SysFacts {
        uptime: hub.uptime(),
        bytes_in: traffic.bytes_in(),
        bytes_out: traffic.bytes_out(),
        sockets: traffic.sockets(),
        others,
    }
}
