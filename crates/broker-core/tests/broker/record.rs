//! Records as bytes.

use crate::world::*;
use broker_core::{
    OwedRecord, QueuedRecord, Record, RecordError, RecordKey, RecordKind, SessionRecord, SubscriptionRecord,
    WillRecord,
};
use midge_identity::{RootId, UnixMillis};
use mqtt_proto::*;
use proptest::prelude::*;
use std::sync::Arc;

/// A record of every kind, and of every state that one has.
fn all_kinds() -> Vec<(RecordKey, Record)> {
    let mut world = World::new();
    let properties = PublishProperties {
        message_expiry_secs: Some(60),
        user_properties: vec![("key".into(), "value".into())],
        ..PublishProperties::default()
    };
    let rich = |topic, qos| {
        let publish = publish(topic, "payload", qos);
        Publish { retain: true, properties: Some(Arc::new(properties.clone())), ..publish }
    };
    let ops = world.open("ops", Connect { will: will("gone", "ops", 7), ..durable("ops") });
    world.send(ops, subscribe_with_id(Some(9), [sub("a/#", Q2), sub("$share/g/a/+", Q1)]));
    let press = world.open("press", Connect { clean_start: false, ..v311("press") });
    for id in 1..=3 {
        world.send(press, Packet::Publish(Box::new(Publish { packet_id: Some(pid(id)), ..rich("a/b", Q2) })));
        world.send(press, Packet::PubRel(ack(id)));
    }
    world.send(press, Packet::Publish(Box::new(rich("a/b", Q2))));
    world.send(ops, Packet::PubRec(ack(1)));
    world.lose(ops);
    world.send(press, Packet::Publish(Box::new(rich("a/c", Q1))));
    let slow = Connect { receive_max: std::num::NonZeroU16::new(1), ..durable("slow") };
    let slow = world.open("slow", slow);
    world.send(slow, subscribe([sub("a/+", Q1)]));
    let brief = world.client("brief");
    world.subscribe(brief, "$share/g/a/+", Q1);
    world.publish(press, "a/d", "lent", Q1);
    world.client("gone");
    world.settling = false;
    world.revoke("gone");
    let mut records = world.disk.read();
    records.sort_by_key(|(key, _)| *key);
    records
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    let records = all_kinds();
    let mut kinds: Vec<_> = records.iter().map(|(key, _)| key.kind).collect();
    kinds.dedup();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    for (key, record) in records {
        assert_eq!(RecordKey::parse(&key.to_string()), Ok(key));
        assert_eq!(Record::decode(key, &record.encode().unwrap()), Ok(record));
    }
}

#[test]
fn a_record_of_another_format_is_told_from_a_damaged_one() {
    for (key, record) in all_kinds() {
        let mut bytes = record.encode().unwrap();
        bytes.push(0);
        assert_eq!(Record::decode(key, &bytes), Err(RecordError::Damaged), "{key}");
        bytes[0] = 2;
        assert_eq!(Record::decode(key, &bytes), Err(RecordError::Format(2)), "{key}");
        assert_eq!(Record::decode(key, &[]), Err(RecordError::Damaged), "{key}");
    }
}

// What an earlier version wrote: then any message may have been sent before.
#[test]
fn a_session_record_that_does_not_say_what_was_sent_is_read() {
    let mut records = all_kinds().into_iter();
    let is_parked = |record: &Record| matches!(record, Record::Session(session) if session.sent.is_some());
    let (key, record) = records.find(|(_, record)| is_parked(record)).unwrap();
    let bytes = record.encode().unwrap();
    let Record::Session(session) = record else { panic!("{record:?} is no session") };
    let earlier = SessionRecord { sent: None, ..*session };
    assert_eq!(Record::decode(key, &bytes[..bytes.len() - 9]), Ok(Record::Session(Box::new(earlier))));
}

// What an earlier version wrote has none, and a record without one is written so still.
#[test]
fn the_root_of_a_session_and_of_a_will_reads_back_and_may_be_missing() {
    for (key, record) in all_kinds() {
        let with = match &record {
            Record::Session(session) if session.sent.is_some() => {
                let root = Some(RootId { digest: [7; 32], ends: UnixMillis(9) });
                Record::Session(Box::new(SessionRecord { root, ..(**session).clone() }))
            }
            Record::Will(will) => {
                let root = Some(RootId { digest: [7; 32], ends: UnixMillis(9) });
                Record::Will(Box::new(WillRecord { root, ..(**will).clone() }))
            }
            _ => continue,
        };
        let (without, bytes) = (record.encode().unwrap(), with.encode().unwrap());
        assert_eq!(bytes.len(), without.len() + 40);
        assert_eq!(Record::decode(key, &bytes), Ok(with));
        if let Record::Session(_) = record {
            for cut in 1..40 {
                let found = Record::decode(key, &bytes[..bytes.len() - cut]);
                assert_eq!(found, Err(RecordError::Damaged));
            }
        }
    }
}

// What an earlier version wrote, byte for byte: nothing is owed then. A plain record is written so still.
#[test]
fn a_subscription_record_that_does_not_say_what_is_owed_is_read() {
    let key = RecordKey::parse("u/0000000000000001/0000000000000002").unwrap();
    let plain = SubscriptionRecord {
        filter: SharedFilter::new("a/#").unwrap(),
        requested: Q1,
        no_local: true,
        retain_as_published: false,
        id: Some(9),
        owed: None,
    };
    let earlier = b"\x01\x03\0\0\0a/#\x01\x01\0\x01\x09\0\0\0\0\0\0\0";
    assert_eq!(Record::decode(key, earlier), Ok(Record::Subscription(Box::new(plain.clone()))));
    assert_eq!(&Record::Subscription(Box::new(plain.clone())).encode().unwrap(), earlier);
    for (after, overtaken) in [
        (None, vec![]),
        (Some(topic_name("a/b")), vec![]),
        (Some(topic_name("a/b")), vec![topic_name("a/c")]),
    ] {
        let is_whole = overtaken.is_empty();
        let owed = Some(OwedRecord { after, sent: 7, overtaken });
        let record = Record::Subscription(Box::new(SubscriptionRecord { owed, ..plain.clone() }));
        let bytes = record.encode().unwrap();
        assert_eq!(Record::decode(key, &bytes), Ok(record));
        let begins = if is_whole { earlier.len() + 1 } else { bytes.len() - 6 };
        for end in begins..bytes.len() {
            assert_eq!(Record::decode(key, &bytes[..end]), Err(RecordError::Damaged));
        }
    }
}

// What an earlier version wrote, byte for byte: the identifier is chosen when the message is sent then.
#[test]
fn a_queued_record_that_does_not_say_its_packet_identifier_is_read() {
    let key = RecordKey::parse("q/0000000000000001/0000000000000002").unwrap();
    let plain = QueuedRecord {
        message: 3,
        qos: Q1,
        retain: true,
        subscription_ids: Some([9].into()),
        group: None,
        packet_id: None,
    };
    let earlier = b"\x01\x03\0\0\0\0\0\0\0\x01\x01\x01\0\x09\0\0\0\0";
    assert_eq!(Record::decode(key, earlier), Ok(Record::Queued(plain.clone())));
    let record = Record::Queued(QueuedRecord { packet_id: Some(pid(0x8001)), ..plain });
    let bytes = record.encode().unwrap();
    assert_eq!(bytes, [earlier, &b"\x01\x80"[..]].concat());
    assert_eq!(Record::decode(key, &bytes), Ok(record));
    for damaged in [&[earlier, &b"\0\0"[..]].concat(), &bytes[..bytes.len() - 1]] {
        assert_eq!(Record::decode(key, damaged), Err(RecordError::Damaged), "{damaged:?}");
    }
}

proptest! {
    // Whatever is on the disk: no panic, and nothing but what can be written back.
    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0..8_usize) {
        let kinds = ["s", "u", "m", "q", "o", "h", "r", "w"].map(|letter| {
            let owned = format!("{letter}/{:016x}/{:016x}", 1, 2);
            RecordKey::parse(&owned).or_else(|_| RecordKey::parse(&format!("{letter}/{:016x}", 2))).unwrap()
        });
        let bytes = [&[1], &*bytes].concat();
        if let Ok(record) = Record::decode(kinds[kind], &bytes) {
            prop_assert_eq!(Record::decode(kinds[kind], &record.encode().unwrap()), Ok(record));
        }
    }

    #[test]
    fn a_damaged_record_is_a_record_or_an_error(at in any::<proptest::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
        static RECORDS: std::sync::LazyLock<Vec<(RecordKey, Record)>> = std::sync::LazyLock::new(all_kinds);
        for (key, record) in &*RECORDS {
            let mut bytes = record.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            if cut {
                bytes.truncate(at);
            }
            if let Ok(record) = Record::decode(*key, &bytes) {
                prop_assert_eq!(Record::decode(*key, &record.encode().unwrap()), Ok(record), "{}", key);
            }
        }
    }
}

#[test]
fn keys_of_a_kind_stand_together_and_in_the_order_of_their_numbers() {
    let keys: Vec<_> = all_kinds().into_iter().map(|(key, _)| key).collect();
    let queued: Vec<_> = keys.iter().filter(|key| key.kind == RecordKind::Queued).collect();
    assert!(!queued.is_empty());
    assert!(queued.iter().map(|key| key.to_string()).is_sorted());
}
