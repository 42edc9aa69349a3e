//! The shapes of load.

/// Which receivers a publisher reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The one with its number.
    Pairs,
    /// All of them.
    All,
    /// One of them at a time, by a shared subscription.
    Shared,
}

/// What the state of Midge survives: the setting `mqtt.durability`. The others are as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    None,
    ProcessCrash,
    PowerLoss,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As many messages as go through a window of unconfirmed ones per publisher.
    Closed { window: u64 },
    /// As `Closed`, but the receivers are away until the measurement is over: every message has to be kept.
    Away { window: u64 },
    /// So many messages a second in total, whatever comes back.
    Open { per_second: u64 },
    /// So many connections, one after another, a few at a time.
    Connects { count: usize },
    /// So many connections that stay and do nothing.
    Idle { count: usize },
}

/// One shape of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) flow: Flow,
    pub(crate) publishers: usize,
    pub(crate) receivers: usize,
    pub(crate) qos: u8,
    pub(crate) size: usize,
    pub(crate) kind: Kind,
    /// Receivers have sessions that outlive their connections, and Midge stores at this level. The server is started
    /// for this shape alone.
    pub(crate) durable: Option<Level>,
}

const fn closed(
    name: &'static str,
    flow: Flow,
    (publishers, receivers): (usize, usize),
    (qos, size): (u8, usize),
    window: u64,
) -> Shape {
    Shape { name, flow, publishers, receivers, qos, size, kind: Kind::Closed { window }, durable: None }
}

/// Pairs at QoS 1 with 64 B, whose receivers have sessions.
const fn durable(name: &'static str, level: Level, kind: Kind) -> Shape {
    let pairs = closed(name, Flow::Pairs, (8, 8), (1, 64), 0);
    Shape { kind, durable: Some(level), ..pairs }
}

const fn connections(name: &'static str, kind: Kind) -> Shape {
    Shape { name, flow: Flow::All, publishers: 0, receivers: 0, qos: 0, size: 0, kind, durable: None }
}

/// All shapes. What may be on its way to a receiver, counted twice because its acknowledgements take as
/// long again, stays below what every server keeps for it: nothing has to be dropped.
pub(crate) const SHAPES: [Shape; 17] = [
    closed("p2p-qos0", Flow::Pairs, (8, 8), (0, 64), 1_024),
    closed("p2p-qos1", Flow::Pairs, (8, 8), (1, 64), 512),
    closed("p2p-qos2", Flow::Pairs, (8, 8), (2, 64), 512),
    closed("p2p-16k", Flow::Pairs, (4, 4), (0, 16_384), 16),
    closed("fanout-100", Flow::All, (1, 100), (0, 256), 256),
    closed("fanout-1000", Flow::All, (1, 1_000), (0, 256), 64),
    closed("fanin-100", Flow::All, (100, 1), (1, 256), 10),
    closed("shared-100-10", Flow::Shared, (100, 10), (1, 256), 16),
    Shape {
        name: "latency",
        flow: Flow::Pairs,
        publishers: 8,
        receivers: 8,
        qos: 1,
        size: 64,
        kind: Kind::Open { per_second: 2_000 },
        durable: None,
    },
    durable("durable-none", Level::None, Kind::Closed { window: 512 }),
    durable("durable-process-crash", Level::ProcessCrash, Kind::Closed { window: 512 }),
    durable("durable-power-loss", Level::PowerLoss, Kind::Closed { window: 512 }),
    durable("away-process-crash", Level::ProcessCrash, Kind::Away { window: 512 }),
    durable("away-power-loss", Level::PowerLoss, Kind::Away { window: 512 }),
    connections("connect", Kind::Connects { count: 10_000 }),
    connections("idle-1000", Kind::Idle { count: 1_000 }),
    connections("idle-10000", Kind::Idle { count: 10_000 }),
];

impl Shape {
    pub(crate) fn named(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    pub(crate) fn topic(&self, publisher: usize) -> String {
        match self.flow {
            Flow::Pairs => format!("bench/pair/{publisher}/value"),
            Flow::All | Flow::Shared => "bench/line/value".to_owned(),
        }
    }
}
