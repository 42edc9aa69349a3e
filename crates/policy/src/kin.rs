//! Rules that speak of the same identities, but for what each makes a condition.

use crate::CheckedRule;
use crate::layer::{HeldRule, Layer};
use std::collections::HashMap;
use std::sync::Arc;

/// So many rules that hold for the same identities and connections are compiled together with the policy, once for all of
/// whom they speak. Fewer are compiled with others for an identity.
const MANY: usize = 16;

/// Rules with the same pattern of identities, by their places.
#[derive(Debug, Default)]
pub(crate) struct Kin {
    /// Each has its condition to be looked at.
    pub(crate) few: Vec<u32>,
    pub(crate) many: Box<[Many]>,
}

/// Many rules that make the same condition.
#[derive(Debug)]
pub(crate) struct Many {
    places: Box<[u32]>,
    pub(crate) layer: Arc<Layer>,
}

impl Many {
    /// Any of the rules: whatever makes it hold makes all of them hold.
    pub(crate) fn example(&self) -> Option<&CheckedRule> {
        self.layer.rules.first().map(|held| &held.rule)
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = u32> {
        self.places.iter().copied()
    }
}

impl Kin {
    /// Adds a rule that comes after all others.
    pub(crate) fn push(&mut self, place: u32) {
        self.few.push(place);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_empty()
    }

    /// Returns the places of all rules.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> {
        self.few.iter().copied().chain(self.many.iter().flat_map(Many::places))
    }

    /// Compiles what are many, but for those that are compiled already.
    pub(crate) fn compile(&mut self, rules: &[CheckedRule], earlier: Option<&Self>) {
        if self.few.len() < MANY {
            return;
        }
        let mut alike: HashMap<_, Vec<(u32, &CheckedRule)>> = HashMap::new();
        let placed = self.few.iter().filter_map(|place| Some((*place, rules.get(*place as usize)?)));
        placed.for_each(|(place, rule)| alike.entry(rule.condition()).or_default().push((place, rule)));
        let (mut few, mut many) = (Vec::new(), Vec::new());
        for alike in alike.into_values() {
            if alike.len() < MANY {
                few.extend(alike.into_iter().map(|(place, _)| place));
                continue;
            }
            let held: Box<[HeldRule]> = alike.iter().map(|(_, rule)| HeldRule::new(rule, true)).collect();
            let known = earlier.and_then(|earlier| earlier.layer_of(&held));
            let layer = known.unwrap_or_else(|| Arc::new(Layer::of(held)));
            many.push(Many { places: alike.into_iter().map(|(place, _)| place).collect(), layer });
        }
        few.sort_unstable();
        few.shrink_to_fit();
        // In an order that does not depend on hashes.
        many.sort_by_key(|many| many.places.first().copied());
        (self.few, self.many) = (few, many.into());
    }

    /// Returns the layer that has just these rules.
    fn layer_of(&self, held: &[HeldRule]) -> Option<Arc<Layer>> {
        let same = |many: &&Many| {
            let known = &many.layer.rules;
            known.len() == held.len() && known.iter().zip(held).all(|(one, other)| one.is(other))
        };
        self.many.iter().find(same).map(|many| Arc::clone(&many.layer))
    }
}
