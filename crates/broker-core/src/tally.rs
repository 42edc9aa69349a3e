//! Counts by rule, for the record of a connection that ends.

use std::sync::Arc;

/// Rules told apart; a connection that is decided by more has the others counted together.
const RULES_MAX: usize = 32;
/// Stands for the others.
const OTHERS: &str = "*";

/// How often each rule decided something. One rule decides most of what a client sends, so counting costs one
/// compare on the hot path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleTally(Vec<(Arc<str>, u64)>);

impl RuleTally {
    /// Returns rules and counts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(rule, count)| (&**rule, *count))
    }

    pub(crate) fn count(&mut self, rule: &Arc<str>) {
        if let Some((first, count)) = self.0.first_mut()
            && Arc::ptr_eq(first, rule)
        {
            *count += 1;
            return;
        }
        // A policy that was replaced has the same names in other places.
        let known = self.0.iter().position(|(known, _)| known == rule);
        let others = || self.0.iter().position(|(known, _)| &**known == OTHERS);
        let at = known.or_else(|| if self.0.len() < RULES_MAX { None } else { others() });
        if let Some((name, count)) = at.and_then(|at| self.0.get_mut(at)) {
            *count += 1;
            if known.is_some() {
                *name = Arc::clone(rule);
            }
        } else {
            let has_room = self.0.len() < RULES_MAX;
            self.0.push((if has_room { Arc::clone(rule) } else { OTHERS.into() }, 1));
        }
        if let Some(at) = known {
            self.0.swap(0, at);
        }
    }

    pub(crate) fn count_text(&mut self, rule: &str) {
        match self.0.iter_mut().find(|(known, _)| &**known == rule) {
            Some((_, count)) => *count += 1,
            None => self.count(&rule.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(tally: &RuleTally) -> Vec<(String, u64)> {
        let mut counts: Vec<_> = tally.iter().map(|(rule, count)| (rule.to_owned(), count)).collect();
        counts.sort();
        counts
    }

    #[test]
    fn rules_are_told_apart_by_name_across_policies() {
        let mut tally = RuleTally::default();
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        for rule in [&a, &a, &b, &Arc::from("a"), &a] {
            tally.count(rule);
        }
        tally.count_text("b");
        tally.count_text("c");
        let expected = [("a", 4), ("b", 2), ("c", 1)].map(|(rule, count)| (rule.to_owned(), count));
        assert_eq!(counts(&tally), expected);
    }

    #[test]
    fn rules_beyond_the_limit_are_counted_together() {
        let mut tally = RuleTally::default();
        for round in 0..2 {
            for n in 0..100 {
                tally.count(&Arc::from(format!("rule {n} {round}").as_str()));
            }
        }
        assert_eq!(tally.iter().count(), RULES_MAX + 1);
        assert_eq!(tally.iter().find(|(rule, _)| *rule == OTHERS), Some((OTHERS, 200 - 32)));
        assert_eq!(tally.iter().map(|(_, count)| count).sum::<u64>(), 200);
    }
}
