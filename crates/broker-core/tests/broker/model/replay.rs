//! What a subscription is still to be sent of the retained messages.

use super::*;

/// What a subscription is sent of the retained messages: of each topic one, as it is then.
#[derive(Clone, Debug, Default)]
pub(super) struct Replay {
    /// Topics that were retained when the subscription was made, and not sent since.
    pub(super) owed: BTreeSet<&'static str>,
    /// Topics where its client's own was retained and it was without those: it may be passed over at once
    /// ([MQTT-3.8.3-3]), or sent if the subscription is made anew before. And topics of which what took the place
    /// of what was owed may have been dropped, of a full queue or because its client was away.
    pub(super) own: BTreeSet<&'static str>,
    /// How many messages had been sent to everyone when it was made.
    pub(super) begun: usize,
    pub(super) sent: BTreeSet<&'static str>,
    /// Payloads that a broker that was restarted may have sent before.
    pub(super) may_be_again: BTreeSet<String>,
    /// What was replaced before its turn: it may be sent before what has taken its place.
    pub(super) replaced: Vec<Message>,
    /// What was published since and sent of each publisher's messages of a topic on one connection: the newest of those
    /// that came at one QoS and go out at one.
    pub(super) newest: BTreeMap<(Who, &'static str, [QoS; 2]), usize>,
    /// Some of it may have waited in a queue that was full.
    pub(super) may_be_gone: bool,
}

impl Replay {
    /// Whether it may be sent what is retained of a topic since it was made.
    pub(super) fn may_owe(&self, topic: &str) -> bool {
        self.owed.contains(topic) || self.own.contains(topic)
    }

    /// Passes over what is its client's own, or may come otherwise.
    pub(super) fn pass_over(&mut self, topic: &'static str) {
        self.owed.remove(topic);
        self.own.insert(topic);
    }

    /// Is through with a topic.
    pub(super) fn pass(&mut self, topic: &str) {
        self.owed.remove(topic);
        self.own.remove(topic);
    }

    /// What may wait of it because something newer came.
    pub(super) fn waiting<'a>(
        &'a self,
        retained: &'a BTreeMap<&'static str, Message>,
    ) -> impl Iterator<Item = &'a Message> {
        self.replaced.iter().chain(self.owed.union(&self.own).filter_map(|topic| retained.get(topic)))
    }
}
