//! Deciding without any cache, with few and with many rules for others or for all; and matching topics.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what cannot be set up is not measured"
)]

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use midge_identity::SpiffeId;
use midge_policy::{Policy, PublishFacts, SubscribeMode};
use mqtt_proto::{Publication, QoS, SharedFilter, TopicFilter, TopicName};
use support::{NOW, POLICY};

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    let id = SpiffeId::new("spiffe://bench.example/app/a0").unwrap();
    let topic = TopicName::new("bench/pair/0/value").unwrap();
    let filter = SharedFilter::new("bench/pair/+/value").unwrap();
    for (count, of, ids) in [10, 1_000, 100_000]
        .into_iter()
        .flat_map(|count| [(count, "others", "other/{n}"), (count, "all", "**")])
    {
        let mut text = POLICY.to_owned();
        for n in 0..count {
            let ids = ids.replace("{n}", &n.to_string());
            text.push_str(&format!(
                "[[rule]]\nname = \"other-{n}\"\nid = \"spiffe://bench.example/{ids}\"\npublish = [\"other/{n}/#\"]\n"
            ));
        }
        let policy = Policy::from_toml_str(&text, "bench.toml").unwrap();
        let rights = policy.rights(&id);
        let facts =
            PublishFacts { qos: QoS::AtLeastOnce, retain: false, payload_len: 64, response_topic: None };
        group.bench_function(format!("PUBLISH, {count} rules for {of}"), |bencher| {
            bencher.iter(|| rights.publish(std::hint::black_box(&topic), facts).is_ok());
        });
        group.bench_function(format!("delivery, {count} rules for {of}"), |bencher| {
            bencher.iter(|| rights.receive(std::hint::black_box(&topic)).is_ok());
        });
        group.bench_function(format!("SUBSCRIBE, {count} rules for {of}"), |bencher| {
            bencher.iter(|| {
                rights
                    .subscribe(std::hint::black_box(&filter), QoS::AtLeastOnce, SubscribeMode::Reject)
                    .is_ok()
            });
        });
    }
    group.finish();
}

fn matching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("match");
    let topic = TopicName::new("bench/pair/0/value").unwrap();
    let filter = TopicFilter::new("bench/+/0/#").unwrap();
    group.bench_function("one filter", |bencher| {
        bencher.iter(|| filter.matches(std::hint::black_box(&topic)));
    });
    let mut world = support::World::new();
    for n in 0..10_000 {
        world.client(Some((&format!("bench/pair/{n}/value"), 0)));
    }
    let publication = Publication {
        topic,
        payload: bytes::Bytes::from_static(&[7; 64]),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: None,
    };
    group.bench_function("10,000 filters, and the delivery", |bencher| {
        bencher.iter(|| {
            world.broker.handle_own_publication(publication.clone(), NOW);
            while world.broker.poll_effect().is_some() {}
            world.flush(0);
        });
    });
    group.finish();
}

criterion_group!(benches, decisions, matching);
criterion_main!(benches);
