//! What a witness is told: each decision once it is made, and what stood before it came.

use crate::world::*;
use broker_core::{Asker, ConnId, Witness};
use midge_policy::{Action, Question};
use mqtt_proto::Connect;
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Witness for Notes {
    fn decided(&mut self, asker: &Asker<'_>, question: &Question<'_>, allowed: bool) {
        assert_eq!(question.put(asker.rights).is_ok(), allowed, "{question:?}");
        let word = match question.action() {
            Action::Publish => "publish",
            Action::Will => "will",
            Action::Subscribe => "subscribe",
            _ => "receive",
        };
        let id = asker.identity.path().trim_start_matches('/');
        let client = asker.context.client_id.unwrap_or_default();
        let listener = asker.context.listener.unwrap_or_default();
        let (subject, sign) = (question.subject(), if allowed { '+' } else { '-' });
        self.0.lock().unwrap().push(format!("{id}/{client}@{listener} {sign}{word} {subject}"));
    }
}

impl Notes {
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A press that may publish below `line`, and one who reads it.
fn world() -> (World, ConnId, ConnId, Notes) {
    let mut world = World::ruled(vec![allow("press", &["line/#"], &[]), allow("ops", &[], &["line/+"])]);
    let (press, ops) = (world.client("press"), world.client("ops"));
    let notes = Notes::default();
    world.broker.set_witness(Some(Box::new(notes.clone())));
    (world, press, ops, notes)
}

#[test]
fn decisions_are_told_as_they_are_made_and_change_nothing() {
    let (mut world, press, ops, notes) = world();
    world.subscribe(ops, "line/+", Q0);
    world.send(ops, subscribe([sub("#", Q0)]));
    assert_eq!(notes.taken(), ["ops/ops@tls +subscribe `line/+`", "ops/ops@tls -subscribe `#`"]);
    world.take(ops);
    for _ in 0..2 {
        world.publish(press, "line/1", "x", Q0);
        world.expect(ops, ["PUBLISH line/1 \"x\" q0"]);
    }
    world.publish(press, "other", "x", Q0);
    assert_eq!(
        notes.taken(),
        [
            "press/press@tls +publish `line/1`",
            "ops/ops@tls +receive `line/1`",
            // Whom it reaches is remembered; each publication counts all the same.
            "press/press@tls +publish `line/1`",
            "press/press@tls -publish `other`"
        ]
    );
    world.broker.set_witness(None);
    world.publish(press, "line/1", "x", Q0);
    world.expect(ops, ["PUBLISH line/1 \"x\" q0"]);
    assert_eq!(notes.taken(), [""; 0]);
}

#[test]
fn wills_and_retained_messages_are_told_too() {
    let (mut world, press, ops, notes) = world();
    world.send(press, retained("line/2", "kept"));
    let leaving = world.open("press", Connect { will: will("line/w", "gone", 0), ..v5("second") });
    world.connect("press", Connect { will: will("cmd", "gone", 0), ..v5("third") });
    notes.taken();
    world.subscribe(ops, "line/+", Q0);
    world.expect(ops, ["PUBLISH line/2 \"kept\" q0 retain"]);
    world.lose(leaving);
    assert_eq!(
        notes.taken(),
        [
            "ops/ops@tls +subscribe `line/+`",
            "ops/ops@tls +receive `line/2`",
            "press/second@tls +will `line/w`",
            "ops/ops@tls +receive `line/w`"
        ]
    );
}

#[test]
fn who_comes_late_is_told_what_stands_in_portions() {
    let mut world = World::new();
    for client in ["a", "b", "c"] {
        let conn = world.open(client, Connect { will: will("w", "gone", 0), ..v5(client) });
        world.subscribe(conn, "$share/g/x", Q1);
    }
    let mut notes = Notes::default();
    let (mut told, mut portions) = (None, Vec::new());
    loop {
        told = world.broker.tell_standing(&mut notes, told, 2);
        portions.push(notes.taken());
        if told.is_none() {
            break;
        }
    }
    let of = |client: &str| {
        let subscription = format!("{client}/{client}@tls +subscribe `x` (shared by `g`)");
        [subscription, format!("{client}/{client}@tls +will `w`")]
    };
    assert_eq!(portions, [[of("a"), of("b")].concat(), of("c").to_vec()]);
}
