//! Policy files: TOML in, checked rules out, every fault with its line.

use crate::{PolicyError, Problem, Rule, RuleSource};
use serde::Deserialize;
use std::sync::Arc;
use toml::de::DeTable;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    rule: Vec<toml::Spanned<Rule>>,
}

impl Rule {
    /// Reads the rules of one policy file and checks each of them.
    ///
    /// # Errors
    /// Every fault found, with file and line, when there is one.
    pub fn from_toml_str(text: &str, file: &str) -> Result<Vec<Self>, Vec<PolicyError>> {
        let file: Arc<str> = file.into();
        let ends = line_ends(text);
        let place = |at: usize| RuleSource::File { file: Arc::clone(&file), line: line_of(&ends, at) };
        let refused = |error: toml::de::Error| {
            let place = place(error.span().map_or(0, |span| span.start));
            vec![PolicyError { place, rule: None, problem: Problem::Syntax(error.message().to_owned()) }]
        };
        let parsed: RuleFile = toml::from_str(text).map_err(refused)?;
        let document = DeTable::parse(text).map_err(refused)?;
        let mut rules = Vec::with_capacity(parsed.rule.len());
        let mut errors = Vec::new();
        for (index, spanned) in parsed.rule.into_iter().enumerate() {
            let start = spanned.span().start;
            let rule = spanned.into_inner().from_source(place(start));
            for error in rule.check().err().unwrap_or_default() {
                let at = locate(document.get_ref(), index, &error.problem).unwrap_or(start);
                errors.push(PolicyError { place: place(at), ..error });
            }
            rules.push(rule);
        }
        if errors.is_empty() { Ok(rules) } else { Err(errors) }
    }
}

/// Returns where lines end. Looked up once: a file may have very many rules.
fn line_ends(text: &str) -> Vec<usize> {
    text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect()
}

/// Returns the line, from 1, of a byte offset.
fn line_of(ends: &[usize], at: usize) -> usize {
    ends.partition_point(|end| *end < at) + 1
}

/// Finds the value at fault in the rule.
fn locate(document: &DeTable<'_>, rule: usize, problem: &Problem) -> Option<usize> {
    let (key, text) = problem.culprit()?;
    let value = document.get("rule")?.get_ref().get(rule)?.get_ref().get(key)?;
    let elements = value.get_ref().as_array().into_iter().flatten();
    let element = elements.into_iter().find(|element| element.get_ref().as_str() == text);
    Some(element.unwrap_or(value).span().start)
}
