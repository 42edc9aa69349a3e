//! Enhanced authentication over the wire, with a method of the test's own.

use crate::client::{Client, connect};
use crate::house::House;
use mqtt_proto::{Auth, ConnAck, Connect, Info, Packet, ReasonCode};
use tokio::net::TcpStream;

fn auth(reason: ReasonCode, data: &'static [u8]) -> Packet {
    let data = Some(data.into());
    Packet::Auth(Box::new(Auth { reason, method: Some("ECHO".into()), data, info: Info::default() }))
}

fn asked(packet: Option<Packet>) -> bool {
    matches!(packet, Some(Packet::Auth(auth)) if auth.reason == ReasonCode::ContinueAuthentication
        && auth.method.as_deref() == Some("ECHO") && auth.data.as_deref() == Some(b"say it"))
}

async fn begin(house: &House) -> Client<TcpStream> {
    let wanted = Connect { auth_method: Some("ECHO".into()), ..connect("auth") };
    let (client, first) = Client::connect(TcpStream::connect(house.tcp).await.unwrap(), wanted).await;
    assert!(asked(first));
    client
}

fn connack(packet: Option<Packet>) -> ConnAck {
    match packet {
        Some(Packet::ConnAck(ack)) => *ack,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_is_let_in_after_its_exchange_and_authenticates_again() {
    let house = House::open(|_| {}).await;
    let mut client = begin(&house).await;
    client.send(&auth(ReasonCode::ContinueAuthentication, b"SAY IT")).await;
    let ack = connack(client.next().await);
    assert_eq!((ack.reason, ack.auth_method.as_deref()), (ReasonCode::Success, Some("ECHO")));
    client.send(&auth(ReasonCode::ReAuthenticate, b"")).await;
    assert!(asked(client.next().await));
    client.send(&auth(ReasonCode::ContinueAuthentication, b"SAY IT")).await;
    assert!(matches!(client.next().await, Some(Packet::Auth(auth)) if auth.reason == ReasonCode::Success));
    client.send(&auth(ReasonCode::ReAuthenticate, b"")).await;
    assert!(asked(client.next().await));
    client.send(&auth(ReasonCode::ContinueAuthentication, b"wrong")).await;
    assert_eq!(client.end().await, Some(ReasonCode::NotAuthorized));
    let records = house.close().await;
    assert_eq!(records.iter().filter(|record| record["event"] == "reauthenticated").count(), 1);
}

#[tokio::test]
async fn who_fails_is_refused_and_an_unknown_method_too() {
    let house = House::open(|_| {}).await;
    let mut client = begin(&house).await;
    client.send(&auth(ReasonCode::ContinueAuthentication, b"wrong")).await;
    assert_eq!(connack(client.next().await).reason, ReasonCode::NotAuthorized);
    assert_eq!(client.end().await, None);
    let unknown = Connect { auth_method: Some("SCRAM-SHA-1".into()), ..connect("auth") };
    let (_, answer) = Client::connect(TcpStream::connect(house.tcp).await.unwrap(), unknown).await;
    assert_eq!(connack(answer).reason, ReasonCode::BadAuthenticationMethod);
    house.close().await;
}
