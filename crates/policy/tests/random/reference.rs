//! The policy language by its documentation: slow, and simple enough to be seen right. It reads rules
//! as they are written and shares no code with what it checks.

use crate::support::matches;
use crate::world::{NONE, Set, World, and, minus, or, within};
use midge_policy::{
    Context, Durability, PublishFacts, Quantity, QueueOverflow, Rule, RuleSource, SubscribeMode,
};
use mqtt_proto::QoS;
use std::collections::BTreeMap;

type Bound = BTreeMap<String, String>;

/// Matches an identity, segment by segment; a name that is bound must stand for the same again.
fn bind(pattern: &str, id: &str, bound: &mut Bound) -> bool {
    let mut pattern = pattern.strip_prefix("spiffe://").unwrap().split('/');
    let mut id = id.strip_prefix("spiffe://").unwrap().split('/');
    let (wanted, domain) = (pattern.next().unwrap(), id.next().unwrap());
    if !["*", "{td}", domain].contains(&wanted) {
        return false;
    }
    bound.insert("{td}".into(), domain.into());
    loop {
        match (pattern.next(), id.next()) {
            (Some("**"), _) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(name), Some(segment)) if name.starts_with('{') => {
                if bound.entry(name.into()).or_insert_with(|| segment.into()) != segment {
                    return false;
                }
            }
            (Some(literal), Some(segment)) if literal == segment => {}
            _ => return false,
        }
    }
}

/// One rule as it holds for one identity on one connection.
pub(crate) struct Stated {
    pub(crate) rule: Rule,
    bound: Bound,
    allows: bool,
    denies: bool,
}

fn state(rule: &Rule, id: &str, context: Context<'_>) -> Option<Stated> {
    let mut bound = Bound::new();
    if !bind(&rule.id, id, &mut bound) {
        return None;
    }
    if rule.unless.iter().any(|unless| bind(unless, id, &mut bound.clone())) {
        return None;
    }
    let is_client = rule.client_id.is_empty()
        || context.client_id.is_some_and(|client_id| {
            rule.client_id.iter().any(|pattern| {
                let mut text = pattern.clone();
                for (name, value) in &bound {
                    text = text.replace(name.as_str(), value);
                }
                match text.strip_suffix('*') {
                    Some(start) => client_id.starts_with(start),
                    None => client_id == text,
                }
            })
        });
    let (mut allows, mut denies) = (is_client, is_client);
    if !rule.listener.is_empty() {
        let here = |name: &str| rule.listener.iter().any(|listener| listener == name);
        allows &= context.listener.is_some_and(here);
        denies &= context.listener.is_none_or(here);
    }
    Some(Stated { rule: rule.clone(), bound, allows, denies })
}

impl Stated {
    fn expand(&self, filters: &[String]) -> Vec<String> {
        let level = |level: &str| self.bound.get(level).cloned().unwrap_or_else(|| level.to_owned());
        filters.iter().map(|filter| filter.split('/').map(level).collect::<Vec<_>>().join("/")).collect()
    }

    fn allowing(&self, filters: &[String]) -> Vec<String> {
        if self.allows { self.expand(filters) } else { Vec::new() }
    }

    fn denying(&self, filters: &[String]) -> Vec<String> {
        if self.denies { self.expand(filters) } else { Vec::new() }
    }

    fn qos_max(&self) -> QoS {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(self.rule.qos_max.unwrap_or(2))]
    }

    fn lets_join(&self, group: Option<&str>) -> bool {
        match (&self.rule.share_groups, group) {
            (Some(groups), Some(group)) => {
                groups.iter().any(|g| g == "*" || g == group || self.bound.get(g).is_some_and(|g| g == group))
            }
            _ => true,
        }
    }

    pub(crate) fn key(&self) -> (RuleSource, String) {
        (self.rule.source.clone(), self.rule.name.clone())
    }
}

pub(crate) type Name = (RuleSource, String);

/// What a publication may be, by its rule.
#[derive(Debug, PartialEq)]
pub(crate) struct Publish {
    pub(crate) rule: Name,
    /// Where each rule that allows it sets a rate: those rules.
    pub(crate) rated: Vec<Name>,
    pub(crate) durability: Option<Durability>,
    pub(crate) refuses_overflow: bool,
}

/// What a subscription may be. `by_topic` has, for each quality of service, the topics that may be
/// delivered with it.
pub(crate) struct Subscribe {
    pub(crate) qos: QoS,
    pub(crate) filtered: bool,
    pub(crate) by_topic: [Set; 3],
    pub(crate) denied: Set,
}

pub(crate) struct Reference<'w> {
    world: &'w World,
    pub(crate) stated: Vec<Stated>,
}

impl<'w> Reference<'w> {
    pub(crate) fn new(world: &'w World, rules: &[Rule], id: &str, context: Context<'_>) -> Self {
        let mut stated: Vec<_> = rules.iter().filter_map(|rule| state(rule, id, context)).collect();
        // Files by name and line, then the built-in rules, then the cloud's, then grants.
        stated.sort_by_key(|stated| match &stated.rule.source {
            RuleSource::File { file, line } if **file != *"built-in" => {
                (0, file.to_string(), *line, stated.rule.name.clone())
            }
            RuleSource::File { file, line } => (1, file.to_string(), *line, stated.rule.name.clone()),
            RuleSource::Built => (1, String::new(), 0, stated.rule.name.clone()),
            RuleSource::Cloud => (2, String::new(), 0, stated.rule.name.clone()),
            RuleSource::Entry => (3, String::new(), 0, stated.rule.name.clone()),
        });
        Self { world, stated }
    }

    fn may_publish(&self, topic: &str) -> bool {
        let any = |filters: &[String]| filters.iter().any(|filter| matches(filter, topic));
        self.stated.iter().any(|s| any(&s.allowing(&s.rule.publish)))
            && !self.stated.iter().any(|s| any(&s.denying(&s.rule.deny_publish)))
    }

    /// `Err` has the rule that is named, if any.
    pub(crate) fn publish(
        &self,
        will: bool,
        topic: &str,
        facts: PublishFacts<'_>,
    ) -> Result<Publish, Option<Name>> {
        let any = |filters: &[String]| filters.iter().any(|filter| matches(filter, topic));
        if let Some(deny) = self.stated.iter().find(|s| any(&s.denying(&s.rule.deny_publish))) {
            return Err(Some(deny.key()));
        }
        let allowing: Vec<&Stated> =
            self.stated.iter().filter(|s| any(&s.allowing(&s.rule.publish))).collect();
        let meets = |s: &&&Stated| {
            let rule = &s.rule;
            let replies = s.allowing(&rule.response_topics);
            let names = |reply: &str| replies.iter().any(|f| matches(f, reply)) || self.may_publish(reply);
            (!will || rule.will != Some(false))
                && facts.qos <= s.qos_max()
                && !(facts.retain && rule.retain == Some(false))
                && rule.payload_max.is_none_or(|max| facts.payload_len <= max as usize)
                && facts.response_topic.is_none_or(|reply| names(reply.as_str()))
        };
        let met: Vec<&&Stated> = allowing.iter().filter(meets).collect();
        let named = met.iter().find(|s| s.rule.rate.is_none()).or(met.first());
        let Some(named) = named else { return Err(allowing.first().map(|s| s.key())) };
        Ok(Publish {
            rule: named.key(),
            rated: if named.rule.rate.is_some() { met.iter().map(|s| s.key()).collect() } else { Vec::new() },
            durability: met.iter().find_map(|s| s.rule.durability),
            refuses_overflow: met.iter().any(|s| s.rule.queue_overflow == Some(QueueOverflow::Refuse)),
        })
    }

    /// The rule that is named and the highest quality of service, or the rule that denies.
    pub(crate) fn receive(&self, topic: &str, group: Option<&str>) -> Result<(Name, QoS), Option<Name>> {
        let any = |filters: &[String]| filters.iter().any(|filter| matches(filter, topic));
        let denies =
            |s: &&Stated| any(&s.denying(&s.rule.deny_subscribe)) || any(&s.denying(&s.rule.deny_receive));
        if let Some(deny) = self.stated.iter().find(denies) {
            return Err(Some(deny.key()));
        }
        let allows = |s: &&Stated| {
            (s.lets_join(group) && any(&s.allowing(&s.rule.subscribe))) || any(&s.allowing(&s.rule.receive))
        };
        let allowing: Vec<&Stated> = self.stated.iter().filter(allows).collect();
        let first = allowing.first().ok_or(None)?;
        Ok((first.key(), allowing.iter().map(|s| s.qos_max()).max().unwrap()))
    }

    /// The smallest quota of something, and the first rule that gives it.
    pub(crate) fn quota(&self, of: Quantity) -> Option<(u32, Name)> {
        let holding = self.stated.iter().filter(|s| s.denies);
        let quotas = holding.filter_map(|s| Some((s.rule.quota?.of(of)?, s.key())));
        quotas.min_by_key(|(max, _)| *max)
    }

    fn each(&self, list: impl Fn(&Stated) -> Vec<String>) -> Set {
        self.stated.iter().fold(NONE, |set, s| or(set, self.world.union(&list(s))))
    }

    /// Decides a SUBSCRIBE; `None` refuses it.
    pub(crate) fn subscribe(
        &self,
        filter: &str,
        group: Option<&str>,
        asked: QoS,
        mode: SubscribeMode,
    ) -> Option<Subscribe> {
        let wanted = self.world.set(filter);
        let names = |filters: Vec<String>| filters.iter().any(|other| self.world.set(other) == wanted);
        if self.stated.iter().any(|s| names(s.denying(&s.rule.deny_subscribe_literal))) {
            return None;
        }
        let deny_subscribe = self.each(|s| s.denying(&s.rule.deny_subscribe));
        let deny_receive = self.each(|s| s.denying(&s.rule.deny_receive));
        let denied = or(deny_subscribe, deny_receive);
        let qualities = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
        let allowed = qualities.map(|qos| {
            let lets = |s: &Stated| qos <= asked && qos <= s.qos_max() && s.lets_join(group);
            self.each(|s| if lets(s) { s.allowing(&s.rule.subscribe) } else { Vec::new() })
        });
        let by_topic = allowed.map(|set| minus(and(set, wanted), denied));
        let whole = qualities.into_iter().rev().filter(|qos| *qos <= asked).find_map(|qos| {
            let lets = |s: &Stated| qos <= s.qos_max() && s.lets_join(group);
            let literal = |s: &Stated| lets(s) && names(s.allowing(&s.rule.subscribe_literal));
            if within(wanted, allowed[qos as usize]) {
                Some(Subscribe { qos, filtered: and(wanted, deny_receive) != NONE, by_topic, denied })
            } else {
                self.stated.iter().any(literal).then_some(Subscribe { qos, filtered: true, by_topic, denied })
            }
        });
        if let Some(whole) = whole.filter(|_| and(wanted, deny_subscribe) == NONE) {
            return Some(whole);
        }
        let qos = qualities.into_iter().rev().find(|qos| by_topic[*qos as usize] != NONE)?;
        (mode != SubscribeMode::Reject).then_some(Subscribe { qos, filtered: true, by_topic, denied })
    }
}
