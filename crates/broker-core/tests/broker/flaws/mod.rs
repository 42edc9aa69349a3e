//! The 34 authorization flaw classes of other brokers, each as a scenario with its allowed twin.
//!
//! Where it is about a message on its way, the scenario is a journey: what happens step by step. It is played with
//! every loss ([`losses`]) before every step, as a change of policy that is settled at once or not at all, before a
//! kill of the broker and while it is down: from there on nothing of the message is delivered. Its twins are the same
//! journey without a loss, with a change that takes nothing, with a condition that is about other messages, and with the
//! same loss of somebody else: they deliver all of it.
//!
//! `docs/threat-model.md` lists the classes and where each is tested: those that a socket, a certificate or a file
//! decides are tested where that is.

mod course;
mod identities;
mod losses;
mod policies;
mod releases;
mod sessions;
mod stage;
mod steps;
mod topics;
mod wills;

use course::Course;
use losses::{Change, Kind, Loss, Outcome, Side};
use midge_policy::SubscribeMode;
use stage::{Event, Manner, Plan, Played, Policies, Stage, Step};
use std::collections::{BTreeMap, BTreeSet};

const MANNERS: [Manner; 5] = [
    Manner::Settled,
    Manner::Left,
    Manner::ThenKilled,
    Manner::Down { planned: false },
    Manner::Down { planned: true },
];

const NOTHING: Event = Event::Changes(Change::Nothing);

/// Plays a message's journey with every loss at each of its steps.
#[track_caller]
fn journey(course: &Course, steps: &[Step]) {
    let mut journey = Journey { course, steps, policies: Policies::default(), played: 0 };
    journey.go(&MANNERS);
    let mut played = journey.played;
    // A subscription that is wider than its rights changes nothing for the writer.
    let modes = [SubscribeMode::Narrow, SubscribeMode::Filter];
    for mode in modes.into_iter().filter(|_| !course.is_wide) {
        let course = Course { mode, ..course.clone() };
        let mut journey = Journey { course: &course, steps, policies: Policies::default(), played: 0 };
        journey.go(if is_thorough() { &MANNERS } else { &MANNERS[..2] });
        played += journey.played;
    }
    println!("journey of {} steps, played in {played} ways", steps.len());
}

/// Whether everything is combined with everything. A run of all tests leaves out what others are like.
fn is_thorough() -> bool {
    std::env::var_os("PROPTEST_CASES").is_some()
}

fn is_chosen(course: &Course, (number, loss): (usize, Loss), manner: Manner, at: usize) -> bool {
    let is_plain = matches!(loss.kind, Kind::Topic | Kind::Entry);
    let is_of_filter = matches!(
        loss.kind,
        Kind::Topic | Kind::Denied | Kind::SubscribeDenied | Kind::QosMax | Kind::ShareGroups
    );
    let is_chosen = match manner {
        Manner::Settled => is_plain || loss.is_of_connection() || (number + at).is_multiple_of(2),
        Manner::Left => is_plain || !(number + at).is_multiple_of(2),
        Manner::ThenKilled => is_plain,
        Manner::Down { planned } => planned != at.is_multiple_of(2),
    };
    let is_of_mode = course.mode == SubscribeMode::Reject
        || is_of_filter && loss.side == Side::Sink && (manner == Manner::Left) != at.is_multiple_of(2);
    // Without its connection there is nothing of it.
    let is_there = manner == Manner::Settled || !loss.is_of_connection();
    is_there && (is_thorough() || is_chosen && is_of_mode)
}

struct Journey<'a> {
    course: &'a Course,
    steps: &'a [Step],
    policies: Policies,
    played: u32,
}

impl Journey<'_> {
    fn play(&mut self, at: usize, event: Event, manner: Manner, (time, secs): (u64, u64)) -> Played {
        self.played += 1;
        let Self { course, steps, ref policies, .. } = *self;
        Stage::play(Plan { course, policies, steps, at, secs, event, manner, time })
    }

    #[track_caller]
    fn go(&mut self, manners: &[Manner]) {
        let whole = self.play(usize::MAX, NOTHING, Manner::Settled, (0, 0));
        assert!(!whole.before.is_empty(), "the journey delivers nothing even with all rights");
        for (at, time) in whole.times.iter().enumerate() {
            for manner in manners {
                let all = Loss::all().enumerate();
                let losses: Vec<_> = all.filter(|loss| is_chosen(self.course, *loss, *manner, at)).collect();
                let secs: BTreeSet<u64> = losses.iter().map(|(_, loss)| loss.secs()).collect();
                let without = |secs| (secs, self.play(at, NOTHING, *manner, (0, secs)));
                let without: BTreeMap<u64, Played> = secs.into_iter().map(without).collect();
                let Some(same) = without.get(&0) else { continue };
                assert_eq!(same.all(), whole.all(), "{manner:?} without a loss before step {at}");
                let more = self.play(at, Event::Changes(Change::More), *manner, (0, 0));
                assert_eq!(
                    more.all(),
                    whole.all(),
                    "a change that takes nothing, {manner:?} before step {at}"
                );
                for (_, loss) in losses {
                    self.lose(loss, *manner, (at, *time), &without[&loss.secs()]);
                }
            }
            for (number, loss) in Loss::all().enumerate() {
                let is_turn = number % self.steps.len() == at && self.course.mode == SubscribeMode::Reject;
                if is_turn || is_thorough() {
                    self.lose_beside(loss, at, *time);
                }
            }
        }
    }

    /// Somebody else loses it.
    #[track_caller]
    fn lose_beside(&mut self, loss: Loss, at: usize, time: u64) {
        let (Some(loss), when) = (loss.of_guest(), (time, loss.secs())) else { return };
        let without = self.play(at, NOTHING, Manner::Settled, when);
        let lost = self.play(at, Event::Changes(Change::Loses(loss)), Manner::Settled, when);
        assert_eq!(lost.all(), without.all(), "{loss:?} before step {at}");
    }

    #[track_caller]
    fn lose(&mut self, loss: Loss, manner: Manner, (at, time): (usize, u64), without: &Played) {
        let when = (time, loss.secs());
        let lost = self.play(at, Event::Changes(Change::Loses(loss)), manner, when);
        let told = format!("{loss:?}, {manner:?} before step {at}: {lost:?}");
        match loss.outcome(self.course) {
            Outcome::Stops => assert!(lost.after.is_empty(), "{told}"),
            Outcome::GoesOn => assert_eq!(lost.all(), without.all(), "{told}"),
            Outcome::Lowers => {
                assert!(!lost.is_raised, "{told}");
                assert!(lost.all().is_subset(&without.all()), "{told}");
                assert!(lost.may_be_missed || lost.all() == without.all(), "{told}");
            }
            Outcome::Leaves => {
                let left = self.play(at, Event::Leaves(loss.side), manner, when);
                assert_eq!((&lost.before, &lost.after), (&left.before, &left.after), "{told}");
            }
        }
    }
}
