//! What was sent and what came of it: every message is checked for loss, duplication and order.

use super::shape::{Flow, Shape};
use super::wire::{Dialect, Stamp};
use anyhow::{Context as _, bail};
use std::time::Instant;

/// Which part a connection plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Publisher(usize),
    Receiver(usize),
    /// Connects and does nothing.
    Idle,
}

/// Messages that did not arrive as they should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) disordered: u64,
}

impl Faults {
    pub(crate) fn count(&self) -> u64 {
        self.lost + self.duplicated + self.disordered
    }
}

#[derive(Debug, Default)]
struct Publisher {
    sent: u64,
    acknowledged: u64,
    /// Shared subscriptions: which sequence numbers have come, and how many.
    seen: Vec<u64>,
    seen_count: u64,
}

/// The state of all messages of one run.
#[derive(Debug)]
pub(crate) struct Score {
    dialect: Dialect,
    flow: Flow,
    receivers: usize,
    acknowledges: bool,
    /// Whether receivers are there: else a message is through once it is acknowledged.
    pub(crate) are_there: bool,
    publishers: Vec<Publisher>,
    /// Next sequence number per publisher and receiver.
    next: Vec<u64>,
    began: Instant,
    delivered: u64,
    pub(crate) faults: Faults,
    pub(crate) latencies: Vec<u64>,
}

impl Score {
    pub(crate) fn new(dialect: Dialect, shape: &Shape) -> Self {
        Self {
            dialect,
            flow: shape.flow,
            receivers: shape.receivers,
            acknowledges: shape.qos > 0,
            are_there: true,
            publishers: (0..shape.publishers).map(|_| Publisher::default()).collect(),
            next: vec![0; shape.publishers * shape.receivers],
            began: Instant::now(),
            delivered: 0,
            faults: Faults::default(),
            latencies: Vec::new(),
        }
    }

    pub(crate) fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the stamp of the next message of a publisher.
    pub(crate) fn next_stamp(&mut self, publisher: usize, due: u64) -> Stamp {
        let sequence = self.publishers.get_mut(publisher).map_or(0, |state| {
            state.sent += 1;
            state.sent - 1
        });
        Stamp { publisher: u16::try_from(publisher).unwrap_or(0), sequence, due }
    }

    /// Returns how many messages of a publisher are on their way.
    pub(crate) fn outstanding(&self, publisher: usize) -> u64 {
        let Some(state) = self.publishers.get(publisher) else { return 0 };
        if !self.are_there {
            return state.sent.saturating_sub(state.acknowledged);
        }
        let start = publisher * self.receivers;
        let arrived = match self.flow {
            Flow::Pairs => self.next.get(start + publisher).copied(),
            Flow::Shared => Some(state.seen_count),
            Flow::All => {
                self.next.get(start..start + self.receivers).and_then(|next| next.iter().min().copied())
            }
        };
        let mut done = arrived.unwrap_or(0);
        if self.acknowledges {
            done = done.min(state.acknowledged);
        }
        state.sent.saturating_sub(done)
    }

    pub(crate) fn outstanding_in_all(&self) -> u64 {
        (0..self.publishers.len()).map(|publisher| self.outstanding(publisher)).sum()
    }

    /// Returns how many messages are through.
    pub(crate) fn through(&self) -> u64 {
        if self.are_there {
            self.delivered
        } else {
            self.publishers.iter().map(|state| state.acknowledged).sum()
        }
    }

    /// Takes one packet after the connection is ready, and appends the answer to `out`.
    pub(crate) fn take(
        &mut self,
        role: Role,
        first: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        match (role, first >> 4) {
            (Role::Receiver(receiver), 3) => self.take_publish(receiver, first, body, out)?,
            (Role::Receiver(_), 6) => answer(0x70, body, out),
            (Role::Publisher(publisher), 4 | 7) => self.acknowledge(publisher, body)?,
            (Role::Publisher(_), 5) => answer(0x62, body, out),
            (_, 0xE) => bail!("the server sent DISCONNECT {body:02x?}"),
            _ => bail!("unexpected packet {first:02x}"),
        }
        Ok(())
    }

    fn acknowledge(&mut self, publisher: usize, body: &[u8]) -> anyhow::Result<()> {
        if let Some(reason) = body.get(2).filter(|reason| **reason >= 0x80) {
            bail!("the server refused a message with {reason:02x}");
        }
        self.publishers.get_mut(publisher).context("unknown publisher")?.acknowledged += 1;
        Ok(())
    }

    fn take_publish(
        &mut self,
        receiver: usize,
        first: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let (id, payload) = self.dialect.parse_publish(first, body).context("malformed PUBLISH")?;
        if let Some(id) = id {
            answer(if first & 0x04 == 0 { 0x40 } else { 0x50 }, &id, out);
        }
        let stamp = Stamp::read(payload).context("a message that nobody sent")?;
        let publisher = usize::from(stamp.publisher);
        let next = self.next.get_mut(publisher * self.receivers + receiver).context("unknown publisher")?;
        self.delivered += 1;
        if self.flow == Flow::Shared {
            let state = self.publishers.get_mut(publisher).context("unknown publisher")?;
            if stamp.sequence < *next {
                self.faults.disordered += 1;
            }
            if !mark(&mut state.seen, stamp.sequence) {
                self.faults.duplicated += 1;
            } else {
                state.seen_count += 1;
            }
        } else if stamp.sequence < *next {
            self.faults.duplicated += 1;
            return Ok(());
        } else {
            self.faults.lost += stamp.sequence - *next;
        }
        *next = stamp.sequence + 1;
        if stamp.due > 0 {
            self.latencies.push(self.elapsed_ns().saturating_sub(stamp.due));
        }
        Ok(())
    }
}

fn answer(first: u8, body: &[u8], out: &mut Vec<u8>) {
    if let Some(id) = body.first_chunk::<2>() {
        let [high, low] = *id;
        out.extend_from_slice(&[first, 2, high, low]);
    }
}

/// Marks a number; false when it was marked before.
fn mark(seen: &mut Vec<u64>, number: u64) -> bool {
    let place = usize::try_from(number / 64).unwrap_or(usize::MAX);
    if place >= seen.len() {
        seen.resize(place + 1, 0);
    }
    let bit = 1 << (number % 64);
    seen.get_mut(place).is_some_and(|word| {
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::wire::{Version, each_packet};

    fn shape(flow: Flow) -> Shape {
        Shape { flow, publishers: 1, receivers: 2, qos: 0, ..Shape::named("p2p-qos0").unwrap() }
    }

    fn feed(score: &mut Score, receiver: usize, sequences: &[u64]) {
        let dialect = Dialect::Mqtt(Version::V311);
        let template = dialect.publish("t", 0, 20);
        for &sequence in sequences {
            let mut bytes = Vec::new();
            template.write(Stamp { publisher: 0, sequence, due: 0 }, &mut bytes);
            each_packet(&bytes, |first, body| {
                score.take(Role::Receiver(receiver), first, body, &mut Vec::new())
            })
            .unwrap();
        }
    }

    #[test]
    fn gaps_repetitions_and_disorder_are_faults() {
        let mut score = Score::new(Dialect::Mqtt(Version::V311), &shape(Flow::All));
        feed(&mut score, 0, &[0, 1, 4, 4, 5]);
        assert_eq!(score.faults, Faults { lost: 2, duplicated: 1, disordered: 0 });

        let mut score = Score::new(Dialect::Mqtt(Version::V311), &shape(Flow::Shared));
        feed(&mut score, 0, &[0, 2]);
        feed(&mut score, 1, &[1, 3]);
        assert_eq!(score.faults, Faults::default());
        feed(&mut score, 1, &[2]);
        assert_eq!(score.faults, Faults { lost: 0, duplicated: 1, disordered: 1 });
    }

    #[test]
    fn a_message_is_outstanding_until_its_last_receiver_has_it() {
        let mut score = Score::new(Dialect::Mqtt(Version::V311), &shape(Flow::All));
        for _ in 0..3 {
            score.next_stamp(0, 0);
        }
        feed(&mut score, 0, &[0, 1, 2]);
        assert_eq!(score.outstanding_in_all(), 3);
        feed(&mut score, 1, &[0, 1]);
        assert_eq!(score.outstanding_in_all(), 1);
    }
}
