//! A set of rules as one value: made, changed, compared, and asked for the rights of an identity.

use crate::index::RuleIndex;
use crate::principal::Own;
use crate::segments::Segments;
use crate::shards::ShardMap;
use crate::{
    CheckedRule, Context, PolicyError, Principal, Problem, Rights, Rule, RuleName, RuleSource, Touched,
};
use midge_identity::SpiffeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// An immutable set of rules with an epoch. Without rules it denies everything.
#[derive(Clone, Debug)]
pub struct Policy {
    epoch: u64,
    /// Rules that speak of one identity, by it, in order of precedence: the grants, of which there
    /// may be very many.
    literal: ShardMap<SpiffeId, Arc<Own>>,
    patterns: Arc<RuleIndex>,
    names: ShardMap<RuleKey, CheckedRule>,
}

/// What changes about the rules of one identity, made at once: one by one, each would cost all of them.
#[derive(Default)]
struct Edit {
    gone: HashSet<RuleKey>,
    come: Vec<CheckedRule>,
}

/// What names a rule, wherever in its file it stands: no two rules of one source have the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleKey(NameSpace, Arc<str>);

impl Policy {
    /// Returns the policy that denies everything; its epoch is 0.
    pub fn deny_all() -> Self {
        let patterns = Arc::new(RuleIndex::default());
        Self { epoch: 0, literal: ShardMap::new(), patterns, names: ShardMap::new() }
    }

    /// Checks and compiles rules.
    ///
    /// # Errors
    /// Every fault found, when there is one.
    pub fn compile(rules: Vec<Rule>, epoch: u64) -> Result<Self, Vec<PolicyError>> {
        let mut checked = Vec::with_capacity(rules.len());
        let mut errors = Vec::new();
        for rule in rules {
            match rule.check() {
                Ok(rule) => checked.push(rule),
                Err(mut found) => errors.append(&mut found),
            }
        }
        if errors.is_empty() { Self::of(checked, epoch) } else { Err(errors) }
    }

    /// Makes a policy of rules that were checked before.
    ///
    /// # Errors
    /// When two rules of one source have the same name.
    pub fn of(rules: impl IntoIterator<Item = CheckedRule>, epoch: u64) -> Result<Self, Vec<PolicyError>> {
        Self::deny_all().changed([], rules, epoch)
    }

    /// Reads and compiles one policy file; its epoch is 1.
    ///
    /// # Errors
    /// Every fault found, with file and line, when there is one.
    pub fn from_toml_str(text: &str, file: &str) -> Result<Self, Vec<PolicyError>> {
        Self::compile(Rule::from_toml_str(text, file)?, 1)
    }

    /// Returns the policy without some of its rules and with others. Costs no more than the change
    /// where all of it speaks of single identities, as grants do; a rule with a pattern costs all rules
    /// with patterns.
    ///
    /// # Errors
    /// When two rules of one source have the same name.
    pub fn changed<'a>(
        &self,
        removed: impl IntoIterator<Item = &'a CheckedRule>,
        added: impl IntoIterator<Item = CheckedRule>,
        epoch: u64,
    ) -> Result<Self, Vec<PolicyError>> {
        let mut next = Self { epoch, ..self.clone() };
        let (mut errors, mut has_gone, mut new) = (Vec::new(), false, Vec::new());
        let mut edits: HashMap<SpiffeId, Edit> = HashMap::new();
        for rule in removed {
            let key = RuleKey::of(rule.name());
            let Some(known) = next.names.remove(&key) else { continue };
            match &known.0.only {
                Some(id) => drop(edits.entry(id.clone()).or_default().gone.insert(key)),
                None => has_gone = true,
            }
        }
        for rule in added {
            let name = rule.name();
            if let Some(other) = next.names.insert(RuleKey::of(name), rule.clone()) {
                let problem = Problem::NameTwice(other.name().source().clone());
                let rule = Some(Arc::clone(name.text()));
                errors.push(PolicyError { place: name.source().clone(), rule, problem });
                continue;
            }
            match &rule.0.only {
                Some(id) => edits.entry(id.clone()).or_default().come.push(rule.clone()),
                None => new.push(rule),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        for (id, edit) in edits {
            next.edit_literal(id, edit);
        }
        if has_gone || !new.is_empty() {
            let added: HashSet<RuleKey> = new.iter().map(|rule| RuleKey::of(rule.name())).collect();
            let is_kept = |rule: &CheckedRule| {
                let key = RuleKey::of(rule.name());
                !added.contains(&key) && next.names.get(&key).is_some()
            };
            let kept = self.patterns.rules().iter().filter(|rule| is_kept(rule)).cloned();
            let mut patterns: Vec<CheckedRule> = kept.chain(new).collect();
            patterns.sort_by(|a, b| a.name().cmp_precedence(b.name()));
            next.patterns = Arc::new(RuleIndex::of(patterns).compiled(&self.patterns));
        }
        Ok(next)
    }

    fn edit_literal(&mut self, id: SpiffeId, Edit { gone, come }: Edit) {
        let known = self.literal.get(&id);
        let stays = |rule: &&CheckedRule| !gone.contains(&RuleKey::of(rule.name()));
        let kept = known.iter().flat_map(|own| &own.rules).filter(stays).cloned();
        let mut rules: Vec<CheckedRule> = kept.chain(come).collect();
        if rules.is_empty() {
            self.literal.remove(&id);
        } else {
            rules.sort_by(|a, b| a.name().cmp_precedence(b.name()));
            let own = Own::of(rules, known.map(|own| &**own));
            self.literal.insert(id, Arc::new(own));
        }
    }

    /// Epoch: the number its maker gave it. Permits carry it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns how many rules there are.
    pub fn rules(&self) -> usize {
        self.names.len()
    }

    /// Returns all rules in order of precedence.
    pub fn all_rules(&self) -> Vec<&CheckedRule> {
        let mut rules: Vec<&CheckedRule> = self.names.values().collect();
        rules.sort_by(|a, b| a.name().cmp_precedence(b.name()));
        rules
    }

    /// Returns the rules that only the earlier policy has, and those that only this one has. Costs no more than
    /// the change where one policy was made from the other by [`Policy::changed`].
    pub fn differing<'a>(&'a self, earlier: &'a Self) -> (Vec<&'a CheckedRule>, Vec<&'a CheckedRule>) {
        let keys = self.names.changed(&earlier.names, CheckedRule::is);
        let of = |policy: &'a Self| {
            let mut rules: Vec<&CheckedRule> = keys.iter().filter_map(|key| policy.names.get(*key)).collect();
            rules.sort_by(|a, b| a.name().cmp_precedence(b.name()));
            rules
        };
        (of(earlier), of(self))
    }

    /// Returns the rules that speak of the identity, in order of precedence, whatever the connection.
    /// Costs the rules whose `id` matches, however many others there are.
    pub fn rules_for(&self, id: &SpiffeId) -> Vec<&CheckedRule> {
        let (own, id) = (self.literal.get(id), &Segments::of(id));
        let mut rules = self.patterns.matching(id);
        if let Some(own) = own {
            rules.extend(&own.rules);
            rules.sort_by(|a, b| a.name().cmp_precedence(b.name()));
        }
        rules.retain(|rule| !rule.excepts(id));
        rules
    }

    /// Returns what the identity may do on any connection: without what rules allow for some client ids
    /// and listeners only.
    pub fn rights(&self, id: &SpiffeId) -> Arc<Rights> {
        self.rights_at(id, Context::default())
    }

    /// Returns what the identity may do on a connection. Who asks for many connections of one identity
    /// keeps its [`Policy::principal`].
    pub fn rights_at(&self, id: &SpiffeId, context: Context<'_>) -> Arc<Rights> {
        self.principal(id).rights(context)
    }

    /// Returns the identity with its rules, to be asked for the rights of each of its connections.
    pub fn principal(&self, id: &SpiffeId) -> Principal {
        Principal::new(self.epoch, id, &self.patterns, self.literal.get(id))
    }

    #[cfg(test)]
    pub(crate) fn shared_layers(&self) -> usize {
        self.patterns.shared_layers()
    }

    /// Returns which identities have other rights than under an earlier policy. Costs no more than the
    /// change where one policy was made from the other by [`Policy::changed`].
    pub fn touched_since(&self, earlier: &Self) -> Touched {
        let alike = |one: &Arc<Own>, two: &Arc<Own>| {
            let (ours, theirs) = (&one.rules, &two.rules);
            Arc::ptr_eq(one, two)
                || (ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.means_same_as(b)))
        };
        let mut ids: HashSet<SpiffeId> =
            self.literal.changed(&earlier.literal, alike).into_iter().cloned().collect();
        let mut rules = Vec::new();
        if !Arc::ptr_eq(&self.patterns, &earlier.patterns) {
            let (ours, theirs) = differing(self.patterns.rules(), earlier.patterns.rules());
            for (of, other) in [(ours, earlier), (theirs, self)] {
                let same = |rule: &CheckedRule| {
                    other.names.get(&RuleKey::of(rule.name())).is_some_and(|known| known.means_same_as(rule))
                };
                rules.extend(of.iter().filter(|rule| !same(rule)).cloned());
            }
        }
        for rule in self.overtaken_since(earlier) {
            match &rule.0.only {
                Some(id) => drop(ids.insert(id.clone())),
                None => rules.push(rule.clone()),
            }
        }
        Touched::new(ids, rules)
    }
}

impl Policy {
    /// Returns the rules that say the same as before and may come before or after others than before: in another
    /// file, or among rules of their file in another order. Which of two rules decides may have changed with it.
    fn overtaken_since<'a>(&'a self, earlier: &'a Self) -> Vec<&'a CheckedRule> {
        let place = |rule: &'a CheckedRule| match rule.name().source() {
            RuleSource::File { file, line } => Some((file, *line)),
            RuleSource::Entry | RuleSource::Cloud | RuleSource::Built => None,
        };
        let before = |rule: &CheckedRule| place(earlier.names.get(&RuleKey::of(rule.name()))?);
        let (mut moved, mut files) = (Vec::new(), BTreeSet::new());
        for rule in self.differing(earlier).1 {
            match (before(rule), place(rule)) {
                (Some((old, _)), Some((file, _))) if old == file => drop(files.insert(file)),
                (Some(_), Some(_)) => moved.push(rule),
                _ => {}
            }
        }
        if files.is_empty() {
            return moved;
        }
        // Also one that stands where it stood has been overtaken by one that went past it.
        let mut stayed: BTreeMap<&Arc<str>, Vec<(usize, &CheckedRule)>> = BTreeMap::new();
        for rule in self.all_rules() {
            if let (Some((old, line)), Some((file, _))) = (before(rule), place(rule))
                && old == file
                && files.contains(file)
            {
                stayed.entry(file).or_default().push((line, rule));
            }
        }
        let reordered = stayed.into_values().filter(|rules| !rules.is_sorted_by_key(|(line, _)| *line));
        moved.extend(reordered.flatten().map(|(_, rule)| rule));
        moved
    }
}

/// Leaves out the same rules at the beginning and at the end.
fn differing<'a>(one: &'a [CheckedRule], two: &'a [CheckedRule]) -> (&'a [CheckedRule], &'a [CheckedRule]) {
    let same = |(a, b): &(&CheckedRule, &CheckedRule)| a.is(b);
    let start = one.iter().zip(two).take_while(same).count();
    let (one, two) = (one.get(start..).unwrap_or_default(), two.get(start..).unwrap_or_default());
    let end = one.iter().rev().zip(two.iter().rev()).take_while(same).count();
    let kept = |rules: &'a [CheckedRule]| rules.get(..rules.len() - end).unwrap_or_default();
    (kept(one), kept(two))
}

/// Where names must not repeat. Rules from the cloud cannot make a local policy invalid by taking
/// its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum NameSpace {
    Files,
    Entries,
    Cloud,
    Built,
}

impl RuleKey {
    /// Returns the key of a rule.
    pub fn of(name: &RuleName) -> Self {
        let space = match name.source() {
            RuleSource::File { .. } => NameSpace::Files,
            RuleSource::Entry => NameSpace::Entries,
            RuleSource::Cloud => NameSpace::Cloud,
            RuleSource::Built => NameSpace::Built,
        };
        Self(space, Arc::clone(name.text()))
    }
}
