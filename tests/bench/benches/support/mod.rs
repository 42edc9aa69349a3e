//! A broker's core with clients, driven without sockets.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot set up has nothing to measure"
)]

use broker_core::{Broker, Config, ConnId, Effect, Listener, Now};
use bytes::BytesMut;
use midge_identity::{SpiffeId, UnixMillis, VerifiedPeer};
use midge_policy::{Policy, SubscribeMode};
use mqtt_proto::{Decoder, Limits, Packet, PublishRef, Version, encode, encode_publish};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const POLICY: &str = r#"
[[rule]]
name = "bench"
id = "spiffe://bench.example/app/{app}"
publish = ["bench/#", "{app}/user/#"]
subscribe = ["bench/#"]

[[rule]]
name = "bench-limits"
id = "spiffe://bench.example/app/{app}"
deny-publish = ["bench/secret/#"]
"#;

pub(crate) const NOW: Now = Now { mono: Duration::ZERO, wall: UnixMillis::from_secs(1_800_000_000) };

/// The core, and per connection what its shell holds: a decoder, bytes in and bytes out.
pub(crate) struct World {
    pub(crate) broker: Broker,
    clients: Vec<(Decoder, BytesMut)>,
    pub(crate) written: usize,
}

impl World {
    pub(crate) fn new() -> Self {
        let policy = Policy::from_toml_str(POLICY, "bench.toml").unwrap();
        let broker = Broker::new(Config::default(), Arc::new(policy));
        Self { broker, clients: Vec::new(), written: 0 }
    }

    /// Connects a client of 3.1.1 and subscribes it, if a filter is given.
    pub(crate) fn client(&mut self, filter: Option<(&str, u8)>) -> usize {
        let n = self.clients.len();
        let mut bytes = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
        let id = format!("c{n}");
        bytes.extend([0, u8::try_from(id.len()).unwrap()]);
        bytes.extend(id.as_bytes());
        bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
        let (mut decoder, mut buffer) = (Decoder::server(Limits::default()), BytesMut::from(&bytes[..]));
        let Some(Packet::Connect(connect)) = decoder.decode(&mut buffer).unwrap() else {
            panic!("no CONNECT")
        };
        let identity = SpiffeId::new(format!("spiffe://bench.example/app/a{}", n % 16)).unwrap();
        let peer = VerifiedPeer::attested(identity, 1, 2, "entry".into(), [0; 32]);
        let listener = Arc::new(Listener { name: "tls".into(), subscribe_mode: SubscribeMode::Reject });
        self.broker.handle_connect(conn(n), &listener, peer, *connect, NOW);
        self.clients.push((decoder, BytesMut::new()));
        if let Some((filter, qos)) = filter {
            let mut bytes = vec![0x82, u8::try_from(filter.len() + 5).unwrap(), 0, 1, 0];
            bytes.push(u8::try_from(filter.len()).unwrap());
            bytes.extend(filter.as_bytes());
            bytes.push(qos);
            self.input(n, &bytes);
        }
        self.output();
        n
    }

    /// What a connection's task does with bytes that came.
    pub(crate) fn input(&mut self, client: usize, bytes: &[u8]) {
        let (decoder, buffer) = &mut self.clients[client];
        buffer.extend_from_slice(bytes);
        while let Some(packet) = decoder.decode(buffer).unwrap() {
            self.broker.handle_packet(conn(client), packet, NOW);
        }
    }

    /// Encodes what the core has to say and gives it to `out`, by connection.
    pub(crate) fn output_to(&mut self, out: &mut [BytesMut]) {
        while let Some(effect) = self.broker.poll_effect() {
            match effect {
                Effect::Send { conn, packet } => {
                    encode(&packet, Version::V311, &mut out[index(conn)]).unwrap();
                }
                Effect::Deliver { conn, delivery } => {
                    let publication = delivery.message.publication();
                    let publish = PublishRef {
                        dup: delivery.dup,
                        qos: delivery.qos,
                        retain: delivery.retain,
                        packet_id: delivery.packet_id,
                        topic: Some(&publication.topic),
                        topic_alias: None,
                        subscription_ids: &[],
                        message_expiry_secs: delivery.expiry_secs,
                        properties: publication.properties.as_deref(),
                        payload: &publication.payload,
                    };
                    encode_publish(&publish, Version::V311, &mut out[index(conn)]).unwrap();
                }
                Effect::Close { .. } => panic!("a client was cut"),
                _ => {}
            }
        }
        for (n, bytes) in out.iter_mut().enumerate() {
            if !bytes.is_empty() {
                self.written += bytes.len();
                self.broker.handle_flushed(conn(n), usize::MAX, NOW);
            }
        }
    }

    /// Like [`Self::output_to`], and forgets the bytes.
    pub(crate) fn output(&mut self) {
        let mut out = vec![BytesMut::new(); self.clients.len()];
        self.output_to(&mut out);
    }

    /// Says that everything to a client was written.
    pub(crate) fn flush(&mut self, client: usize) {
        self.broker.handle_flushed(conn(client), usize::MAX, NOW);
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }
}

fn conn(client: usize) -> ConnId {
    ConnId(client as u64 + 1)
}

fn index(conn: ConnId) -> usize {
    usize::try_from(conn.0).unwrap() - 1
}

/// A PUBLISH of 3.1.1.
pub(crate) fn publish(topic: &str, qos: u8, id: u16, size: usize) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.resize(body.len() + size, 7);
    let mut bytes = vec![0x30 | qos << 1];
    let mut len = body.len();
    while len > 127 {
        bytes.push((len & 127) as u8 | 128);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend(body);
    bytes
}
