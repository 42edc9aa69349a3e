//! `midge pub` and `midge sub`: MQTT 5 with the identity of this process.
//!
//! Owns the connections and their renewal with each new SVID, and what is printed. Leaves identities
//! to the Workload API or to files, and every decision to the broker.

mod address;
mod client;
mod identity;
mod options;
mod publish;
mod subscribe;
#[cfg(test)]
mod tests;
mod trouble;

pub(crate) use publish::publish;
pub(crate) use subscribe::subscribe;

use rumqttc::v5::mqttbytes::QoS;
use tokio::time::Instant;

fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// Waits for the instant; forever without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
