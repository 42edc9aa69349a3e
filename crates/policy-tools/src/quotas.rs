//! What policies say of quotas: how two of them differ, and which quotas others make needless.
//!
//! Quotas are compared as their rules say them, by the pattern of the identities; `own_quotas.rs` compares what holds
//! for one.

use crate::check::{Finding, Severity, finding};
use crate::explore::{Left, TooMuch};
use crate::model::{Held, Ruleset};
use crate::overlap::{Level, Overlaps, covers, levels, uncut};
use midge_policy::{Quantity, Quota, Rule};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A quota that two policies do not give alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaChange {
    /// Pattern of the identities.
    pub id: String,
    /// Patterns of identities that match it and do not have the quota.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Listeners that it holds on; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// Its key, such as `sessions`.
    pub quota: &'static str,
    /// What the old policy gives; no quota when absent.
    pub old: Option<usize>,
    /// What the new policy gives; no quota when absent.
    pub new: Option<usize>,
    /// Name of the rule that gives the new quota, or that gave the old one where there is none any more.
    pub rule: String,
}

impl fmt::Display for QuotaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |max: Option<usize>| max.map_or_else(|| "none".to_owned(), |max| max.to_string());
        write!(f, "quota {} = {} (was {})", self.quota, text(self.new), text(self.old))?;
        if !self.listeners.is_empty() {
            write!(f, " on {}", self.listeners.join(", "))?;
        }
        Ok(())
    }
}

/// Whom a quota is for, where, and of what.
type Key = (String, Vec<String>, Vec<String>, Quantity);

/// What holds, and the rule that says so.
type Max = (usize, String);

impl QuotaChange {
    /// Returns the quotas that two policies do not give alike, by the patterns of identities.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Vec<Self> {
        Self::between_rules(old.rules(), new.rules())
    }

    pub(crate) fn between_rules<'a>(
        old: impl Iterator<Item = &'a Rule>,
        new: impl Iterator<Item = &'a Rule>,
    ) -> Vec<Self> {
        Self::of(&said(old), &said(new))
    }

    /// Returns it with the identities that it is for, in one line.
    pub(crate) fn whole(&self) -> String {
        let except = if self.except.is_empty() { "" } else { " except " };
        format!("{}{except}{}: {self}", self.id, self.except.join(", "))
    }

    /// Tells whether it lets identities keep more than before.
    pub fn raises(&self) -> bool {
        self.old.is_some_and(|old| self.new.is_none_or(|new| new > old))
    }

    fn of(old: &BTreeMap<Key, Max>, new: &BTreeMap<Key, Max>) -> Vec<Self> {
        let mut keys: Vec<&Key> = old.keys().chain(new.keys()).collect();
        keys.sort();
        keys.dedup();
        let change = |key: &Key| {
            let (id, except, listeners, of) = key.clone();
            let (old, new) = (old.get(key), new.get(key));
            let rule = new.or(old).map(|(_, rule)| rule.clone()).unwrap_or_default();
            let max = |known: Option<&Max>| known.map(|(max, _)| *max);
            Self { id, except, listeners, quota: of.key(), old: max(old), new: max(new), rule }
        };
        keys.into_iter().map(change).filter(|change| change.old != change.new).collect()
    }
}

fn said<'a>(rules: impl Iterator<Item = &'a Rule>) -> BTreeMap<Key, Max> {
    let mut said: BTreeMap<Key, Max> = BTreeMap::new();
    for (rule, quota) in rules.filter_map(|rule| Some((rule, rule.quota?))) {
        let (id, except, listeners) = whom(rule);
        for (of, max) in limits(&quota) {
            let key = (id.clone(), except.clone(), listeners.clone(), of);
            if said.get(&key).is_none_or(|(known, _)| max < *known) {
                said.insert(key, (max, rule.name.clone()));
            }
        }
    }
    said
}

fn limits(quota: &Quota) -> impl Iterator<Item = (Quantity, usize)> {
    let max = |of| Some((of, usize::try_from(quota.of(of)?).unwrap_or(usize::MAX)));
    Quantity::ALL.into_iter().filter_map(max)
}

/// Returns whom a rule speaks of, written in one way where nothing depends on the names of captures.
fn whom(rule: &Rule) -> (String, Vec<String>, Vec<String>) {
    let (mut except, mut listeners) = (rule.unless.clone(), rule.listener.clone());
    let is_capture = |segment: &str| segment.starts_with('{');
    let plain = |segment| if is_capture(segment) { "*" } else { segment };
    let id = if except.iter().any(|unless| unless.split('/').any(is_capture)) {
        rule.id.clone()
    } else {
        rule.id.split('/').map(plain).collect::<Vec<_>>().join("/")
    };
    except.sort();
    listeners.sort();
    (id, except, listeners)
}

/// The quotas that hold for everyone their `id` matches.
pub(crate) struct Quotas<'a> {
    rules: &'a [Arc<Held>],
    by_id: Overlaps<usize>,
}

impl<'a> Quotas<'a> {
    pub(crate) fn of(rules: &'a Ruleset) -> Self {
        let mut by_id = Overlaps::default();
        for (at, held) in rules.held().iter().enumerate() {
            if held.rule.quota.is_some() && held.rule.unless.is_empty() {
                by_id.insert(&levels(&held.rule.id), at);
            }
        }
        Self { rules: rules.held(), by_id }
    }

    /// Tells whether everyone of whom a changed quota speaks has one that is no greater than the old one.
    pub(crate) fn still_hold(&self, change: &QuotaChange, left: &mut Left) -> Result<bool, TooMuch> {
        let (places, steps) = self.by_id.of(&levels(&change.id));
        left.take_steps(steps)?;
        let own: Vec<Level<'_>> = uncut(&change.id).collect();
        Ok(places.into_iter().filter_map(|at| self.rules.get(at)).any(|held| {
            let Rule { id, listener, quota, .. } = &held.rule;
            let mut limits = quota.iter().flat_map(limits);
            (listener.is_empty() || *listener == change.listeners)
                && covers(&uncut(id).collect::<Vec<_>>(), &own)
                && limits.any(|(of, max)| of.key() == change.quota && Some(max) <= change.old)
        }))
    }

    /// Finds the quotas of a rule that a smaller one hides, or one as small before it.
    pub(crate) fn hidden(&self, held: &Arc<Held>, left: &mut Left) -> Result<Vec<Finding>, TooMuch> {
        let Some(quota) = held.rule.quota else { return Ok(Vec::new()) };
        let (places, steps) = self.by_id.of(&levels(&held.rule.id));
        left.take_steps(steps)?;
        let own: Vec<Level<'_>> = uncut(&held.rule.id).collect();
        let is_wider = |other: &&Arc<Held>| {
            let listeners = &other.rule.listener;
            !Arc::ptr_eq(other, held)
                && (listeners.is_empty() || *listeners == held.rule.listener)
                && covers(&uncut(&other.rule.id).collect::<Vec<_>>(), &own)
        };
        let wider: Vec<&Arc<Held>> =
            places.into_iter().filter_map(|at| self.rules.get(at)).filter(is_wider).collect();
        let mut findings = Vec::new();
        for (of, max) in limits(&quota) {
            let hides = |other: &&&Arc<Held>| {
                let is_before = other.checked.name().cmp_precedence(held.checked.name()).is_lt();
                let others = other.rule.quota.iter().flat_map(limits).find(|(known, _)| *known == of);
                others.is_some_and(|(_, other)| other < max || (other == max && is_before))
            };
            if let Some(other) = wider.iter().find(hides) {
                let (name, key) = (other.checked.name(), of.key());
                findings.push(finding(
                    held,
                    Severity::Note,
                    "idle-quota",
                    (
                        format!(
                            "quota: {key} = {max} never holds: {name} gives its identities no more anyway"
                        ),
                        "remove it, or give less",
                    ),
                ));
            }
        }
        Ok(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    fn rule(name: &str, id: &str, more: &str) -> String {
        format!("[[rule]]\nname = \"{name}\"\nid = \"spiffe://{id}\"\n{more}\n")
    }

    fn ruleset(text: &str) -> Ruleset {
        Ruleset::new(Rule::from_toml_str(text, "p.toml").unwrap()).unwrap()
    }

    fn changes(old: &str, new: &str) -> Vec<String> {
        let changes = QuotaChange::between(&ruleset(old), &ruleset(new));
        changes.iter().map(|change| format!("{}: {change}", change.id)).collect()
    }

    #[test]
    fn quotas_that_differ_are_told_however_their_rules_are_called() {
        let old = rule("a", "{td}/app/{x}", "quota = { sessions = 2, queue-bytes = 5 }");
        let same = rule("b", "*/app/*", "publish = [\"t\"]\nquota = { sessions = 3, queue-bytes = 5 }")
            + &rule("c", "*/app/{y}", "quota = { sessions = 2 }");
        assert_eq!(changes(&old, &same), [""; 0]);
        assert_eq!(
            changes(&old, &rule("a", "{td}/app/{x}", "quota = { sessions = 4, subscriptions = 1 }")),
            [
                "spiffe://*/app/*: quota sessions = 4 (was 2)",
                "spiffe://*/app/*: quota subscriptions = 1 (was none)",
                "spiffe://*/app/*: quota queue-bytes = none (was 5)",
            ]
        );
        let with = |unless: &str| {
            let unless =
                format!("unless = \"spiffe://{unless}\"\nlistener = \"tls\"\nquota = {{ sessions = 2 }}");
            rule("a", "{td}/{x}", &unless)
        };
        assert_eq!(changes(&with("{td}/{x}"), &with("{td}/{x}")), [""; 0]);
        assert_eq!(
            changes(&with("td/a"), &with("td/b")),
            [
                "spiffe://*/*: quota sessions = none (was 2) on tls",
                "spiffe://*/*: quota sessions = 2 (was none) on tls"
            ]
        );
    }

    #[test]
    fn a_quota_above_the_reference_is_found_with_its_rule() {
        let found = |reference: &str, rules: &str| {
            let found = crate::check_against(&ruleset(rules), &ruleset(reference)).unwrap();
            found.into_iter().map(|found| (found.code, found.rule, found.message)).collect::<Vec<_>>()
        };
        let quota =
            |name: &str, id: &str, max: usize| rule(name, id, &format!("quota = {{ sessions = {max} }}"));
        let told = |rule: &str, message: &str| vec![("quota-above-reference", rule.into(), message.into())];
        let two = quota("a", "td/*", 2);
        assert_eq!(
            found(&two, &quota("b", "td/*", 3)),
            told("b", "spiffe://td/*: quota sessions = 3 (was 2)")
        );
        let other = rule("b", "td/*", "publish = [\"t\"]") + &two;
        let none = rule("b", "td/*", "publish = [\"t\"]");
        assert_eq!(found(&other, &none), told("a", "spiffe://td/*: quota sessions = none (was 2)"));
        // Less, the same by another rule, one for more identities, and one that was not there.
        for rules in [quota("b", "td/*", 1), quota("b", "td/*", 2), quota("b", "*/**", 2)] {
            assert_eq!(found(&two, &rules), []);
        }
        assert_eq!(found(&none, &other), []);
        // One for fewer is not enough.
        let fewer = quota("b", "td/x", 1);
        assert_eq!(found(&two, &fewer), told("a", "spiffe://td/*: quota sessions = none (was 2)"));
    }

    #[test]
    fn a_quota_that_never_holds_is_found() {
        let hidden = |wide: (&str, &str), narrow: (&str, &str)| {
            let text = rule("wide", wide.0, wide.1) + &rule("narrow", narrow.0, narrow.1);
            let found = check(&ruleset(&text)).unwrap();
            found.into_iter().map(|found| (found.code, found.rule)).collect::<Vec<_>>()
        };
        let one = |max: u32| format!("quota = {{ sessions = {max} }}");
        let (two, three) = (one(2), one(3));
        for (wide, narrow) in
            [("*/**", "td/**"), ("td/{x}/**", "td/a/*/b"), ("{td}/*", "*/a"), ("td/a/**", "td/a")]
        {
            let found = hidden((wide, &two), (narrow, &three));
            assert_eq!(found, [("idle-quota", "narrow".to_owned())], "{wide} {narrow}");
            assert_eq!(hidden((wide, &three), (narrow, &two)), [], "{wide} {narrow}");
        }
        for (wide, narrow) in [("td/*", "td/**"), ("td/a/**", "td/*"), ("td/a", "td/b"), ("td/a/*", "td/a")] {
            assert_eq!(hidden((wide, &two), (narrow, &three)), [], "{wide} {narrow}");
        }
        // Of the same, the later one; but another of the rule, or one that does not hold everywhere, hides nothing.
        assert_eq!(hidden(("td/*", &two), ("td/a", &two)), [("idle-quota", "narrow".to_owned())]);
        let elsewhere = format!("listener = \"unix\"\n{two}");
        assert_eq!(hidden(("td/*", &elsewhere), ("td/a", &three)), []);
        let except = format!("unless = \"spiffe://td/a\"\n{two}");
        assert_eq!(hidden(("td/*", &except), ("td/*", &three)), []);
        let other = "quota = { subscriptions = 1, sessions = 4 }";
        assert_eq!(hidden(("td/*", other), ("td/a", &three)), []);
        let deep = format!("td/{}", ["a"; 20].join("/"));
        assert_eq!(hidden((&format!("{deep}/b"), &two), (&format!("{deep}/c"), &three)), []);
    }
}
