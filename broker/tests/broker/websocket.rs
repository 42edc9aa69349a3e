//! MQTT over WebSocket ([MQTT-6.0.0-1] to [MQTT-6.0.0-4]).

use crate::client::{Client, bytes_of, connect, publish, subscribe};
use crate::house::{House, SOON};
use futures_util::{SinkExt as _, StreamExt as _};
use mqtt_proto::{Decoder, Limits, Packet, QoS, ReasonCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Upgrades with these headers; the status when that is refused.
async fn upgrade<S>(stream: S, headers: &[(&'static str, &str)]) -> Result<WebSocketStream<S>, u16>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = "ws://broker/mqtt".into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, response)) => {
            assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
            Ok(socket)
        }
        Err(WsError::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

const MQTT: (&str, &str) = ("sec-websocket-protocol", "mqtt");

/// One client over WebSocket that sees packets.
pub(crate) struct Socket<S> {
    socket: WebSocketStream<S>,
    decoder: Decoder,
    buffer: bytes::BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(crate) async fn open(stream: S, app: &str) -> Self {
        let mut this = Self::upgraded(stream).await;
        this.send(&Packet::Connect(Box::new(connect(app)))).await;
        assert!(matches!(this.next().await, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success));
        this
    }

    async fn upgraded(stream: S) -> Self {
        let socket = upgrade(stream, &[MQTT]).await.unwrap();
        let limits = Limits { packet_bytes_max: usize::MAX, ..Limits::default() };
        Self { socket, decoder: Decoder::client(Version::V5, limits), buffer: bytes::BytesMut::new() }
    }

    async fn send(&mut self, packet: &Packet) {
        self.frame(Message::Binary(bytes_of(packet, Version::V5).into())).await;
    }

    async fn frame(&mut self, frame: Message) {
        self.socket.send(frame).await.unwrap();
    }

    async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(packet);
            }
            match tokio::time::timeout(SOON, self.socket.next()).await.unwrap() {
                // [MQTT-6.0.0-1]
                Some(Ok(Message::Binary(bytes))) => self.buffer.extend_from_slice(&bytes),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("{other:?}"),
            }
        }
    }

    async fn next_message(&mut self) -> Vec<u8> {
        match self.next().await {
            Some(Packet::Publish(publish)) => publish.payload.to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn mqtt_goes_over_websocket_with_tls_and_on_loopback_together_with_all_others() {
    let house = House::open(|_| {}).await;
    let mut plain = house.tcp_client("plain").await;
    plain.subscribe("news", QoS::AtMostOnce).await;
    let mut local = Socket::open(TcpStream::connect(house.websocket_loopback).await.unwrap(), "local").await;
    let mut far = Socket::open(house.shaken(house.websocket_tls, "far").await, "far").await;
    far.send(&subscribe("news", QoS::AtMostOnce)).await;
    assert!(matches!(far.next().await, Some(Packet::SubAck(_))));

    local.send(&publish("news", b"hello".to_vec(), QoS::AtLeastOnce, 1)).await;
    assert!(matches!(local.next().await, Some(Packet::PubAck(_))));
    assert_eq!(plain.message().await, ("news".to_owned(), b"hello".to_vec()));
    assert_eq!(far.next_message().await, b"hello");
    // The identity over TLS is that of the certificate, whatever the user name says.
    let sessions = house.hub.sessions();
    let owners: Vec<_> = sessions.iter().map(|session| session.identity.to_string()).collect();
    assert!(owners.contains(&"spiffe://plant/app/far".to_owned()), "{owners:?}");
    house.close().await;
}

// [MQTT-6.0.0-2]
#[tokio::test]
async fn packets_need_not_be_aligned_with_frames() {
    let house = House::open(|_| {}).await;
    let mut socket = Socket::upgraded(TcpStream::connect(house.websocket_loopback).await.unwrap()).await;
    let mut bytes = bytes_of(&Packet::Connect(Box::new(connect("app"))), Version::V5);
    let payload: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    for packet in [subscribe("big", QoS::AtMostOnce), publish("big", payload.clone(), QoS::AtMostOnce, 0)] {
        bytes.extend(bytes_of(&packet, Version::V5));
    }
    let (small, large) = bytes.split_at(60);
    for byte in small {
        socket.frame(Message::Binary(vec![*byte].into())).await;
    }
    socket.frame(Message::Binary(bytes::Bytes::new())).await;
    for piece in large.chunks(70_001) {
        socket.frame(Message::Ping(b"still there?".to_vec().into())).await;
        socket.frame(Message::Binary(piece.to_vec().into())).await;
    }
    assert!(matches!(socket.next().await, Some(Packet::ConnAck(_))));
    assert!(matches!(socket.next().await, Some(Packet::SubAck(_))));
    assert_eq!(socket.next_message().await, payload);
    // Several packets in one frame.
    let two = [
        publish("big", b"1".to_vec(), QoS::AtMostOnce, 0),
        publish("big", b"2".to_vec(), QoS::AtMostOnce, 0),
    ];
    let frame: Vec<u8> = two.iter().flat_map(|packet| bytes_of(packet, Version::V5)).collect();
    socket.frame(Message::Binary(frame.into())).await;
    assert_eq!(socket.next_message().await, b"1");
    assert_eq!(socket.next_message().await, b"2");
    house.close().await;
}

// [MQTT-6.0.0-1]
#[tokio::test]
async fn a_text_frame_ends_the_connection_before_and_after_connect() {
    let house = House::open(|_| {}).await;
    let stream = TcpStream::connect(house.websocket_loopback).await.unwrap();
    let mut early = Socket::upgraded(stream).await;
    early.frame(Message::text("hello")).await;
    let mut late = Socket::open(TcpStream::connect(house.websocket_loopback).await.unwrap(), "late").await;
    late.frame(Message::text("hello")).await;
    for socket in [&mut early.socket, &mut late.socket] {
        let close = tokio::time::timeout(SOON, socket.next()).await.unwrap();
        assert!(
            matches!(&close, Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Unsupported),
            "{close:?}"
        );
    }
    let records = house.close().await;
    let refused = records.iter().find(|record| record["event"] == "connection-refused").unwrap();
    assert_eq!(refused["listener"], "websocket-loopback");
    assert!(refused["reason"].as_str().unwrap().contains("text frame"), "{refused}");
}

// [MQTT-6.0.0-3]
#[tokio::test]
async fn without_the_subprotocol_there_is_no_upgrade() {
    let house = House::open(|_| {}).await;
    let stream = || TcpStream::connect(house.websocket_loopback);
    assert_eq!(upgrade(stream().await.unwrap(), &[]).await.err(), Some(400));
    let chat = ("sec-websocket-protocol", "chat");
    assert_eq!(upgrade(stream().await.unwrap(), &[chat]).await.err(), Some(400));
    assert!(upgrade(stream().await.unwrap(), &[MQTT]).await.is_ok());
    house.close().await;
}

#[tokio::test]
async fn a_web_page_comes_in_only_if_its_origin_is_named() {
    let house = House::open(|config| config.websocket_origins = vec!["https://hmi.plant".into()]).await;
    let evil = [MQTT, ("origin", "https://evil.example")];
    let named = [MQTT, ("origin", "https://hmi.plant")];
    for address in [house.websocket_loopback, house.websocket_tls] {
        let is_tls = address == house.websocket_tls;
        for (headers, expected) in [(evil, Some(403)), (named, None)] {
            let status = if is_tls {
                upgrade(house.shaken(address, "page").await, &headers).await.err()
            } else {
                upgrade(TcpStream::connect(address).await.unwrap(), &headers).await.err()
            };
            assert_eq!(status, expected);
        }
    }
    let records = house.close().await;
    let refusals =
        records.iter().filter(|record| record["reason"].as_str().is_some_and(|r| r.contains("evil")));
    assert_eq!(refusals.count(), 2);
}

#[tokio::test]
async fn who_proves_nothing_does_not_even_get_to_the_upgrade() {
    let house = House::open(|_| {}).await;
    // No TLS at all on the TLS port, no WebSocket on the WebSocket port.
    let mut stream = TcpStream::connect(house.websocket_tls).await.unwrap();
    stream.write_all(b"GET /mqtt HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap());
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let stream = TcpStream::connect(house.websocket_loopback).await.unwrap();
    let mut bytes = bytes_of(&Packet::Connect(Box::new(connect("plain"))), Version::V5);
    bytes.extend(b"\r\n\r\n");
    let mut stream = stream;
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    drop(tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap());
    assert!(answer.is_empty() || answer.starts_with(b"HTTP"), "{answer:?}");
    house.close().await;
}

#[tokio::test]
async fn a_close_frame_without_disconnect_is_a_lost_connection_and_lets_the_will_go_out() {
    let house = House::open(|_| {}).await;
    let mut reader = house.tcp_client("reader").await;
    reader.subscribe("last", QoS::AtMostOnce).await;
    let will = |payload: &'static [u8]| {
        let message = mqtt_proto::Publication {
            topic: mqtt_proto::TopicName::new("last").unwrap(),
            payload: payload.into(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: None,
        };
        Some(mqtt_proto::Will { message, delay_secs: 0 })
    };
    let mut leaver = Socket::upgraded(TcpStream::connect(house.websocket_loopback).await.unwrap()).await;
    leaver
        .send(&Packet::Connect(Box::new(mqtt_proto::Connect { will: will(b"gone"), ..connect("l") })))
        .await;
    assert!(matches!(leaver.next().await, Some(Packet::ConnAck(_))));
    leaver.frame(Message::Close(None)).await;
    assert_eq!(reader.message().await.1, b"gone");
    house.close().await;
}

/// A Close, and that it is answered before the stream ends.
async fn closed_in_turn<S: AsyncRead + AsyncWrite + Unpin>(mut socket: Socket<S>, what: &str) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    socket.frame(Message::Close(Some(frame))).await;
    loop {
        match tokio::time::timeout(SOON, socket.socket.next()).await.unwrap() {
            Some(Ok(Message::Close(_))) => break,
            Some(Ok(Message::Binary(_))) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
    let end = tokio::time::timeout(SOON, socket.socket.next()).await.unwrap();
    assert!(end.is_none(), "{what}: {end:?}");
}

// RFC 6455 §5.5.1
#[tokio::test]
async fn a_close_frame_is_answered_with_one() {
    let house = House::open(|_| {}).await;
    let stream = || TcpStream::connect(house.websocket_loopback);
    closed_in_turn(Socket::upgraded(stream().await.unwrap()).await, "before CONNECT").await;
    closed_in_turn(Socket::open(stream().await.unwrap(), "c").await, "connected").await;
    closed_in_turn(Socket::open(house.shaken(house.websocket_tls, "s").await, "s").await, "over TLS").await;
    let mut leaver = Socket::open(stream().await.unwrap(), "d").await;
    leaver.send(&crate::ends::disconnect()).await;
    closed_in_turn(leaver, "after DISCONNECT").await;
    // Who is still owed something, or has asked for it in the same breath.
    let mut asker = Socket::open(stream().await.unwrap(), "p").await;
    asker.send(&publish("a", b"x".to_vec(), QoS::AtLeastOnce, 1)).await;
    asker.send(&Packet::PingReq).await;
    closed_in_turn(asker, "owed").await;
    house.close().await;
}

/// What the broker answers to a request, up to the end or to the blank line after 101.
async fn asked(house: &House, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(house.websocket_loopback).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !(answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(b"\r\n\r\n"))
        && tokio::time::timeout(SOON, stream.read_buf(&mut answer)).await.unwrap().unwrap() > 0
    {}
    String::from_utf8(answer).unwrap()
}

// RFC 6455 §4.2.2
#[tokio::test]
async fn what_is_no_upgrade_is_told_so_in_http() {
    let house = House::open(|_| {}).await;
    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: mqtt\r\n";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let long = format!("x: {}\r\n", "x".repeat(20_000));
    for (request, headers, status, hint) in [
        (
            "GET / HTTP/1.1",
            [upgrade, key, "sec-websocket-version: 13\r\n"],
            "101 ",
            "sec-websocket-protocol: mqtt",
        ),
        (
            "GET / HTTP/1.1",
            [upgrade, key, "sec-websocket-version: 8\r\n"],
            "426 ",
            "sec-websocket-version: 13",
        ),
        ("GET / HTTP/1.1", ["", "", ""], "426 ", "upgrade: websocket"),
        ("GET / HTTP/1.1", [upgrade, "", "sec-websocket-version: 13\r\n"], "400 ", "Sec-WebSocket-Key"),
        ("GET / HTTP/1.1", [&long, upgrade, key], "431 ", "too long"),
        ("GET / HTTP/1.0", [upgrade, key, "sec-websocket-version: 13\r\n"], "505 ", ""),
        ("POST / HTTP/1.1", [upgrade, key, "sec-websocket-version: 13\r\n"], "405 ", "allow: GET"),
        ("\x10\x0D\0\x04MQTT\x04", ["", "", ""], "400 ", ""),
    ] {
        let [a, b, c] = headers;
        let answer = asked(&house, format!("{request}\r\nhost: broker\r\n{a}{b}{c}\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answer.contains(hint), "{request}: {answer}");
    }
    house.close().await;
}

#[tokio::test]
async fn a_listener_for_plaintext_is_for_loopback_only() {
    let config = midge_broker::MqttConfig {
        websocket_loopback: Some("0.0.0.0:0".parse().unwrap()),
        ..midge_broker::MqttConfig::default()
    };
    let error = midge_broker::Bound::bind(&config).await.unwrap_err();
    assert!(error.to_string().contains("mqtt.websocket-loopback = \"0.0.0.0:0\""), "{error}");
}

#[tokio::test]
async fn a_plain_client_and_one_over_websocket_take_over_the_same_session() {
    let house = House::open(|_| {}).await;
    let mut first = house.tcp_client("same").await;
    let _second = Socket::open(TcpStream::connect(house.websocket_loopback).await.unwrap(), "same").await;
    assert_eq!(first.end().await, Some(ReasonCode::SessionTakenOver));
    drop(Client::into_stream(first));
    house.close().await;
}
