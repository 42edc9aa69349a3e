//! What random histories bring to its end: a fault at the end of an exchange is found only by who gets there.

use std::fmt;

/// What a session has gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Life {
    pub(crate) takeovers: u32,
    /// Connections that went on with it after the one before was lost.
    pub(crate) resumptions: u32,
    pub(crate) restarts: u32,
}

/// How often something came to its end, and how often this lay between.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ends {
    pub(crate) all: u32,
    pub(crate) over_takeovers: u32,
    pub(crate) over_resumptions: u32,
    pub(crate) over_restarts: u32,
}

impl Ends {
    pub(crate) fn note(&mut self, begun: Life, now: Life) {
        self.all += 1;
        self.over_takeovers += u32::from(begun.takeovers != now.takeovers);
        self.over_resumptions += u32::from(begun.resumptions != now.resumptions);
        self.over_restarts += u32::from(begun.restarts != now.restarts);
    }

    fn add(&mut self, other: Self) {
        self.all += other.all;
        self.over_takeovers += other.over_takeovers;
        self.over_resumptions += other.over_resumptions;
        self.over_restarts += other.over_restarts;
    }

    /// The smallest number of them.
    fn least(self) -> u32 {
        self.all.min(self.over_takeovers).min(self.over_resumptions).min(self.over_restarts)
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all, over_takeovers, over_resumptions, over_restarts } = self;
        write!(
            f,
            "{all} (over {over_takeovers} takeovers, {over_resumptions} resumptions, {over_restarts} restarts)"
        )
    }
}

/// What a quota kept from being added.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refused {
    pub(crate) sessions: u32,
    pub(crate) subscriptions: u32,
    pub(crate) retained: u32,
    /// What a queue certainly dropped, and what it may have dropped.
    pub(crate) queued: u32,
    pub(crate) queued_perhaps: u32,
}

impl Refused {
    fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.subscriptions += other.subscriptions;
        self.retained += other.retained;
        self.queued += other.queued;
        self.queued_perhaps += other.queued_perhaps;
    }

    fn least(self) -> u32 {
        self.sessions.min(self.subscriptions).min(self.retained).min(self.queued)
    }
}

/// The steps of QoS 2 from one to the next, and ends of input.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Of what a client publishes.
    pub(crate) publish_to_pubrel: Ends,
    /// Of what a client is sent.
    pub(crate) publish_to_pubrec: Ends,
    pub(crate) pubrec_to_pubcomp: Ends,
    /// Who left with answers due, and who of them got these.
    pub(crate) left_waiting: u32,
    pub(crate) left_answered: u32,
    pub(crate) refused: Refused,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.publish_to_pubrel.add(other.publish_to_pubrel);
        self.publish_to_pubrec.add(other.publish_to_pubrec);
        self.pubrec_to_pubcomp.add(other.pubrec_to_pubcomp);
        self.left_waiting += other.left_waiting;
        self.left_answered += other.left_answered;
        self.refused.add(other.refused);
    }

    /// How often the rarest of all happened.
    pub(crate) fn least(self) -> u32 {
        let steps = [self.publish_to_pubrel, self.publish_to_pubrec, self.pubrec_to_pubcomp].map(Ends::least);
        let [first, second, third] = steps;
        first.min(second).min(third).min(self.left_answered).min(self.refused.least())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publish_to_pubrel, publish_to_pubrec, pubrec_to_pubcomp, .. } = self;
        let Self { left_waiting, left_answered, refused, .. } = self;
        writeln!(f, "QoS 2, from a client, PUBLISH to PUBREL: {publish_to_pubrel}")?;
        writeln!(f, "QoS 2, to a client, PUBLISH to PUBREC: {publish_to_pubrec}")?;
        writeln!(f, "QoS 2, to a client, PUBREC to PUBCOMP: {pubrec_to_pubcomp}")?;
        writeln!(f, "beyond a quota: {refused:?}")?;
        write!(f, "left with answers due: {left_waiting}, {left_answered} of them answered")
    }
}
