//! What a change of subscribe modes gives and takes, held against what the broker grants for every filter that there is.

use crate::config_of;
use crate::printed::{Filled, Request, alone, belongs, filled_in, filter, printed, request};
use crate::world::{ids, levels, matches, rules, topics};
use midge_identity::SpiffeId;
use midge_policy::{Extent, LISTENERS, Rights, Rule, SubscribeMode};
use midge_policy_tools::{Access, Diff, ModeChange, Modes, Ruleset, check_against};
use mqtt_proto::TopicName;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One policy for one identity, as the broker decides, each filter once.
struct Side<'a> {
    rights: Arc<Rights>,
    mode: SubscribeMode,
    request: Request,
    granted: BTreeMap<String, Option<Granted>>,
    topics: &'a [(String, Vec<String>)],
}

/// What a filter is granted at the quality of service that is asked for.
struct Granted {
    in_part: bool,
    /// By their levels.
    parts: Vec<Vec<String>>,
}

/// What brings a topic, of all filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Brought {
    /// One that is granted in part.
    in_part: bool,
    /// One that is granted, in part or as a whole.
    at_all: bool,
}

impl<'a> Side<'a> {
    fn new(
        rights: Arc<Rights>,
        modes: &Modes,
        request: Request,
        topics: &'a [(String, Vec<String>)],
    ) -> Self {
        Self { rights, mode: modes.on(request.listener), request, granted: BTreeMap::new(), topics }
    }

    fn granted(&mut self, text: String) -> Option<&Granted> {
        let Self { rights, mode, request, granted, .. } = self;
        let decide = |text: &String| {
            let filter = filter(text, *request);
            let permit = rights.subscribe(&filter, request.qos, mode.of(&filter)).ok()?;
            let parts = permit.parts().iter().filter(|part| part.qos() >= request.qos);
            let parts = parts.map(|part| levels(part.filter().as_str())).collect();
            Some(Granted { in_part: permit.extent() != Extent::Whole, parts })
        };
        if !granted.contains_key(&text) {
            let decided = decide(&text);
            granted.insert(text.clone(), decided);
        }
        granted.get(&text)?.as_ref()
    }

    fn brought(&mut self, at: usize) -> Brought {
        let (text, topic) = &self.topics[at];
        let name = TopicName::new(text).unwrap();
        let received = match self.request.group {
            Some(group) => self.rights.receive_shared(&name, group),
            None => self.rights.receive(&name),
        };
        let mut brought = Brought::default();
        if !received.is_ok_and(|permit| permit.qos() >= self.request.qos) {
            return brought;
        }
        for filter in matching(topic) {
            let Some(granted) = self.granted(filter) else { continue };
            if granted.parts.iter().any(|part| matches(part, topic)) {
                brought.at_all = true;
                brought.in_part |= granted.in_part;
            }
        }
        brought
    }
}

/// Returns every filter that matches a topic: each level spelled or `+`, and the last ones, or none, as `#`.
fn matching(topic: &[String]) -> Vec<String> {
    let is_system = topic[0].starts_with('$');
    let (mut starts, mut all) = (vec![String::new()], Vec::new());
    for (at, level) in topic.iter().enumerate() {
        if at > 0 || !is_system {
            all.extend(starts.iter().map(|start| format!("{start}#")));
        }
        let plus = (at > 0 || !is_system).then_some("+");
        let next = starts.iter().flat_map(|start| [Some(&**level), plus].map(|level| (start, level)));
        let next = next.filter_map(|(start, level)| Some(format!("{start}{}/", level?)));
        starts = next.collect();
    }
    all.extend(starts.iter().map(|start| format!("{start}#")));
    all.extend(starts.iter().map(|start| start.strip_suffix('/').unwrap().to_owned()));
    all
}
/// Whether the diff has to say exactly what subscriptions bring that are granted in part. With rights to filters alone it
/// may say more: such a right grants as a whole what others grant in part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Exactly,
    WhatCounts,
}

/// Compares what listeners make of subscriptions that are allowed in part.
fn compare(policies: [(&[Rule], Modes); 2], some: &[SpiffeId], request: Request, wanted: Told) {
    let rules = |(rules, modes): &(&[Rule], Modes)| Ruleset::new(rules.to_vec()).unwrap().with_modes(*modes);
    let [old, new] = &policies.each_ref().map(rules);
    let kinds = Diff::between(old, new).unwrap().kinds();
    let gained = kinds.iter().flat_map(|kind| &kind.changes).filter(|change| change.gained).count();
    let findings = check_against(new, old).unwrap();
    assert_eq!(findings.iter().filter(|finding| finding.code == "wider-than-reference").count(), gained);
    let changed: Vec<&str> = ModeChange::between(old, new).iter().map(|change| change.listener).collect();
    let [was, is] = policies.each_ref().map(|(_, modes)| modes.on(request.listener));
    let differs = was != is;
    assert_eq!(changed.contains(&request.listener), differs);
    let all: Vec<_> = topics(3).into_iter().map(|text| (text.clone(), levels(&text))).collect();
    for id in some {
        let own = kinds.iter().filter(|kind| belongs(kind, id));
        let changes: Vec<Filled> = own.flat_map(|kind| filled_in(kind, id, request)).collect();
        let alone = filled_in(&alone(old, new, id), id, request);
        let side = |rules: &Ruleset, modes| {
            Side::new(rules.policy().rights_at(id, request.context()), modes, request, &all)
        };
        let mut sides = [side(old, &policies[0].1), side(new, &policies[1].1)];
        for (at, (text, topic)) in all.iter().enumerate() {
            let [before, after] = sides.each_mut().map(|side| side.brought(at));
            for told in [&changes, &alone] {
                let said = printed(told, Access::SubscribePart, topic);
                let truth = (differs && before.in_part != after.in_part).then_some(after.in_part);
                assert!(
                    wanted != Told::Exactly || said == truth,
                    "{id} {text} {said:?} {truth:?} {kinds:#?}"
                );
                let is_silent = differs && before.at_all != after.at_all && !says(told, after.at_all, topic);
                assert!(!is_silent, "{id} {text} {before:?} {after:?} {kinds:#?}");
            }
        }
    }
}

/// Tells whether a change says of a topic that more or less of it is brought.
fn says(told: &[Filled], gained: bool, topic: &[String]) -> bool {
    told.iter().any(|(is_gained, access, filter, except)| {
        *is_gained == gained
            && *access != Access::Publish
            && matches(filter, topic)
            && !except.iter().any(|except| matches(except, topic))
    })
}

/// A mode for each listener.
fn modes() -> impl Strategy<Value = Modes> {
    let mode = proptest::sample::select(SubscribeMode::ALL.to_vec());
    proptest::array::uniform5(mode).prop_map(|modes| {
        let at = |name: &str| LISTENERS.iter().position(|known| *known == name).unwrap();
        Modes::by_name(|name| modes[at(name)])
    })
}

fn without_literals(rules: &[Rule]) -> Vec<Rule> {
    let without = |rule: &Rule| Rule {
        subscribe_literal: Vec::new(),
        deny_subscribe_literal: Vec::new(),
        ..rule.clone()
    };
    let rules = rules.iter().map(without).filter(|rule| rule.check().is_ok());
    rules.collect()
}

proptest! {
    #![proptest_config(config_of(100))]

    #[test]
    fn what_a_mode_changes_is_told_exactly(
        (old, new) in (rules(3), rules(3)),
        is_same in any::<bool>(),
        some in proptest::sample::subsequence(ids(), 2),
        modes in (modes(), modes()),
        request in request(),
    ) {
        let new = if is_same { &old } else { &new };
        let (old, new) = (without_literals(&old), without_literals(new));
        compare([(&old, modes.0), (&new, modes.1)], &some, request, Told::Exactly);
    }

    #[test]
    fn with_rights_to_filters_nothing_that_a_mode_changes_stays_unsaid(
        (old, new) in (rules(3), rules(3)),
        is_same in any::<bool>(),
        some in proptest::sample::subsequence(ids(), 2),
        modes in (modes(), modes()),
        request in request(),
    ) {
        let new = if is_same { &old } else { &new };
        compare([(&old, modes.0), (new, modes.1)], &some, request, Told::WhatCounts);
    }
}
