//! What is idle in a policy by what its listeners make of subscriptions that are allowed in part.

use crate::check::{Finding, Severity, finding};
use crate::model::{Held, Ruleset};
use crate::modes::Modes;
use crate::overlap::{Level, Overlaps, covers, levels, uncut};
use midge_policy::{Effect, LISTENERS, NARROW_MAX, SubscribeMode};

/// Finds modes that make no difference, and what rules give that no subscription brings by the modes there are.
pub fn check_modes(rules: &Ruleset, modes: &Modes) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        LISTENERS.iter().filter_map(|name| idle_mode(rules, modes, name)).collect();
    let mut literals = Overlaps::default();
    let of_literal = rules.held().iter().flat_map(|held| &held.patterns);
    let of_literal = of_literal.filter(|pattern| pattern.effect == Effect::SubscribeLiteral);
    of_literal.for_each(|pattern| literals.insert(&levels(&pattern.text), ()));
    for held in rules.held() {
        findings.extend(idle_receive(modes, held, &literals));
        findings.extend(too_many_parts(modes, held));
    }
    findings
}

fn holds_on(held: &Held, listener: &str) -> bool {
    held.rule.listener.is_empty() || held.rule.listener.iter().any(|own| own == listener)
}

/// A mode that grants parts of what nobody may subscribe to.
fn idle_mode(rules: &Ruleset, modes: &Modes, listener: &str) -> Option<Finding> {
    let mode = modes.on(listener);
    let gives = |held: &Held| holds_on(held, listener) && held.has(|effect| effect == Effect::Subscribe);
    let is_idle = mode != SubscribeMode::Reject && !rules.held().iter().any(|held| gives(held));
    is_idle.then(|| Finding {
        severity: Severity::Note,
        code: "idle-mode",
        rule: String::new(),
        place: format!("[mqtt.subscribe-mode] {listener} = \"{}\"", mode.name()),
        message: format!(
            "no rule gives a right to subscribe on listener {listener}, of which a part could be granted"
        ),
        remedy: "leave the mode away, or check that rules for this listener are among the sources".into(),
    })
}

/// A right to receive counts for what a wider subscription brings: in mode `reject` there is none but by a right to a
/// filter alone.
fn idle_receive(modes: &Modes, held: &Held, literals: &Overlaps<()>) -> Vec<Finding> {
    let mut own = LISTENERS.iter().filter(|name| holds_on(held, name));
    if !own.all(|name| modes.on(name) == SubscribeMode::Reject) {
        return Vec::new();
    }
    let received = held.patterns.iter().filter(|pattern| pattern.effect == Effect::Receive);
    let idle = received.filter(|pattern| !literals.any(&levels(&pattern.text)));
    let told = |pattern: &crate::model::Pattern| {
        let message = format!(
            "receive \"{}\" brings nothing: no subscribe-literal has any of it, and mode reject grants no other \
             subscription to what is not in a subscribe",
            pattern.text
        );
        let remedy =
            "write subscribe instead, or grant a subscribe-literal that includes it, or set mode filter";
        finding(held, Severity::Note, "idle-receive", (message, remedy))
    };
    idle.map(told).collect()
}

/// A filter that would be narrowed to more parts than there may be is refused.
fn too_many_parts(modes: &Modes, held: &Held) -> Option<Finding> {
    let is_narrow = |name: &&&str| modes.on(name) == SubscribeMode::Narrow && holds_on(held, name);
    let listener = LISTENERS.iter().find(is_narrow)?;
    let rights = held.patterns.iter().filter(|pattern| pattern.effect == Effect::Subscribe);
    let rights: Vec<Vec<Level<'_>>> = rights.map(|pattern| uncut(&pattern.text).collect()).collect();
    let is_needless = |at: usize, one: &Vec<Level<'_>>| {
        let others = rights.iter().enumerate().filter(|(other, _)| *other != at);
        // Of two that are the same, the later one.
        others.into_iter().any(|(other, wide)| covers(wide, one) && (other < at || !covers(one, wide)))
    };
    let parts = rights.iter().enumerate().filter(|(at, one)| !is_needless(*at, one)).count();
    (parts > NARROW_MAX).then(|| {
        let message = format!(
            "mode narrow on listener {listener} refuses a subscription to `#`: it would be narrowed to {parts} filters, \
             and there may be {NARROW_MAX}"
        );
        finding(held, Severity::Note, "too-many-parts", (message, "give wider rights, or set mode filter"))
    })
}
