//! The 34 authorization flaw classes of other brokers, each as a scenario with its allowed twin.
//!
//! `docs/threat-model.md` lists them and where each is tested: those that a socket, a certificate or a file
//! decides are tested where that is.

mod identities;
mod policies;
mod releases;
mod sessions;
mod topics;
mod wills;

use crate::world::*;
use broker_core::{Config, ConnId};
use midge_policy::Rule;
use mqtt_proto::{Connect, Packet};

/// What is lost in the middle of a journey.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Nothing,
    /// The policy changes for publisher and receiver, and they keep what counts.
    OtherRight,
    SourceRight,
    SourceDenied,
    SourceEntry,
    SinkRight,
    SinkDenied,
    SinkEntry,
}

const LOSSES: [Loss; 6] = [
    Loss::SourceRight,
    Loss::SourceDenied,
    Loss::SourceEntry,
    Loss::SinkRight,
    Loss::SinkDenied,
    Loss::SinkEntry,
];

/// `press` publishes to `secret`, and `ops` reads it.
struct Stage {
    world: World,
    press: Option<ConnId>,
    ops: Option<ConnId>,
    loss: Loss,
    is_lost: bool,
    /// Deliveries of `secret` to `ops`, before and after the loss.
    delivered: [usize; 2],
}

type Step = fn(&mut Stage);

impl Stage {
    fn new(config: Config) -> Self {
        let world = World::with(config, rules(Loss::Nothing));
        Self { world, press: None, ops: None, loss: Loss::Nothing, is_lost: false, delivered: [0; 2] }
    }

    fn lose(&mut self, loss: Loss) {
        (self.loss, self.is_lost) = (loss, true);
        match loss {
            Loss::Nothing => {}
            Loss::SourceEntry => self.world.revoke("press"),
            Loss::SinkEntry => self.world.revoke("ops"),
            loss => self.world.set_rules(rules(loss)),
        }
        self.look();
    }

    /// Connects a client, unless it has no entry any more: the shell would not let it in.
    fn press_connects(&mut self, connect: Connect) {
        if !(self.is_lost && self.loss == Loss::SourceEntry) {
            self.press = Some(self.world.connect("press", connect));
        }
    }

    fn ops_connects(&mut self, connect: Connect) {
        self.look();
        if !(self.is_lost && self.loss == Loss::SinkEntry) {
            self.ops = Some(self.world.connect("ops", connect));
        }
    }

    fn press_sends(&mut self, packet: Packet) {
        if let Some(conn) = self.press {
            self.world.send(conn, packet);
        }
    }

    fn ops_sends(&mut self, packet: Packet) {
        if let Some(conn) = self.ops {
            self.world.send(conn, packet);
        }
    }

    fn press_is_lost(&mut self) {
        if let Some(conn) = self.press.take() {
            self.world.lose(conn);
        }
    }

    fn ops_is_lost(&mut self) {
        self.look();
        if let Some(conn) = self.ops.take() {
            self.world.lose(conn);
        }
    }

    fn look(&mut self) {
        let Some(conn) = self.ops else { return };
        let secrets = self.world.take(conn);
        let secrets = secrets.iter().filter(|text| text.starts_with("PUBLISH secret"));
        self.delivered[usize::from(self.is_lost)] += secrets.count();
    }

    fn play(config: &Config, steps: &[Step], at: usize, loss: Loss, settling: bool) -> [usize; 2] {
        let mut stage = Self::new(config.clone());
        stage.world.settling = settling;
        for (number, step) in steps.iter().enumerate() {
            if number == at {
                stage.lose(loss);
            }
            step(&mut stage);
            stage.look();
        }
        stage.delivered
    }
}

fn rules(loss: Loss) -> Vec<Rule> {
    let (with, without): (&[&str], &[&str]) = (&["secret", "open"], &["open"]);
    let press = if loss == Loss::SourceRight { without } else { with };
    let ops = if loss == Loss::SinkRight { without } else { with };
    let mut rules = vec![allow("press", press, &[]), allow("ops", &[], ops)];
    match loss {
        Loss::OtherRight => {
            rules[0].publish.push("more".into());
            rules[1].subscribe.push("more".into());
        }
        Loss::SourceDenied => rules[0].deny_publish = vec!["secret".into()],
        Loss::SinkDenied => rules[1].deny_receive = vec!["secret".into()],
        _ => {}
    }
    rules
}

/// Plays a message's journey once for each kind of loss at each of its steps: from there on nothing is
/// delivered. The twins, without a loss or with a change that takes nothing, deliver all of it.
#[track_caller]
fn journey(steps: &[Step]) {
    journey_with(&Config::default(), steps);
}

#[track_caller]
fn journey_with(config: &Config, steps: &[Step]) {
    let [all, _] = Stage::play(config, steps, usize::MAX, Loss::Nothing, true);
    assert!(all > 0, "the journey delivers nothing even with all rights");
    // With what a change leaves to be done done at once, and not at all.
    for (settling, at) in [true, false].into_iter().flat_map(|s| (0..steps.len()).map(move |at| (s, at))) {
        let delivered = Stage::play(config, steps, at, Loss::OtherRight, settling);
        assert_eq!(delivered[0] + delivered[1], all, "a change that takes nothing before step {at}");
        for loss in LOSSES {
            let [_, after] = Stage::play(config, steps, at, loss, settling);
            assert_eq!(after, 0, "{loss:?} before step {at}, settling: {settling}");
        }
    }
}
