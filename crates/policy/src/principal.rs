//! One identity under one policy, which its connections share.

use crate::index::RuleIndex;
use crate::kin::{Kin, Many};
use crate::layer::{HeldRule, Layer};
use crate::rights::{Named, Standing};
use crate::segments::Segments;
use crate::{CheckedRule, Context, Rights};
use midge_identity::SpiffeId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One identity and the rules that speak of it under one policy: what to keep per identity, since all
/// connections that the same rules hold for share one [`Rights`].
#[derive(Debug)]
pub struct Principal {
    epoch: u64,
    who: Arc<Named>,
    patterns: Arc<RuleIndex>,
    own: Option<Arc<Own>>,
    /// The rules that depend on the connection, but for those that make a condition that is known.
    depending: Box<[CheckedRule]>,
    known: Mutex<Known>,
}

/// Rights that have been asked for.
#[derive(Debug, Default)]
struct Known {
    /// By how the rules stand that depend on the connection. As many as operators wrote conditions for, whatever client
    /// ids there are.
    rights: HashMap<Vec<Standing>, Arc<Rights>>,
    /// Those of the connection that was asked about last: it is, several times on end, and which rules hold for it
    /// takes long to see where there are many.
    last: Option<(Connection, Arc<Rights>)>,
}

/// Client id and listener of a connection.
#[derive(Debug)]
struct Connection([Option<Box<str>>; 2]);

impl Connection {
    fn of(context: Context<'_>) -> Self {
        Self([context.client_id, context.listener].map(|text| text.map(Into::into)))
    }

    fn is(&self, context: Context<'_>) -> bool {
        let Self([client_id, listener]) = self;
        (client_id.as_deref(), listener.as_deref()) == (context.client_id, context.listener)
    }
}

/// Rules that speak of a single identity.
#[derive(Debug)]
pub(crate) struct Own {
    /// In order of precedence.
    pub(crate) rules: Box<[CheckedRule]>,
    kin: Kin,
}

impl Own {
    /// Makes what is known of rules in order of precedence.
    pub(crate) fn of(rules: Vec<CheckedRule>, earlier: Option<&Self>) -> Self {
        let mut kin = Kin::default();
        (0..).zip(&rules).for_each(|(place, _)| kin.push(place));
        kin.compile(&rules, earlier.map(|earlier| &earlier.kin));
        Self { rules: rules.into(), kin }
    }
}

/// Rules of one list that speak of an identity.
struct Spoken<'a> {
    rules: &'a [CheckedRule],
    /// Each with a condition of its own.
    few: Vec<u32>,
    many: Vec<&'a Many>,
}

impl<'a> Spoken<'a> {
    fn of(rules: &'a [CheckedRule], kin: impl IntoIterator<Item = &'a Kin>, id: &Segments) -> Self {
        let mut spoken = Self { rules, few: Vec::new(), many: Vec::new() };
        for kin in kin {
            let speaks = |rule: Option<&CheckedRule>| rule.is_some_and(|rule| !rule.excepts(id));
            spoken.few.extend(kin.few.iter().filter(|place| speaks(rules.get(**place as usize))));
            spoken.many.extend(kin.many.iter().filter(|many| speaks(many.example())));
        }
        spoken.few.sort_unstable();
        spoken
    }

    fn few(&self) -> impl Iterator<Item = (u32, &'a CheckedRule)> {
        self.few.iter().filter_map(|place| Some((*place, self.rules.get(*place as usize)?)))
    }

    fn depending(&self) -> impl Iterator<Item = &'a CheckedRule> {
        let all = self.few().map(|(_, rule)| rule).chain(self.many.iter().filter_map(|many| many.example()));
        all.filter(|rule| rule.depends_on_connection())
    }

    /// Adds the layers of what holds on a connection. Those of few rules are made as `few` says, of their places and
    /// whether they hold as a whole.
    fn layers(
        &self,
        (context, id): (Context<'_>, &Segments),
        few: impl FnOnce(&[(u32, bool)]) -> Arc<Layer>,
        layers: &mut Vec<Arc<Layer>>,
    ) {
        let mut held = Vec::new();
        for (place, rule) in self.few() {
            match rule.standing(context, id) {
                Standing::Nothing => {}
                standing => held.push((place, standing == Standing::Whole)),
            }
        }
        let known = layers.len();
        for many in &self.many {
            match many.example().map(|rule| rule.standing(context, id)) {
                Some(Standing::Whole) => layers.push(Arc::clone(&many.layer)),
                Some(Standing::Denies) => held.extend(many.places().map(|place| (place, false))),
                Some(Standing::Nothing) | None => {}
            }
        }
        if !held.is_empty() {
            held.sort_unstable();
            layers.insert(known, few(&held));
        }
    }
}

impl Principal {
    pub(crate) fn new(epoch: u64, id: &SpiffeId, patterns: &Arc<RuleIndex>, own: Option<&Arc<Own>>) -> Self {
        let who = Arc::new(Named { segments: Segments::of(id), id: id.clone() });
        let (patterns, own) = (Arc::clone(patterns), own.cloned());
        let mut principal =
            Self { epoch, who, patterns, own, depending: Box::default(), known: Mutex::default() };
        let (shared, own) = principal.spoken();
        let own = own.iter().flat_map(Spoken::depending);
        principal.depending = shared.depending().chain(own).cloned().collect();
        principal
    }

    /// Returns the rules that speak of the identity: by patterns, and alone.
    fn spoken(&self) -> (Spoken<'_>, Option<Spoken<'_>>) {
        let id = &self.who.segments;
        let own = self.own.as_ref().map(|own| Spoken::of(&own.rules, [&own.kin], id));
        (Spoken::of(self.patterns.rules(), self.patterns.kin(id), id), own)
    }

    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.who.id
    }

    /// Tells whether rights may differ between its connections.
    pub fn depends_on_connection(&self) -> bool {
        !self.depending.is_empty()
    }

    /// Returns what the identity may do on a connection: the same value as before wherever the same
    /// rules hold. Where they are many that each make a condition of their own, and have not been asked for together
    /// before, that takes long: 10,000 of them some 20 ms, while nobody else who asks has to wait.
    pub fn rights(&self, context: Context<'_>) -> Arc<Rights> {
        if let Some((_, rights)) = self.known().last.as_ref().filter(|(last, _)| last.is(context)) {
            return Arc::clone(rights);
        }
        let id = &self.who.segments;
        let standings: Vec<Standing> = self.depending.iter().map(|rule| rule.standing(context, id)).collect();
        let known = self.known().rights.get(&standings).cloned();
        let rights = known.unwrap_or_else(|| self.made(context));
        let mut known = self.known();
        let rights = Arc::clone(known.rights.entry(standings).or_insert(rights));
        if self.depends_on_connection() {
            known.last = Some((Connection::of(context), Arc::clone(&rights)));
        }
        rights
    }

    fn made(&self, context: Context<'_>) -> Arc<Rights> {
        let id = &self.who.segments;
        let (shared, own) = self.spoken();
        let mut layers = Vec::new();
        shared.layers((context, id), |held| self.patterns.layer(held), &mut layers);
        if let Some(own) = own {
            let layer = |held: &[(u32, bool)]| {
                let rules = held.iter().filter_map(|(place, whole)| {
                    Some(HeldRule::new(own.rules.get(*place as usize)?, *whole))
                });
                Arc::new(Layer::of(rules.collect()))
            };
            own.layers((context, id), layer, &mut layers);
        }
        Arc::new(Rights::of(self.epoch, &self.who, layers))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Whoever panicked meanwhile has left nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, PublishFacts, Rule};
    use mqtt_proto::TopicName;

    /// So many that they are compiled with the policy.
    const MANY: usize = 40;

    fn rules(count: usize, id: &str, topic: &str) -> Vec<Rule> {
        let rule = |n| Rule {
            name: format!("{id} {topic} {n}"),
            id: id.into(),
            publish: vec![format!("{topic}/{n}")],
            ..Rule::default()
        };
        (0..count).map(rule).collect()
    }

    fn policy(rules: Vec<Rule>) -> Policy {
        Policy::compile(rules, 1).unwrap()
    }

    fn id(app: &str) -> SpiffeId {
        SpiffeId::new(format!("spiffe://td/app/{app}")).unwrap()
    }

    fn publishes(rights: &Rights, topic: &str) -> bool {
        rights.publish(&TopicName::new(topic).unwrap(), PublishFacts::default()).is_ok()
    }

    /// Tells whether each layer of one is one of the other.
    fn share(one: &Rights, other: &Rights) -> bool {
        one.layers().len() == other.layers().len()
            && one.layers().iter().zip(other.layers()).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    #[test]
    fn who_has_the_same_rules_has_the_same_layers_whatever_captures_stand_for() {
        for count in [3, MANY] {
            let policy = policy(rules(count, "spiffe://td/app/{name}", "{name}"));
            let (press, saw) = (policy.rights(&id("press")), policy.rights(&id("saw")));
            assert!(share(&press, &saw) && !press.is_same_as(&saw), "{count}");
            assert!(publishes(&press, "press/2") && !publishes(&press, "saw/2"));
            assert!(publishes(&saw, "saw/2") && !publishes(&saw, "press/2"));
        }
    }

    #[test]
    fn many_rules_are_shared_by_identities_that_few_others_tell_apart() {
        let all = rules(MANY, "spiffe://td/app/*", "all");
        let own = ["press", "saw"].map(|app| rules(1, &format!("spiffe://td/app/{app}"), app));
        let policy = policy(all.into_iter().chain(own.into_iter().flatten()).collect());
        let (press, saw) = (policy.rights(&id("press")), policy.rights(&id("saw")));
        let shared =
            press.layers().iter().filter(|layer| saw.layers().iter().any(|other| Arc::ptr_eq(layer, other)));
        assert_eq!(shared.map(|layer| layer.rules.len()).collect::<Vec<_>>(), [MANY]);
        assert!(publishes(&press, "all/7") && publishes(&press, "press/0") && !publishes(&press, "saw/0"));
    }

    #[test]
    fn a_change_compiles_anew_only_where_rules_have_changed() {
        let own = "spiffe://td/app/press";
        let kept = [rules(MANY, "spiffe://td/app/*", "all"), rules(MANY, own, "own")];
        let policy = policy(kept.into_iter().flatten().chain(rules(MANY, "spiffe://td/**", "td")).collect());
        let gone = |topic: &str| {
            let all = policy.all_rules();
            let gone = all.into_iter().find(|rule| rule.rule().publish == [topic]).unwrap().clone();
            policy.changed([&gone], [], 2).unwrap().rights(&id("press"))
        };
        let before = policy.rights(&id("press"));
        assert_eq!(before.layers().len(), 3);
        for (topic, kept) in [("td/7", "all/7"), ("all/7", "own/7"), ("own/7", "td/7")] {
            let after = gone(topic);
            assert!(!publishes(&after, topic) && publishes(&after, kept), "{topic}");
            let is_same = |layer: &&Arc<Layer>| after.layers().iter().any(|l| Arc::ptr_eq(l, layer));
            assert_eq!(before.layers().iter().filter(is_same).count(), 2, "{topic}");
        }
    }

    #[test]
    fn layers_that_nobody_has_any_more_are_forgotten() {
        let patterns = (0..200).flat_map(|n| rules(1, &format!("spiffe://*/app/{n}"), "t"));
        let policy = policy(patterns.chain(rules(1, "spiffe://td/app/*", "all")).collect());
        let kept = policy.rights(&id("7"));
        for n in 0..200 {
            assert!(publishes(&policy.rights(&id(&n.to_string())), "t/0"));
        }
        assert!(policy.shared_layers() < 100, "{}", policy.shared_layers());
        assert!(share(&kept, &policy.rights(&id("7"))));
    }
}
