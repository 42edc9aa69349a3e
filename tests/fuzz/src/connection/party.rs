//! One end of a connection: what it says, and what it may be told.

use broker_core::{Broker, ConnId, Effect, Listener, Now};
use bytes::BytesMut;
use midge_identity::{SpiffeId, VerifiedPeer};
use midge_policy::SubscribeMode;
use mqtt_proto::{Decoder, Limits, Packet, ReasonCode, Version, encode, encode_publish, encoded_len};
use std::sync::Arc;

/// How far its connection is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// CONNECT has not come.
    Silent,
    Connecting,
    Connected,
    /// Nothing but the close may follow.
    Leaving,
    Closed,
}

pub(super) struct Party {
    id: SpiffeId,
    decoder: Decoder,
    buffer: BytesMut,
    conn: Option<ConnId>,
    version: Version,
    packet_size_max: usize,
    stage: Stage,
    /// Reads what the broker sends.
    reader: Decoder,
    /// An authentication waits to be judged.
    asked: bool,
    /// It sends nothing more on this connection.
    has_ended: bool,
    /// That is kept for answers that are due.
    pub(super) is_kept: bool,
}

/// What a party said.
pub(super) enum Said {
    Packet(Box<Packet>),
    Nonsense(ReasonCode),
}

impl Party {
    pub(super) fn new(name: &str) -> Self {
        Self {
            id: SpiffeId::new(format!("spiffe://plant/{name}")).expect("this is a SPIFFE ID"),
            decoder: Decoder::server(Limits::default()),
            buffer: BytesMut::new(),
            conn: None,
            version: Version::V5,
            packet_size_max: usize::MAX,
            stage: Stage::Silent,
            reader: Decoder::client(Version::V5, Limits::default()),
            asked: false,
            has_ended: false,
            is_kept: false,
        }
    }

    pub(super) fn peer(&self) -> VerifiedPeer {
        VerifiedPeer::attested(self.id.clone(), 1, 2, "entry".into(), [0; 32])
    }

    /// Takes the authentication that waits; false when there is none.
    pub(super) fn take_request(&mut self) -> bool {
        std::mem::take(&mut self.asked)
    }

    pub(super) fn conn(&self) -> Option<ConnId> {
        self.conn
    }

    /// Ends its connection; the next bytes begin another.
    pub(super) fn hang_up(&mut self) -> Option<ConnId> {
        self.decoder = Decoder::server(Limits::default());
        self.buffer.clear();
        (self.stage, self.asked) = (Stage::Silent, false);
        (self.has_ended, self.is_kept) = (false, false);
        self.conn.take()
    }

    /// Sends nothing more on its connection, if it has one.
    pub(super) fn end_input(&mut self) -> Option<ConnId> {
        if self.conn.is_none() {
            self.hang_up();
        }
        self.has_ended = self.conn.is_some();
        self.conn
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Reads what it sends, as the shell does: nothing after the first violation.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Said> {
        if self.stage == Stage::Closed {
            self.hang_up();
        }
        self.buffer.extend_from_slice(bytes);
        let mut said = Vec::new();
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(packet)) => said.push(Said::Packet(Box::new(packet))),
                Ok(None) => return said,
                Err(error) => {
                    said.push(Said::Nonsense(error.reason()));
                    return said;
                }
            }
        }
    }

    /// Holds one effect against what may follow on this connection.
    pub(super) fn see(&mut self, effect: &Effect) {
        match effect {
            Effect::Send { packet, .. } => {
                let mut bytes = BytesMut::new();
                let written = encode(packet, self.version, &mut bytes);
                // 3.1.1 has no return code for some refusals: the shell closes without one.
                if !matches!(packet, Packet::ConnAck(_)) || self.version == Version::V5 {
                    assert_eq!(written, Ok(()), "{packet:?}");
                }
                assert_eq!(effect.bytes(), encoded_len(packet, Version::V5), "{packet:?}");
                self.advance(packet);
                self.read_back(bytes);
            }
            Effect::Deliver { delivery, .. } => {
                assert_eq!(self.stage, Stage::Connected, "{delivery:?}");
                let mut bytes = BytesMut::new();
                assert_eq!(encode_publish(&delivery.publish(), self.version, &mut bytes), Ok(()));
                assert_eq!(effect.bytes(), bytes.len(), "{delivery:?}");
                self.read_back(bytes);
            }
            Effect::Discard { .. } => assert_eq!(self.stage, Stage::Connected),
            Effect::Close { .. } => {
                assert!(!matches!(self.stage, Stage::Silent | Stage::Closed));
                (self.stage, self.conn, self.asked) = (Stage::Closed, None, false);
                (self.has_ended, self.is_kept) = (false, false);
            }
            Effect::Authenticate { .. } => {
                assert!(matches!(self.stage, Stage::Connecting | Stage::Connected));
                assert!(!self.asked, "one at a time");
                self.asked = true;
            }
            Effect::Audit(_) | Effect::Store(_) => {}
        }
    }

    fn advance(&mut self, packet: &Packet) {
        self.stage = match (packet, self.stage) {
            (Packet::ConnAck(ack), Stage::Connecting) if ack.reason == ReasonCode::Success => {
                Stage::Connected
            }
            (Packet::ConnAck(_), Stage::Connecting) | (Packet::Disconnect(_), Stage::Connected) => {
                Stage::Leaving
            }
            (Packet::Auth(_), stage @ (Stage::Connecting | Stage::Connected)) => stage,
            (_, Stage::Connected) if !matches!(packet, Packet::ConnAck(_)) => Stage::Connected,
            (packet, stage) => panic!("{packet:?} while {stage:?}"),
        };
    }

    /// What it is sent is a packet of its version that a client takes, and none too large.
    fn read_back(&mut self, mut bytes: BytesMut) {
        assert!(bytes.len() <= self.packet_size_max, "{bytes:?}");
        if bytes.is_empty() {
            return;
        }
        let packet = self.reader.decode(&mut bytes);
        assert!(matches!(packet, Ok(Some(_))), "{packet:?}");
        assert!(bytes.is_empty());
    }
}

/// Gives a party's packet to the broker. Tells whether it opened the connection.
pub(super) fn open(broker: &mut Broker, party: &mut Party, fresh: ConnId, said: Said, now: Now) -> bool {
    match (said, party.conn) {
        (Said::Packet(packet), Some(conn)) => {
            broker.handle_packet(conn, *packet, now);
        }
        (Said::Nonsense(reason), Some(conn)) => broker.handle_malformed(conn, reason, now),
        (Said::Packet(packet), None) if party.stage == Stage::Silent => {
            let Packet::Connect(connect) = *packet else { panic!("{packet:?} before CONNECT") };
            (party.conn, party.stage, party.version) = (Some(fresh), Stage::Connecting, connect.version);
            let max = connect.packet_size_max.and_then(|max| usize::try_from(max).ok());
            party.packet_size_max = max.unwrap_or(usize::MAX);
            party.reader = Decoder::client(connect.version, Limits::default());
            let listener = Arc::new(Listener { name: "tls".into(), subscribe_mode: SubscribeMode::Filter });
            broker.handle_connect(fresh, &listener, party.peer(), *connect, now);
            return true;
        }
        (_, None) => {}
    }
    false
}
