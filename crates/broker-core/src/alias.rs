//! Topic aliases of one connection, both ways (MQTT 5.0 §3.3.2.3.4).

use mqtt_proto::{ReasonCode, TopicName};
use std::collections::HashMap;
use std::num::NonZeroU16;

/// Aliases the client has set.
#[derive(Debug, Default)]
pub(crate) struct AliasesIn {
    topics: Vec<Option<TopicName>>,
    bytes: usize,
}

/// Aliases the broker has set towards the client: the first topics get them and keep them.
#[derive(Debug, Default)]
pub(crate) struct AliasesOut {
    aliases: HashMap<TopicName, NonZeroU16>,
    bytes: usize,
    max: u16,
    bytes_max: usize,
}

/// How one PUBLISH names its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    Topic,
    /// Topic and alias: sets the alias.
    Set(NonZeroU16),
    /// Alias alone.
    Alias(NonZeroU16),
}

impl AliasesIn {
    /// Returns the topic of a PUBLISH that is not taken yet; `None` where it names none.
    pub(crate) fn known<'a>(
        &'a self,
        topic: Option<&'a TopicName>,
        alias: Option<NonZeroU16>,
    ) -> Option<&'a TopicName> {
        topic.or_else(|| self.topics.get(usize::from(alias?.get()) - 1)?.as_ref())
    }

    /// Returns the topic of a PUBLISH and remembers the alias it sets.
    ///
    /// # Errors
    /// The code to disconnect with.
    pub(crate) fn resolve(
        &mut self,
        topic: Option<TopicName>,
        alias: Option<NonZeroU16>,
        (max, bytes_max): (u16, usize),
    ) -> Result<TopicName, ReasonCode> {
        let Some(alias) = alias else { return topic.ok_or(ReasonCode::ProtocolError) };
        if alias.get() > max {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let index = usize::from(alias.get()) - 1;
        let Some(topic) = topic else {
            return self.topics.get(index).cloned().flatten().ok_or(ReasonCode::ProtocolError);
        };
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        if let Some(place) = self.topics.get_mut(index) {
            let earlier = place.as_ref().map_or(0, bytes);
            let all = self.bytes.saturating_sub(earlier).saturating_add(bytes(&topic));
            if all > bytes_max {
                return Err(ReasonCode::QuotaExceeded);
            }
            self.bytes = all;
            *place = Some(topic.clone());
        }
        Ok(topic)
    }
}

impl AliasesOut {
    pub(crate) fn new(max: u16, bytes_max: usize) -> Self {
        Self { aliases: HashMap::new(), bytes: 0, max, bytes_max }
    }

    pub(crate) fn naming(&self, topic: &TopicName) -> Naming {
        if self.max == 0 {
            return Naming::Topic;
        }
        if let Some(alias) = self.aliases.get(topic) {
            return Naming::Alias(*alias);
        }
        let next = u16::try_from(self.aliases.len() + 1).ok().filter(|next| *next <= self.max);
        next.filter(|_| self.bytes.saturating_add(bytes(topic)) <= self.bytes_max)
            .and_then(NonZeroU16::new)
            .map_or(Naming::Topic, Naming::Set)
    }

    /// Whether a topic is sent as it is.
    #[inline]
    pub(crate) fn leaves(&self, topic: &TopicName) -> bool {
        matches!(self.naming(topic), Naming::Topic)
    }

    /// Remembers an alias that is sent.
    pub(crate) fn commit(&mut self, topic: &TopicName, naming: Naming) {
        if let Naming::Set(alias) = naming {
            self.bytes = self.bytes.saturating_add(bytes(topic));
            self.aliases.insert(topic.clone(), alias);
        }
    }
}

fn bytes(topic: &TopicName) -> usize {
    topic.as_str().len()
}
