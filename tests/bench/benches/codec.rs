//! Bytes to packets and back.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what cannot be set up is not measured"
)]

mod support;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mqtt_proto::{Decoder, Limits, Packet, PublishRef, Version, encode, encode_publish};
use support::publish;

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, qos, size) in [("qos 0, 64 B", 0, 64), ("qos 1, 256 B", 1, 256)] {
        let batch: Vec<u8> = (1..=256).flat_map(|id| publish("bench/pair/0/value", qos, id, size)).collect();
        let mut decoder = Decoder::server(Limits::default());
        let mut connect = BytesMut::from(&b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c"[..]);
        assert!(matches!(decoder.decode(&mut connect), Ok(Some(Packet::Connect(_)))));
        group.throughput(Throughput::Elements(256));
        let mut buffer = BytesMut::new();
        group.bench_function(format!("PUBLISH {name}"), |bencher| {
            bencher.iter(|| {
                buffer.extend_from_slice(&batch);
                let mut count = 0;
                while let Some(packet) = decoder.decode(&mut buffer).unwrap() {
                    std::hint::black_box(&packet);
                    count += 1;
                }
                assert_eq!(count, 256);
            });
        });
    }
    group.finish();
}

fn encoded(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let mut decoder = Decoder::client(Version::V311, Limits::default());
    let mut bytes = BytesMut::from(&publish("bench/pair/0/value", 1, 1, 256)[..]);
    let Some(Packet::Publish(packet)) = decoder.decode(&mut bytes).unwrap() else { panic!("no PUBLISH") };
    group.throughput(Throughput::Elements(256));
    for version in [Version::V311, Version::V5] {
        let mut out = BytesMut::with_capacity(256 * 512);
        group.bench_function(format!("PUBLISH 256 B, {version:?}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                for _ in 0..256 {
                    encode_publish(&PublishRef::from(&*packet), version, &mut out).unwrap();
                }
            });
        });
    }
    let ack = Packet::PubAck(mqtt_proto::Ack {
        packet_id: mqtt_proto::PacketId::MIN,
        reason: mqtt_proto::ReasonCode::Success,
        info: None,
    });
    let mut out = BytesMut::with_capacity(256 * 16);
    group.bench_function("PUBACK", |bencher| {
        bencher.iter(|| {
            out.clear();
            for _ in 0..256 {
                encode(&ack, Version::V311, &mut out).unwrap();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encoded);
criterion_main!(benches);
