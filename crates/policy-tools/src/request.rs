//! One question to a policy: may this identity do that?

use crate::access::{Access, Side};
use crate::cell::Cell;
use crate::decision::{self, Answer, Decision, Delivered};
use crate::model::Ruleset;
use crate::topics::{Filter, Topics};
use midge_identity::SpiffeId;
use midge_policy::{Context, Effect, PublishFacts, Rights, SubscribeMode};
use mqtt_proto::{InvalidTopic, QoS, SharedFilter, TopicFilter, TopicName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// PUBLISH.
    Publish,
    /// Leaving a will.
    Will,
    /// SUBSCRIBE.
    Subscribe,
    /// Being given a message.
    Receive,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Will, Self::Subscribe, Self::Receive];

    /// Name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Will => "will",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
        }
    }

    /// Reads the name.
    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == text)
    }

    /// Tells whether a list bears on the decision about such a request.
    pub(crate) fn heeds(self, effect: Effect) -> bool {
        self.access().has(effect) || (self == Self::Subscribe && Access::SubscribeLiteral.has(effect))
    }

    /// Tells whether a list says something about such a request: deny-receive keeps nobody from subscribing, and is
    /// left out of what the subscription brings.
    pub(crate) fn concerns(self, effect: Effect) -> bool {
        self.heeds(effect) || (self, effect) == (Self::Subscribe, Effect::DenyReceive)
    }

    pub(crate) fn access(self) -> Access {
        match self {
            Self::Publish | Self::Will => Access::Publish,
            Self::Subscribe => Access::Subscribe,
            Self::Receive => Access::Receive,
        }
    }
}

/// A request, apart from who makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub verb: Verb,
    /// Where. To publish to a filter means to publish to every topic it matches.
    pub filter: SharedFilter,
    /// Quality of service.
    pub qos: QoS,
    /// Whether a publication is retained.
    pub retain: bool,
    /// Length of its payload in bytes.
    pub payload_len: usize,
    /// Response Topic it names.
    pub response_topic: Option<TopicName>,
    /// Client id of the connection; where it is not known, no right that depends on it counts.
    pub client_id: Option<String>,
    /// Listener of the connection; where it is not known, no right that depends on it counts.
    pub listener: Option<String>,
}

impl Request {
    /// Returns a plain request: QoS 0, not retained, no payload, no share group but that of
    /// `$share/<group>/<filter>`.
    ///
    /// # Errors
    /// When the text is neither a topic nor a filter.
    pub fn new(verb: Verb, text: &str) -> Result<Self, InvalidTopic> {
        let filter = if verb == Verb::Subscribe {
            SharedFilter::new(text)?
        } else {
            SharedFilter { group: None, filter: TopicFilter::new(text)? }
        };
        Ok(Self {
            verb,
            filter,
            qos: QoS::AtMostOnce,
            retain: false,
            payload_len: 0,
            response_topic: None,
            client_id: None,
            listener: None,
        })
    }

    /// Says what of the request makes no sense for what is to be done: whoever says it means something else, and would
    /// take the answer for one to that.
    pub fn beside_the_point(&self) -> Option<&'static str> {
        let publishes = matches!(self.verb, Verb::Publish | Verb::Will);
        if self.retain && !publishes {
            Some("only what is published, or left as a will, is retained: leave retain away")
        } else if self.payload_len > 0 && !publishes {
            Some("only what is published, or left as a will, has a payload to be limited: leave payload away")
        } else if self.response_topic.is_some() && !publishes {
            Some(
                "only what is published, or left as a will, names a response topic: leave response-topic away",
            )
        } else if self.verb != Verb::Subscribe && self.filter.filter.as_str().starts_with("$share/") {
            Some("only a subscription is shared: name the topic without $share and the group")
        } else if self.client_id.as_deref() == Some("") {
            Some("a client that gives no id is given one by the broker: name an id, or leave client-id away")
        } else {
            None
        }
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context { client_id: self.client_id.as_deref(), listener: self.listener.as_deref() }
    }

    /// Returns the topic, unless it is a filter with wildcards.
    pub(crate) fn topic(&self) -> Option<TopicName> {
        TopicName::new(self.filter.filter.as_str()).ok()
    }

    fn facts(&self) -> PublishFacts<'_> {
        PublishFacts {
            qos: self.qos,
            retain: self.retain,
            payload_len: self.payload_len,
            response_topic: self.response_topic.as_ref(),
        }
    }

    /// Decides the request as the broker would on its listener, or on each of them where it says none.
    pub fn answer(&self, rules: &Ruleset, id: &SpiffeId) -> Answer {
        Answer::of(rules, id, self)
    }

    /// Decides the request as the broker would on its listener. Where it says none, no right counts that depends on it,
    /// each deny does, and nothing is granted in part.
    pub(crate) fn decide(&self, rules: &Ruleset, id: &SpiffeId) -> Decision {
        self.decide_by(&rules.policy().rights_at(id, self.context()), rules, id)
    }

    /// Does the same with the rights of the identity in the context of this request.
    pub(crate) fn decide_by(&self, rights: &Rights, rules: &Ruleset, id: &SpiffeId) -> Decision {
        match (self.verb, self.topic()) {
            (Verb::Subscribe, _) => self.decide_subscription(rights, rules, id),
            (Verb::Publish, Some(topic)) => rights
                .publish(&topic, self.facts())
                .map_or_else(Decision::denied, |permit| Decision::published(&permit)),
            (Verb::Will, Some(topic)) => rights
                .will(&topic, self.facts())
                .map_or_else(Decision::denied, |permit| Decision::published(&permit)),
            (Verb::Receive, Some(topic)) => rights.receive(&topic).map_or_else(Decision::denied, |permit| {
                Decision::allowed(permit.rule()).at(self.qos, permit.qos())
            }),
            (_, None) => self.decide_all(rules, id),
        }
    }

    fn decide_subscription(&self, rights: &Rights, rules: &Ruleset, id: &SpiffeId) -> Decision {
        let of_listener = self.listener.as_ref().map(|listener| rules.modes().on(listener));
        let mode = of_listener.unwrap_or_default().of(&self.filter);
        let decision = match rights.subscribe(&self.filter, self.qos, mode) {
            Ok(permit) => {
                let refused = rights.subscribe(&self.filter, self.qos, SubscribeMode::Reject).err();
                let refusal = refused.map(|denial| denial.to_string());
                let delivered = Delivered::of(rules, id, self, &permit);
                let granted = Decision::granted(self, &permit, refusal, delivered);
                let left_out = decision::left_out(rules, id, self, &granted.parts);
                Decision { left_out, ..granted }
            }
            Err(denial) => Decision::denied(denial),
        };
        Decision { mode: of_listener.map(|_| mode), ..decision }
    }

    /// Decides publication to, or delivery of, every topic of a filter.
    fn decide_all(&self, rules: &Ruleset, id: &SpiffeId) -> Decision {
        let cell = Cell::of(id);
        let applying = rules.applying(id);
        let mut side = Side::plain();
        let freely = self.may_name_freely(applying.iter().map(|held| &***held), &cell);
        for held in &applying {
            for list in self.verb.access().lists(held, &cell) {
                let holds = if list.effect.is_deny() {
                    held.denies_on(self.listener.as_deref())
                } else {
                    self.unmet(held, &cell).is_none() && (freely || self.names_by(held, &cell) == Ok(true))
                };
                if holds {
                    side.add(list.effect, &list.filters);
                }
            }
        }
        let filter = Filter::read(self.filter.filter.as_str(), |_| None);
        let bare = Decision::default();
        let value = |_| String::new();
        let what = format!("{} {}", self.verb.name(), self.filter.filter);
        for deny in side.deny.iter() {
            if let Ok(Some(part)) = filter.meet(deny, &cell) {
                let witness = Topics::literal(part).witness(value);
                return Decision {
                    reason: format!("a rule denies `{witness}`, which {what} includes"),
                    ..bare
                };
            }
        }
        match Topics::rest(&filter, side.allow.iter(), &cell) {
            Ok(None) => Decision { allowed: true, reason: "rules allow every topic of it".into(), ..bare },
            Ok(Some(missing)) => {
                let witness = missing.witness(value);
                let reply = self.response_topic.as_ref().filter(|_| self.verb != Verb::Receive);
                let naming = reply.map(|topic| format!(" naming the response topic {topic}"));
                let naming = naming.unwrap_or_default();
                Decision {
                    reason: format!("no rule allows `{witness}`{naming}, which {what} includes"),
                    ..bare
                }
            }
            // No question is open about one identity.
            Err(_) => bare,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.verb.name())?;
        match &self.filter.group {
            Some(group) => write!(f, "$share/{group}/{}", self.filter.filter)?,
            None => write!(f, "{}", self.filter.filter)?,
        }
        if self.qos != QoS::AtMostOnce {
            write!(f, " at qos {}", self.qos as u8)?;
        }
        if self.retain {
            f.write_str(" retained")?;
        }
        if self.payload_len > 0 {
            write!(f, " with {} bytes", self.payload_len)?;
        }
        if let Some(topic) = &self.response_topic {
            write!(f, " naming the response topic {topic}")?;
        }
        if let Some(client_id) = &self.client_id {
            write!(f, " as client {client_id}")?;
        }
        if let Some(listener) = &self.listener {
            write!(f, " on listener {listener}")?;
        }
        Ok(())
    }
}
