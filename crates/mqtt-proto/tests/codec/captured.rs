//! Bytes real KubeEdge programs sent: edgecore's event bus (paho 1.2.0) and light_mapper (paho 1.3.1).

use crate::notation::bytes;
use bytes::BytesMut;
use mqtt_proto::{Connect, Decoder, Limits, Packet, QoS, Version, encode};

fn decode_stream(wire: &[&str]) -> Vec<Packet> {
    let mut buffer = BytesMut::new();
    for packet in wire {
        buffer.extend_from_slice(&bytes(packet));
    }
    let mut decoder = Decoder::server(Limits::default());
    let mut packets = Vec::new();
    while let Some(packet) = decoder.decode(&mut buffer).unwrap() {
        packets.push(packet);
    }
    assert!(buffer.is_empty());
    for (packet, wire) in packets.iter().zip(wire) {
        let mut out = BytesMut::new();
        encode(packet, Version::V311, &mut out).unwrap();
        assert_eq!(out[..], bytes(wire)[..], "written back byte for byte");
    }
    packets
}

fn connect(packet: &Packet) -> &Connect {
    match packet {
        Packet::Connect(connect) => connect,
        other => panic!("{other:?}"),
    }
}

#[test]
fn event_bus_of_kubeedge_1_15() {
    let packets = decode_stream(&[
        "102500044d5154540402001e00196875622d636c69656e742d7375622d31373935333430343833",
        "8218000100132468772f6576656e74732f75706c6f61642f2301",
        "8225000100202468772f6576656e74732f6465766963652f2b2f73746174652f75706461746501",
        "821f0001001a2468772f6576656e74732f6465766963652f2b2f7477696e2f2b01",
        "8225000100202468772f6576656e74732f6e6f64652f2b2f6d656d626572736869702f67657401",
        "821b000100165359532f6469732f75706c6f61645f7265636f72647301",
        "820d000100082b2f757365722f2301",
    ]);
    let connect = connect(&packets[0]);
    assert_eq!(connect.version, Version::V311);
    assert_eq!(&*connect.client_id, "hub-client-sub-1795340483");
    assert_eq!(connect.keep_alive_secs, 30);
    assert!(connect.clean_start && connect.will.is_none());
    assert!(connect.username.is_none() && connect.password.is_none());
    let filters: Vec<String> = packets[1..].iter().map(filter_at_qos1).collect();
    assert_eq!(
        filters,
        [
            "$hw/events/upload/#",
            "$hw/events/device/+/state/update",
            "$hw/events/device/+/twin/+",
            "$hw/events/node/+/membership/get",
            "SYS/dis/upload_records",
            "+/user/#",
        ]
    );
}

fn filter_at_qos1(packet: &Packet) -> String {
    match packet {
        Packet::Subscribe(subscribe) => {
            assert_eq!((subscribe.packet_id.get(), subscribe.subscriptions.len()), (1, 1));
            assert_eq!(subscribe.subscriptions[0].qos, QoS::AtLeastOnce);
            subscribe.subscriptions[0].filter.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn light_mapper() {
    let twin = r#"{"event_id":"","timestamp":0,"twin":{"power-status":{"actual":{"value":"unknown"},"metadata":{"type":"Updated"}}}}"#;
    let twin_get = format!("30a401 0030 '$hw/events/device/led-light-instance-01/twin/get' '{twin}'");
    let packets = decode_stream(&[
        "101400044d5154540402001e00086576656e74627573",
        "304800342468772f6576656e74732f6465766963652f6c65642d6c696768742d696e7374616e63652d30312f73746174652f7570646174657b227374617465223a226f6e6c696e65227d",
        &twin_get,
        "823c000100372468772f6576656e74732f6465766963652f6c65642d6c696768742d696e7374616e63652d30312f7477696e2f6765742f726573756c7400",
    ]);
    assert_eq!(&*connect(&packets[0]).client_id, "eventbus");
    let published: Vec<_> = packets[1..3].iter().map(published_at_qos0).collect();
    assert_eq!(
        published,
        [
            ("$hw/events/device/led-light-instance-01/state/update", r#"{"state":"online"}"#),
            ("$hw/events/device/led-light-instance-01/twin/get", twin),
        ]
    );
    let Packet::Subscribe(subscribe) = &packets[3] else { panic!("{:?}", packets[3]) };
    assert_eq!(subscribe.subscriptions[0].qos, QoS::AtMostOnce);
    assert_eq!(
        subscribe.subscriptions[0].filter.to_string(),
        "$hw/events/device/led-light-instance-01/twin/get/result"
    );
}

fn published_at_qos0(packet: &Packet) -> (&str, &str) {
    match packet {
        Packet::Publish(publish) => {
            assert_eq!((publish.qos, publish.retain, publish.dup), (QoS::AtMostOnce, false, false));
            let topic = publish.topic.as_ref().unwrap().as_str();
            (topic, std::str::from_utf8(&publish.payload).unwrap())
        }
        other => panic!("{other:?}"),
    }
}
