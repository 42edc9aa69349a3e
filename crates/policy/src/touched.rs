//! Whose rights a change of policy touches.

use crate::CheckedRule;
use crate::index::RuleIndex;
use crate::segments::Segments;
use midge_identity::SpiffeId;
use std::collections::HashSet;

/// The identities whose rights are not the same under two policies, or might not be: those that a
/// rule speaks of which only one of them has, or which may come before or after others than before.
#[derive(Debug)]
pub struct Touched {
    ids: HashSet<SpiffeId>,
    rules: RuleIndex,
}

impl Touched {
    pub(crate) fn new(ids: HashSet<SpiffeId>, rules: Vec<CheckedRule>) -> Self {
        Self { ids, rules: RuleIndex::of(rules) }
    }

    /// Tells whether no identity is touched.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && !self.has_patterns()
    }

    /// Tells whether identities beyond those of [`Touched::ids`] may be touched.
    pub fn has_patterns(&self) -> bool {
        !self.rules.rules().is_empty()
    }

    /// The identities that changed rules name in full.
    pub fn ids(&self) -> impl Iterator<Item = &SpiffeId> {
        self.ids.iter()
    }

    /// Tells whether the identity is touched. Costs the changed rules that match it.
    pub fn touches(&self, id: &SpiffeId) -> bool {
        if self.ids.contains(id) {
            return true;
        }
        let id = &Segments::of(id);
        self.rules.matching(id).into_iter().any(|rule| !rule.excepts(id))
    }
}
