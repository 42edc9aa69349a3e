use super::ca::now;
use super::{Ca, Svid, soon};
use bytes::{Buf as _, BytesMut};
use midge_identity::VerifiedPeer;
use midge_pki::{FixedTrust, SvidClientVerifier, TrustSource, peer_of, server_config};
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, LastWill,
    Packet, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode,
};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// An MQTT broker whose answers the test writes.
pub(crate) struct Broker {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    trust: Arc<FixedTrust>,
}

/// One connection of a client, after CONNECT.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
    pub(crate) peer: VerifiedPeer,
    pub(crate) connect: Connect,
    pub(crate) will: Option<LastWill>,
}

impl Broker {
    pub(crate) async fn start(ca: &Ca, svid: &Svid) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let trust = Arc::new(FixedTrust::new(ca.bundles(), now));
        let verifier = SvidClientVerifier::required(trust.clone());
        let config = server_config(svid.current_identity(), verifier, &[]);
        Self { listener, acceptor: config.into(), trust }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Waits for a TLS handshake to fail or a connection to be made.
    pub(crate) async fn try_accept(&self) -> Option<Connection> {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        let stream = soon(self.acceptor.accept(stream)).await.ok()?;
        let peer = peer_of(stream.get_ref().1, self.trust.as_ref() as &dyn TrustSource).unwrap();
        let mut buffer = BytesMut::new();
        let mut stream = stream;
        let Packet::Connect(connect, will, _) = read(&mut stream, &mut buffer).await? else {
            panic!("the first packet is no CONNECT");
        };
        Some(Connection { stream, buffer, peer, connect, will })
    }

    pub(crate) async fn accept(&self) -> Connection {
        self.try_accept().await.expect("a connection")
    }
}

impl Connection {
    pub(crate) async fn connack(&mut self, session_present: bool, receive_max: Option<u16>) {
        let properties = ConnAckProperties {
            session_expiry_interval: None,
            receive_max,
            max_qos: None,
            retain_available: None,
            max_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_max: None,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        };
        let code = ConnectReturnCode::Success;
        self.send(Packet::ConnAck(ConnAck { session_present, code, properties: Some(properties) })).await;
    }

    /// Answers the SUBSCRIBE that must come next; returns its filters.
    pub(crate) async fn suback(&mut self, codes: &[SubscribeReasonCode]) -> Vec<String> {
        let Packet::Subscribe(Subscribe { pkid, filters, .. }) = self.receive().await else {
            panic!("no SUBSCRIBE");
        };
        self.send(Packet::SubAck(SubAck { pkid, return_codes: codes.to_vec(), properties: None })).await;
        filters.into_iter().map(|filter| filter.path).collect()
    }

    pub(crate) async fn publish(&mut self, topic: &str, payload: &str) {
        let publish = Publish { pkid: 1, ..Publish::new(topic, QoS::AtLeastOnce, payload.to_owned(), None) };
        self.send(Packet::Publish(publish)).await;
        assert_eq!(self.receive().await, Packet::PubAck(PubAck::new(1, None)));
    }

    /// The PUBLISH that must come next.
    pub(crate) async fn published(&mut self) -> Publish {
        match self.receive().await {
            Packet::Publish(publish) => publish,
            other => panic!("no PUBLISH but {other:?}"),
        }
    }

    pub(crate) async fn puback(&mut self, packet_id: u16) {
        self.send(Packet::PubAck(PubAck::new(packet_id, None))).await;
    }

    pub(crate) async fn receive(&mut self) -> Packet {
        self.try_receive().await.expect("a packet")
    }

    /// The next packet; none at the end of the connection.
    pub(crate) async fn try_receive(&mut self) -> Option<Packet> {
        loop {
            match read(&mut self.stream, &mut self.buffer).await? {
                Packet::PingReq(_) => {}
                packet => return Some(packet),
            }
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }
}

async fn read(stream: &mut TlsStream<TcpStream>, buffer: &mut BytesMut) -> Option<Packet> {
    loop {
        match Packet::read(buffer, None) {
            Ok(packet) => return Some(packet),
            Err(Error::InsufficientBytes(_)) => {}
            // rumqttc does not read what it writes: a DISCONNECT without anything.
            Err(Error::PayloadRequired) => {
                return Some(Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)));
            }
            Err(error) => panic!("{error} in {:x?}", buffer.chunk()),
        }
        if soon(stream.read_buf(buffer)).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
