//! One batch through the core: bytes in, decoded, authorized, routed, encoded, bytes out. No TLS, no sockets.

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
use support::{World, publish};

const BATCH: u16 = 256;

fn p2p(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    for qos in 0..3 {
        let mut world = World::new();
        world.client(Some(("bench/pair/0/value", qos)));
        let publisher = world.client(None);
        let batch: Vec<u8> = (1..=BATCH).flat_map(|id| publish("bench/pair/0/value", qos, id, 64)).collect();
        let mut out = vec![BytesMut::new(); world.len()];
        group.throughput(Throughput::Elements(BATCH.into()));
        group.bench_function(format!("p2p qos {qos}"), |bencher| {
            bencher.iter(|| {
                world.input(publisher, &batch);
                exchange(&mut world, &mut out);
            });
        });
    }
    group.finish();
}

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    let mut world = World::new();
    for _ in 0..100 {
        world.client(Some(("bench/line/value", 0)));
    }
    let publisher = world.client(None);
    let batch: Vec<u8> = (0..16).flat_map(|_| publish("bench/line/value", 0, 0, 256)).collect();
    let mut out = vec![BytesMut::new(); world.len()];
    group.throughput(Throughput::Elements(1_600));
    group.bench_function("fan-out to 100", |bencher| {
        bencher.iter(|| {
            world.input(publisher, &batch);
            exchange(&mut world, &mut out);
        });
    });
    group.finish();
}

/// Lets the clients answer until nobody has anything to say.
fn exchange(world: &mut World, out: &mut [BytesMut]) {
    loop {
        world.output_to(out);
        let mut is_quiet = true;
        for (client, bytes) in out.iter_mut().enumerate() {
            let answers = answers(bytes);
            bytes.clear();
            if !answers.is_empty() {
                is_quiet = false;
                world.input(client, &answers);
            }
        }
        if is_quiet {
            return;
        }
    }
}

fn answers(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [first, len, rest @ ..] = bytes {
        let (len, rest) = match rest {
            [high, tail @ ..] if len & 0x80 != 0 => {
                (usize::from(len & 0x7F) + (usize::from(*high) << 7), tail)
            }
            _ => (usize::from(*len), rest),
        };
        let (body, tail) = rest.split_at(len);
        let id = |at: usize| [body[at], body[at + 1]];
        let topic = || usize::from(u16::from_be_bytes([body[0], body[1]]));
        match first {
            0x32 => out.extend([&[0x40, 2][..], &id(2 + topic())].concat()),
            0x34 => out.extend([&[0x50, 2][..], &id(2 + topic())].concat()),
            0x50 => out.extend([&[0x62, 2][..], &id(0)].concat()),
            0x62 => out.extend([&[0x70, 2][..], &id(0)].concat()),
            _ => {}
        }
        bytes = tail;
    }
    out
}

criterion_group!(benches, p2p, fanout);
criterion_main!(benches);
