//! The quotas of one identity, on each listener that its connections may come by.

use crate::model::Ruleset;
use crate::quotas::QuotaChange;
use crate::request::Request;
use midge_identity::SpiffeId;
use midge_policy::{Context, LISTENERS, Quantity, RuleName};
use serde::Serialize;

/// A quota that holds, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaSaid {
    /// Its key, such as `sessions`.
    pub quota: &'static str,
    /// How much there may be.
    pub max: usize,
    /// The only listeners that it holds on; empty where it holds on each that the request may come by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// Name of the rule.
    pub rule: String,
    /// Where the rule stands.
    pub place: String,
}

impl QuotaSaid {
    /// Returns the quotas of the identity that hold for the request, listener by listener where they differ.
    pub(crate) fn of(rules: &Ruleset, id: &SpiffeId, request: &Request) -> Vec<Self> {
        let listeners = request.listener.as_deref().map_or_else(|| LISTENERS.to_vec(), |one| vec![one]);
        let held: Vec<(&str, Quotas)> =
            listeners.into_iter().map(|listener| (listener, quotas(rules, id, listener))).collect();
        let of_one = |of| {
            let held = held.iter().map(move |(listener, held)| (*listener, max(held, of)));
            alike(held).into_iter().filter_map(move |(max, listeners)| {
                let (max, name) = max?;
                let (rule, place) = (name.text().to_string(), name.source().to_string());
                Some(Self { quota: Quantity::key(of), max, listeners, rule, place })
            })
        };
        Quantity::ALL.into_iter().flat_map(of_one).collect()
    }
}

impl QuotaChange {
    /// Returns the quotas that hold for one identity under one policy and not under the other, listener by listener
    /// where they differ.
    pub fn for_identity(old: &Ruleset, new: &Ruleset, id: &SpiffeId) -> Vec<Self> {
        let held = LISTENERS.map(|listener| (listener, quotas(old, id, listener), quotas(new, id, listener)));
        let limit = |max: Option<(usize, &RuleName)>| max.map(|(max, _)| max);
        let mut found = Vec::new();
        for of in Quantity::ALL {
            let both = |(_, old, new): &(&str, Quotas, Quotas)| (limit(max(old, of)), limit(max(new, of)));
            for ((was, is), listeners) in alike(held.iter().map(|held| (held.0, both(held)))) {
                let first = held.iter().find(|held| both(held) == (was, is));
                let rule = first.and_then(|(_, old, new)| max(new, of).or_else(|| max(old, of)));
                let rule = rule.map(|(_, name)| name.text().to_string()).unwrap_or_default();
                let (id, except, quota) = (id.to_string(), Vec::new(), of.key());
                found.push(Self { id, except, listeners, quota, old: was, new: is, rule });
            }
        }
        found.retain(|change| change.old != change.new);
        found
    }
}

type Quotas = Vec<(Quantity, usize, RuleName)>;

fn quotas(rules: &Ruleset, id: &SpiffeId, listener: &str) -> Quotas {
    // No quota depends on a client id.
    let rights = rules.policy().rights_at(id, Context { listener: Some(listener), ..Context::default() });
    rights.quotas().map(|(of, max, rule)| (of, max, rule.clone())).collect()
}

fn max(held: &Quotas, of: Quantity) -> Option<(usize, &RuleName)> {
    held.iter().find(|(known, ..)| *known == of).map(|(_, max, name)| (*max, name))
}

/// Puts listeners together for which the same holds; names none where it does for all of them.
fn alike<'a, T: PartialEq>(all: impl Iterator<Item = (&'a str, T)>) -> Vec<(T, Vec<String>)> {
    let mut found: Vec<(T, Vec<String>)> = Vec::new();
    for (listener, what) in all {
        match found.iter_mut().find(|(known, _)| *known == what) {
            Some((_, listeners)) => listeners.push(listener.to_owned()),
            None => found.push((what, vec![listener.to_owned()])),
        }
    }
    if let [(_, listeners)] = found.as_mut_slice() {
        listeners.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Verb;
    use midge_policy::Rule;

    fn rule(name: &str, id: &str, more: &str) -> String {
        format!("[[rule]]\nname = \"{name}\"\nid = \"spiffe://{id}\"\n{more}\n")
    }

    fn ruleset(text: &str) -> Ruleset {
        Ruleset::new(Rule::from_toml_str(text, "p.toml").unwrap()).unwrap()
    }

    fn app() -> SpiffeId {
        SpiffeId::new("spiffe://td/app").unwrap()
    }

    fn by_listener() -> String {
        rule("all", "td/**", "quota = { sessions = 5, subscriptions = 7 }")
            + &rule("wires", "td/app", "listener = [\"tls\", \"websocket-tls\"]\nquota = { sessions = 2 }")
            + &rule("unix", "td/app", "listener = \"unix\"\nquota = { sessions = 9, queue-bytes = 1 }")
    }

    fn said(rules: &Ruleset, listener: Option<&str>) -> Vec<String> {
        let request = Request::new(Verb::Publish, "t").unwrap();
        let request = Request { listener: listener.map(str::to_owned), ..request };
        let text = |said: &QuotaSaid| {
            format!("{} = {} by {} on {}", said.quota, said.max, said.rule, said.listeners.join(","))
        };
        QuotaSaid::of(rules, &app(), &request).iter().map(text).collect()
    }

    #[test]
    fn a_quota_of_some_listeners_is_told_of_them_alone() {
        let rules = ruleset(&by_listener());
        assert_eq!(
            said(&rules, None),
            [
                "sessions = 2 by wires on tls,websocket-tls",
                "sessions = 5 by all on tcp,unix,websocket-loopback",
                "subscriptions = 7 by all on ",
                "queue-bytes = 1 by unix on unix",
            ]
        );
        assert_eq!(said(&rules, Some("tls")), ["sessions = 2 by wires on ", "subscriptions = 7 by all on "]);
        assert_eq!(said(&rules, Some("tcp")), ["sessions = 5 by all on ", "subscriptions = 7 by all on "]);
    }

    #[test]
    fn what_holds_for_one_identity_is_the_smallest() {
        let old = rule("a", "td/**", "quota = { sessions = 2 }");
        let new = old.clone() + &rule("b", "td/app", "quota = { sessions = 1, subscriptions = 9 }");
        let changes = |id: &str| {
            let id = SpiffeId::new(id).unwrap();
            let found = QuotaChange::for_identity(&ruleset(&old), &ruleset(&new), &id);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            changes("spiffe://td/app"),
            ["quota sessions = 1 (was 2)", "quota subscriptions = 9 (was none)"]
        );
        assert_eq!(changes("spiffe://td/other"), [""; 0]);
    }

    #[test]
    fn a_change_on_some_listeners_is_told_of_them_alone() {
        let old = rule("all", "td/**", "quota = { sessions = 5, subscriptions = 7 }");
        let changes = |old: &str, new: &str| {
            let found = QuotaChange::for_identity(&ruleset(old), &ruleset(new), &app());
            found.iter().map(|change| format!("{change} by {}", change.rule)).collect::<Vec<_>>()
        };
        assert_eq!(
            changes(&old, &by_listener()),
            [
                "quota sessions = 2 (was 5) on tls, websocket-tls by wires",
                "quota queue-bytes = 1 (was none) on unix by unix",
            ]
        );
        assert_eq!(
            changes(&by_listener(), &old),
            [
                "quota sessions = 5 (was 2) on tls, websocket-tls by all",
                "quota queue-bytes = none (was 1) on unix by unix",
            ]
        );
        assert_eq!(changes(&by_listener(), &by_listener()), [""; 0]);
    }
}
