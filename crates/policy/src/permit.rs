use mqtt_proto::QoS;
use std::sync::Arc;

/// What a publication is, apart from its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishFacts {
    /// Quality of service of the PUBLISH or of the will.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Length of the payload in bytes.
    pub payload_len: usize,
}

/// What the rule that allows a publication demands of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) qos_max: QoS,
    pub(crate) retain: bool,
    pub(crate) payload_max: usize,
    pub(crate) will: bool,
}

impl Limits {
    pub(crate) fn hold(&self, facts: &PublishFacts) -> bool {
        facts.qos <= self.qos_max && (self.retain || !facts.retain) && facts.payload_len <= self.payload_max
    }
}

/// Proof that one identity may publish to one topic: made only by [`crate::Rights::publish`] and
/// [`crate::Rights::will`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishPermit {
    epoch: u64,
    rule: Arc<str>,
    limits: Limits,
}

impl PublishPermit {
    pub(crate) fn new(epoch: u64, rule: Arc<str>, limits: Limits) -> Self {
        Self { epoch, rule, limits }
    }

    /// Epoch of the policy that decided; another epoch's policy has to be asked again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Name of the rule that allows it.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }

    /// Tells whether the permit also covers another publication to the same topic. When it does
    /// not, another rule still may: ask [`crate::Rights::publish`] again.
    pub fn covers(&self, facts: &PublishFacts) -> bool {
        self.limits.hold(facts)
    }
}

/// Proof that one identity may subscribe to one filter: made only by [`crate::Rights::subscribe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribePermit {
    epoch: u64,
    rule: Arc<str>,
    qos: QoS,
    filtered: bool,
}

impl SubscribePermit {
    pub(crate) fn new(epoch: u64, rule: Arc<str>, qos: QoS, filtered: bool) -> Self {
        Self { epoch, rule, qos, filtered }
    }

    /// Epoch of the policy that decided; another epoch's policy has to be asked again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Name of the rule that allows it; the first one where it takes several.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }

    /// Quality of service to grant: the requested one, lowered to what the rules allow.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Tells whether some topics under the filter must not be delivered: every delivery then needs
    /// [`crate::Rights::receive`], even while the epoch is the same.
    pub fn is_filtered(&self) -> bool {
        self.filtered
    }
}
