//! What a random history of [`crate::histories`] is made of, and how often each of it comes.

use crate::attacker::{Mischief, mischief};
use crate::model::Who;
use midge_policy::Quota;
use proptest::prelude::*;

/// Who takes part, besides the attacker: identities with their client ids.
pub(crate) const CLIENTS: [(&str, &str); 4] = [("ada", "c"), ("ada", "d"), ("bob", "c"), ("bob", "d")];

/// Whether its queue drops the oldest message where it is full, and not the newest.
pub(crate) fn drops_oldest(who: Who) -> bool {
    CLIENTS[who].0 == "bob"
}

/// One thing that happens. Of those who are not connected, one connects; the rest another does for them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Also of a client that is connected: takeover.
    Connect(Who, Opening),
    /// The network connection breaks.
    Lose(Who),
    Disconnect(Who, Closing),
    Subscribe(Who, Wish),
    Unsubscribe(Who, &'static str),
    /// Of the nth filter that it is subscribed to.
    Leave(Who, usize),
    /// PUBLISH with this packet identifier, where it has one.
    Publish(Who, u16, Said),
    /// PUBREL.
    Release(Who, u16),
    /// PUBREL for the nth message that waits for it, of this client or the next that has one.
    ReleaseHeld(Who, usize),
    /// The next acknowledgement of the nth message in flight, with an error or without, by this client or the next that
    /// has one.
    Acknowledge(Who, usize, bool),
    /// Seconds.
    Wait(u64),
    /// The broker is killed, and started again after so many seconds.
    Restart(u64),
    Attack(Mischief),
    /// From now on every identity, or session, has this quota.
    Limit(Quota),
    /// Nothing more comes from a client, while the disk is slow.
    EndInput(Who, Farewell),
}

/// How a client leaves that may still listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Farewell {
    /// What it says last.
    pub(crate) words: [Word; 2],
    /// What another says before it is through.
    pub(crate) meanwhile: Option<(Who, Said)>,
    pub(crate) then: Then,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Nothing,
    Publish(u16, Said),
    Release(u16),
    Subscribe(Wish),
    Unsubscribe(&'static str),
}

/// What happens to who is still owed answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// The disk has stored everything.
    Stored,
    /// The network connection breaks before that.
    Broken,
    /// It connects again before that.
    TakenOver(Opening),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) v5: bool,
    pub(crate) clean: bool,
    /// Session Expiry Interval.
    pub(crate) expiry: u32,
    /// Receive Maximum.
    pub(crate) window: u16,
    /// Topic Alias Maximum.
    pub(crate) aliases: u16,
    /// The will and its delay.
    pub(crate) will: Option<(Said, u32)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    pub(crate) with_will: bool,
    pub(crate) expiry: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) filter: &'static str,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) handling: u8,
    pub(crate) id: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) topic: &'static str,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// With nothing in it, if it is to be retained.
    pub(crate) empty: bool,
    /// Message Expiry Interval.
    pub(crate) lasts: Option<u32>,
}

/// An [`Op`] that is shown on one line, so that a history that failed can be read and copied.
#[derive(Clone)]
pub(crate) struct Step(pub(crate) Op);

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What a history is about: a few topics and filters rather than all, so that more of what happens meets.
#[derive(Clone, Debug)]
struct Theme {
    topics: Vec<&'static str>,
    filters: Vec<&'static str>,
    qos: &'static [u8],
    /// How often a connection begins its session anew.
    clean: f64,
    /// How often messages are acknowledged, connections end, time passes, the broker is killed, and the attacker acts.
    acks: u32,
    ends: u32,
    waits: u32,
    restarts: u32,
    attacks: u32,
    /// Whether there are quotas.
    is_limited: bool,
}

fn theme() -> impl Strategy<Value = Theme> {
    let topics = prop::sample::subsequence(vec!["a", "a/b", "a/c", "d"], 1..=4);
    let filters = ["a", "a/b", "a/#", "+/b", "#", "d", "$share/g/a/#", "$share/g/#", "$share/h/a/#"];
    let filters = prop::sample::subsequence(filters.to_vec(), 1..=9);
    let seldom = |often| prop_oneof![Just(1), Just(often)];
    let qos = prop_oneof![Just(&[0, 1, 2][..]), Just(&[1, 2, 2][..])];
    let clean = prop_oneof![Just(0.05), Just(0.3)];
    let acks = prop_oneof![Just(4), Just(16)];
    let often = (acks, seldom(6), seldom(6), seldom(4), seldom(12));
    (topics, filters, qos, clean, often, prop::bool::weighted(0.3)).prop_map(
        |(topics, filters, qos, clean, (acks, ends, waits, restarts, attacks), is_limited)| Theme {
            topics,
            filters,
            qos,
            clean,
            acks,
            ends,
            waits,
            restarts,
            attacks,
            is_limited,
        },
    )
}

fn said(theme: &Theme) -> impl Strategy<Value = Said> + use<> {
    let topic = prop::sample::select(theme.topics.clone());
    let (retain, empty) = (prop::bool::weighted(0.4), prop::bool::weighted(0.2));
    let lasts = prop::option::weighted(0.3, 0..8_u32);
    (topic, prop::sample::select(theme.qos), retain, empty, lasts)
        .prop_map(|(topic, qos, retain, empty, lasts)| Said { topic, qos, retain, empty, lasts })
}

fn opening(theme: &Theme) -> impl Strategy<Value = Opening> + use<> {
    let expiry = prop_oneof![1 => Just(0), 2 => 1..12_u32, 3 => Just(1000)];
    let will = prop::option::weighted(0.4, (said(theme), prop_oneof![Just(0), 1..8_u32]));
    (prop::bool::weighted(0.7), prop::bool::weighted(theme.clean), expiry, 1..4_u16, 0..3_u16, will).prop_map(
        |(v5, clean, expiry, window, aliases, will)| Opening { v5, clean, expiry, window, aliases, will },
    )
}

fn wish(theme: &Theme) -> impl Strategy<Value = Wish> + use<> {
    let filter = prop::sample::select(theme.filters.clone());
    let id = prop::option::of(1..4_u32);
    (filter, prop::sample::select(theme.qos), any::<bool>(), any::<bool>(), 0..3_u8, id).prop_map(
        |(filter, qos, no_local, retain_as_published, handling, id)| Wish {
            filter,
            qos,
            no_local,
            retain_as_published,
            handling,
            id,
        },
    )
}

fn farewell(theme: &Theme) -> impl Strategy<Value = Farewell> + use<> {
    let word = prop_oneof![
        2 => Just(Word::Nothing),
        4 => (1..4_u16, said(theme)).prop_map(|(id, said)| Word::Publish(id, said)),
        2 => (1..4_u16).prop_map(Word::Release),
        2 => wish(theme).prop_map(Word::Subscribe),
        1 => wish(theme).prop_map(|wish| Word::Unsubscribe(wish.filter)),
    ];
    let then = prop_oneof![
        2 => Just(Then::Stored),
        1 => Just(Then::Broken),
        1 => opening(theme).prop_map(Then::TakenOver),
    ];
    let meanwhile = prop::option::weighted(0.3, (0..CLIENTS.len(), said(theme)));
    ([word.clone(), word], meanwhile, then).prop_map(|(words, meanwhile, then)| Farewell {
        words,
        meanwhile,
        then,
    })
}

/// Small ones, as histories are: what is kept of a message takes 134 bytes at least.
fn quota() -> impl Strategy<Value = Quota> {
    let max = |maxima: std::ops::Range<u32>| prop::option::weighted(0.5, maxima);
    let counts = (max(1..3), max(1..3), max(1..3), max(1..4));
    (counts, max(130..420), max(130..560)).prop_map(
        |((sessions, subscriptions, retained_messages, queue_messages), retained_bytes, queue_bytes)| Quota {
            sessions,
            subscriptions,
            retained_messages,
            retained_bytes,
            queue_messages,
            queue_bytes,
        },
    )
}

/// Nothing happens where there are to be no quotas.
fn limit(theme: &Theme) -> impl Strategy<Value = Op> + use<> {
    let is_limited = theme.is_limited;
    quota().prop_map(move |quota| if is_limited { Op::Limit(quota) } else { Op::Wait(0) })
}

fn step(theme: &Theme) -> impl Strategy<Value = Step> + use<> {
    let Theme { acks, ends, waits, restarts, attacks, .. } = *theme;
    let who = 0..CLIENTS.len();
    let closing = (any::<bool>(), prop::option::weighted(0.3, 0..10_u32));
    let closing = closing.prop_map(|(with_will, expiry)| Closing { with_will, expiry });
    prop_oneof![
        4 => (who.clone(), opening(theme)).prop_map(|(who, opening)| Op::Connect(who, opening)),
        ends => who.clone().prop_map(Op::Lose),
        1 => (who.clone(), farewell(theme)).prop_map(|(who, farewell)| Op::EndInput(who, farewell)),
        1 => (who.clone(), closing).prop_map(|(who, closing)| Op::Disconnect(who, closing)),
        6 => (who.clone(), wish(theme)).prop_map(|(who, wish)| Op::Subscribe(who, wish)),
        1 => (who.clone(), wish(theme)).prop_map(|(who, wish)| Op::Unsubscribe(who, wish.filter)),
        2 => (who.clone(), 0..4_usize).prop_map(|(who, nth)| Op::Leave(who, nth)),
        14 => (who.clone(), 1..4_u16, said(theme)).prop_map(|(who, id, said)| Op::Publish(who, id, said)),
        1 => (who.clone(), 1..4_u16).prop_map(|(who, id)| Op::Release(who, id)),
        5 => (who.clone(), 0..3_usize).prop_map(|(who, nth)| Op::ReleaseHeld(who, nth)),
        acks => (who, 0..4_usize, prop::bool::weighted(0.1))
            .prop_map(|(who, nth, fails)| Op::Acknowledge(who, nth, fails)),
        waits => (1..6_u64).prop_map(Op::Wait),
        restarts => (0..6_u64).prop_map(Op::Restart),
        attacks => mischief().prop_map(Op::Attack),
        4 => limit(theme),
    ]
    .prop_map(Step)
}

pub(crate) fn history() -> impl Strategy<Value = Vec<Step>> {
    theme().prop_flat_map(|theme| {
        // Most are there from the start, and ask for something.
        let connects =
            (0..CLIENTS.len(), opening(&theme)).prop_map(|(who, opening)| Op::Connect(who, opening));
        let asks = (0..CLIENTS.len(), wish(&theme)).prop_map(|(who, wish)| Op::Subscribe(who, wish));
        let start = (
            limit(&theme).prop_map(Step),
            prop::collection::vec(connects.prop_map(Step), 0..6),
            prop::collection::vec(asks.prop_map(Step), 0..6),
        );
        let rest = prop::collection::vec(step(&theme), 1..100);
        (start, rest).prop_map(|((limit, connects, asks), rest)| [vec![limit], connects, asks, rest].concat())
    })
}

pub(crate) const PLAIN: Opening =
    Opening { v5: true, clean: false, expiry: 1000, window: 1, aliases: 0, will: None };

pub(crate) fn kept(topic: &'static str, qos: u8) -> Said {
    Said { topic, qos, retain: true, empty: false, lasts: None }
}

pub(crate) fn all_of(filter: &'static str) -> Wish {
    Wish { filter, qos: 1, no_local: false, retain_as_published: false, handling: 0, id: None }
}
