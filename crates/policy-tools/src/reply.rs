//! Response Topics: which of them a publication may name.

use crate::cell::{Cell, Question};
use crate::model::Held;
use crate::request::{Request, Verb};
use crate::topics::Filter;
use midge_policy::Effect;

impl Request {
    fn reply(&self) -> Option<Filter> {
        let topic = self.response_topic.as_ref().filter(|_| matches!(self.verb, Verb::Publish | Verb::Will));
        topic.map(|topic| Filter::read(topic.as_str(), |_| None))
    }

    /// Tells whether a publication by any rule may name the Response Topic of the request: it names none, or one that its
    /// publisher may publish to, whatever the conditions on what is published. `holds` tells whether allows (`false`) and
    /// denies (`true`) of a rule hold on the connection.
    pub(crate) fn names_freely<'h>(
        &self,
        rules: impl IntoIterator<Item = &'h Held>,
        cell: &Cell,
        holds: impl Fn(&Held, bool) -> Result<bool, Question>,
    ) -> Result<bool, Question> {
        let Some(reply) = self.reply() else { return Ok(true) };
        let mut may_publish = false;
        for held in rules {
            for pattern in &held.patterns {
                let is_deny = pattern.effect == Effect::DenyPublish;
                if !(is_deny || pattern.effect == Effect::Publish) || !holds(held, is_deny)? {
                    continue;
                }
                if pattern.filter.resolve(cell).meet(&reply, cell)?.is_some() {
                    if is_deny {
                        return Ok(false);
                    }
                    may_publish = true;
                }
            }
        }
        Ok(may_publish)
    }

    /// Tells whether the rule's own `response-topics` have it.
    pub(crate) fn names_by(&self, held: &Held, cell: &Cell) -> Result<bool, Question> {
        let Some(reply) = self.reply() else { return Ok(true) };
        for topics in &held.rule.response_topics {
            let topics = Filter::read(topics, |name| held.part(name)).resolve(cell);
            if topics.meet(&reply, cell)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
