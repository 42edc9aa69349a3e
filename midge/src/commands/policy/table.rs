//! Answers as people read them.

use crate::output;
use midge_policy::Extent;
use midge_policy_tools::{
    Answer, Considered, Decision, Explanation, LeftOut, Outcome, Part, QuotaSaid, Way, WhoKind,
};
use std::collections::BTreeSet;
use std::path::Path;

/// What is listed for people; programs get all.
const LISTED: usize = 20;

/// The answer of `can`.
pub(super) fn answer(answer: &Answer) {
    let told = |decision: &Decision| {
        let word = match (decision.allowed, decision.in_part) {
            (false, _) => "no".to_owned(),
            (true, false) => "yes".to_owned(),
            (true, true) => format!("yes, in part{}", mode(decision)),
        };
        format!("{word}: {}", decision.reason)
    };
    output::line(told(&answer.decision));
    for verdict in &answer.by_listener {
        output::line(format_args!("  {}: {}", verdict.listeners.join(", "), told(&verdict.decision)));
    }
}

/// Names the mode where it makes a difference.
fn mode(decision: &Decision) -> String {
    let counts = decision.extent != Some(Extent::Whole);
    let mode = decision.mode.filter(|_| counts);
    mode.map(|mode| format!(" (mode {})", mode.name())).unwrap_or_default()
}

/// Describes a decision in fields.
fn decided(decision: &Decision) -> Vec<(&'static str, String)> {
    let word = format!("{}{}", decision.word(), mode(decision));
    let mut fields = vec![("Decision", word), ("Because", decision.reason.clone())];
    if let Some(why) = &decision.not_whole {
        fields.push(("Not all", why.clone()));
    }
    if let Some(qos) = decision.granted_qos {
        fields.push(("Granted QoS", qos.to_string()));
    }
    let rates = decision.rates.iter().map(ToString::to_string).enumerate();
    fields.extend(rates.map(|(at, rate)| (if at == 0 { "Rate" } else { "or" }, rate)));
    if decision.extent == Some(Extent::Narrowed) {
        let part = |part: &Part| {
            let filtered = if part.filtered { ", filtered" } else { "" };
            format!("{} at qos {}{filtered}", part.filter, part.qos)
        };
        let listed = decision.parts.iter().map(part).enumerate();
        fields.extend(listed.map(|(at, part)| (if at == 0 { "Stands for" } else { "" }, part)));
    }
    fields.extend(decision.left_out.iter().take(LISTED).map(|left_out| {
        let LeftOut { filter, list, rule, place } = left_out;
        ("Left out", format!("{filter} by {list} of rule `{rule}` ({place})"))
    }));
    if let Some(more @ 1..) = decision.left_out.len().checked_sub(LISTED) {
        fields.push(("Left out", format!("and {more} more (--output json lists all)")));
    }
    fields
}

pub(super) fn explanation(explanation: &Explanation) {
    let mut fields = vec![("Identity", explanation.id.clone()), ("Request", explanation.request.clone())];
    match explanation.answer.by_listener.as_slice() {
        [] => fields.extend(decided(&explanation.answer.decision)),
        _ => fields.push(("Decision", explanation.answer.decision.reason.clone())),
    }
    if !explanation.quotas.is_empty() {
        let said = |said: &QuotaSaid| {
            let QuotaSaid { quota, max, rule, place, listeners } = said;
            let on = if listeners.is_empty() { "" } else { " on " };
            format!("{quota} = {max}{on}{} by `{rule}` ({place})", listeners.join(", "))
        };
        let quotas = explanation.quotas.iter().map(said).enumerate();
        fields.extend(quotas.map(|(at, quota)| (if at == 0 { "Quotas" } else { "" }, quota)));
    }
    output::fields(&fields);
    for verdict in &explanation.answer.by_listener {
        output::line("");
        let mut fields = vec![("On listener", verdict.listeners.join(", "))];
        fields.extend(decided(&verdict.decision));
        output::fields(&fields);
    }
    output::line("");
    let rows: Vec<Vec<String>> = explanation.considered.iter().flat_map(rows).collect();
    if rows.is_empty() {
        output::line("No rule speaks of this identity.");
    } else {
        output::table(&["RULE", "PLACE", "CAPTURES", "SAYS"], &rows);
    }
    output::line("");
    output::line(format_args!("{} more rules speak of other identities.", explanation.others));
    output::line("Order of precedence:");
    for (number, text) in (1..).zip(&explanation.precedence) {
        output::line(format_args!("  {number}. {text}"));
    }
}

fn rows(considered: &Considered) -> Vec<Vec<String>> {
    let mut says = Vec::new();
    if let Some(pattern) = &considered.excepted_by {
        says.push(format!("nothing: unless {pattern}"));
    }
    for said in &considered.patterns {
        let filled = if said.pattern == said.filter { String::new() } else { format!(" = {}", said.filter) };
        let part = if said.whole { "" } else { " (in part)" };
        says.push(format!("{} {}{filled}{part}", said.list, said.pattern));
    }
    if !considered.only_on.is_empty() && considered.excepted_by.is_none() {
        says.push(format!("holds on listener {} only", considered.only_on.join(", ")));
    }
    if let Some(unmet) = &considered.unmet {
        says.push(format!("allows nothing here: {unmet} is not met"));
    }
    if says.is_empty() {
        says.push("nothing about this".into());
    }
    let captures = considered.captures.join(", ");
    let first = [considered.rule.clone(), considered.place.clone(), captures];
    let more = std::iter::repeat([const { String::new() }; 3]);
    std::iter::once(first)
        .chain(more)
        .zip(says)
        .map(|(start, said)| start.into_iter().chain([said]).collect())
        .collect()
}

pub(super) fn who(kinds: &[WhoKind], registered: &[(String, Way)], asked: usize) {
    if kinds.is_empty() && registered.is_empty() {
        return output::line("nobody");
    }
    let except = |kind: &WhoKind| match kind.except.as_slice() {
        [] => String::new(),
        [first] => first.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    let row =
        |kind: &WhoKind| vec![kind.id.clone(), kind.way.rules.join(", "), limits(&kind.way), except(kind)];
    output::table(&["ID PATTERN", "BY RULE", "ONLY", "EXCEPT"], &kinds.iter().map(row).collect::<Vec<_>>());
    if asked > 0 {
        output::line("");
        let ids: BTreeSet<&String> = registered.iter().map(|(id, _)| id).collect();
        output::line(format_args!("{} of {asked} known identities:", ids.len()));
        let row = |(id, way): &(String, Way)| vec![id.clone(), way.rules.join(", "), limits(way)];
        output::table(&["SPIFFE ID", "BY RULE", "ONLY"], &registered.iter().map(row).collect::<Vec<_>>());
    }
}

/// Says on which listeners it is, and how much of it.
fn limits(way: &Way) -> String {
    let part = way.in_part.then(|| "in part".to_owned());
    let listeners = (!way.listeners.is_empty()).then(|| format!("on {}", way.listeners.join(", ")));
    part.into_iter().chain(listeners).collect::<Vec<_>>().join(" ")
}

pub(super) fn outcomes(path: &Path, outcomes: &[Outcome], failed: usize) {
    let row = |outcome: &Outcome| {
        let result = if outcome.ok { "ok" } else { "FAILED" };
        let Explanation { id, request, .. } = &outcome.explanation;
        vec![
            result.into(),
            outcome.line.to_string(),
            outcome.expected.name().into(),
            id.clone(),
            request.clone(),
        ]
    };
    output::table(
        &["RESULT", "LINE", "EXPECTED", "SPIFFE ID", "REQUEST"],
        &outcomes.iter().map(row).collect::<Vec<_>>(),
    );
    for outcome in outcomes.iter().filter(|outcome| !outcome.ok) {
        output::line("");
        let mismatch = outcome.mismatch.as_deref().unwrap_or_default();
        output::line(format_args!("{}:{}: {mismatch}", path.display(), outcome.line));
        explanation(&outcome.explanation);
    }
    output::line("");
    output::line(format_args!("{} cases, {failed} failed", outcomes.len()));
}
