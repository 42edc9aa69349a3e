//! What is asked of the broker and of TLS.

use super::address::Address;
use super::identity::Followed;
use super::qos;
use crate::cli::MqttTarget;
use crate::exit::{self, WithCode as _, failure};
use anyhow::Context as _;
use midge_identity::SpiffeId;
use midge_pki::{ServerExpectation, client_config};
use mqtt_proto::TopicName;
use rumqttc::v5::MqttOptions;
use rumqttc::v5::mqttbytes::v5::LastWill;
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

/// Messages on their way at once, in either direction.
pub(super) const WINDOW: u16 = 32;
/// Largest packet taken, in bytes.
const PACKET_BYTES_MAX: u32 = 16 * 1024 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What the broker keeps of a session between connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) clean_start: bool,
    pub(super) expiry_secs: u32,
}

pub(super) fn options(
    target: &MqttTarget,
    address: &Address,
    session: Session,
) -> anyhow::Result<MqttOptions> {
    let client_id = target.client_id.clone().unwrap_or_else(random_client_id);
    let (host, port) = match address {
        Address::Tls { host, port } | Address::Tcp { host, port } => (host, *port),
        Address::Unix(path) => (path, 0),
    };
    let mut options = MqttOptions::new(client_id, host, port);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options
        .set_network_options(network)
        .set_connection_timeout(target.timeout)
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(session.clean_start)
        .set_session_expiry_interval(Some(session.expiry_secs))
        .set_receive_maximum(Some(WINDOW))
        .set_max_packet_size(Some(PACKET_BYTES_MAX))
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_manual_acks(true);
    if let Some(topic) = &target.will_topic {
        TopicName::new(topic)
            .map_err(|error| failure(exit::USAGE, format!("--will-topic \"{topic}\": {error}")))?;
        options.set_last_will(LastWill::new(topic, "gone", qos(target.qos), false, None));
    }
    Ok(options)
}

pub(super) fn transport(target: &MqttTarget, followed: &Followed) -> anyhow::Result<Transport> {
    let expected = match &target.broker_id {
        Some(id) => SpiffeId::new(id)
            .map_err(|error| failure(exit::USAGE, format!("--broker-id \"{id}\": {error}")))?,
        None => {
            let own = followed.identity.id().context("the identity was withdrawn at once").code(exit::NO)?;
            mapper_sdk::broker_beside(&own).ok_or_else(|| {
                let example = format!("--broker-id spiffe://{}/edge/<node>/broker", own.trust_domain_name());
                failure(
                    exit::USAGE,
                    format!("{own} is not below a box, so its broker is not known; name it with {example}"),
                )
            })?
        }
    };
    let identity = Arc::clone(&followed.identity);
    let tls = client_config(Some(identity.clone()), identity, ServerExpectation::Id(expected));
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(tls)))
}

fn random_client_id() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("midge-{:08x}", random >> 32)
}
