//! Answers as people read them.

use crate::output;
use midge_policy_tools::{Considered, Explanation, Outcome, QuotaSaid, WhoKind};
use std::path::Path;

pub(super) fn explanation(explanation: &Explanation) {
    let word = if explanation.allowed { "allowed" } else { "denied" };
    let mut fields = vec![
        ("Identity", explanation.id.clone()),
        ("Request", explanation.request.clone()),
        ("Decision", word.to_owned()),
        ("Because", explanation.reason.clone()),
    ];
    if let Some(qos) = explanation.granted_qos {
        fields.push(("Granted QoS", qos.to_string()));
    }
    if explanation.filtered {
        fields.push(("Deliveries", "some topics under the filter are left out".into()));
    }
    if !explanation.quotas.is_empty() {
        let said =
            |said: &QuotaSaid| format!("{} = {} by `{}` ({})", said.quota, said.max, said.rule, said.place);
        let quotas: Vec<String> = explanation.quotas.iter().map(said).collect();
        fields.push(("Quotas", quotas.join(", ")));
    }
    output::fields(&fields);
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

pub(super) fn who(kinds: &[WhoKind], registered: &[(String, String)], asked: usize) {
    if kinds.is_empty() && registered.is_empty() {
        return output::line("nobody");
    }
    let rows: Vec<Vec<String>> = kinds
        .iter()
        .map(|kind| {
            let except = match kind.except.as_slice() {
                [] => String::new(),
                [first] => first.clone(),
                [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            };
            vec![kind.id.clone(), kind.rules.join(", "), except]
        })
        .collect();
    output::table(&["ID PATTERN", "BY RULE", "EXCEPT"], &rows);
    if asked > 0 {
        output::line("");
        output::line(format_args!("{} of {asked} known identities:", registered.len()));
        let rows: Vec<Vec<String>> =
            registered.iter().map(|(id, rule)| vec![id.clone(), rule.clone()]).collect();
        output::table(&["SPIFFE ID", "BY RULE"], &rows);
    }
}

pub(super) fn outcomes(path: &Path, outcomes: &[Outcome], failed: usize) {
    let row = |outcome: &Outcome| {
        let result = if outcome.ok { "ok" } else { "FAILED" };
        let Explanation { id, request, .. } = &outcome.explanation;
        vec![result.into(), outcome.line.to_string(), outcome.expected.into(), id.clone(), request.clone()]
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
