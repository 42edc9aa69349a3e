//! The rules in force, on their way to and from the admin socket.

use midge_api::midge::v1::{ActiveRule, PolicyPage};
use midge_policy::{CheckedRule, Policy, Rule, RuleSource};

/// Rules of one message: far below the limit of 4 MiB that gRPC has for one.
const PAGE: usize = 500;

/// Returns the rules of a policy in order of precedence; one page at least.
pub(crate) fn pages(policy: &Policy) -> Vec<PolicyPage> {
    let rules = policy.all_rules();
    let page = |rules: &[&CheckedRule]| PolicyPage {
        epoch: policy.epoch(),
        rules: rules.iter().map(|rule| active(rule.rule())).collect(),
    };
    if rules.is_empty() { vec![page(&[])] } else { rules.chunks(PAGE).map(page).collect() }
}

fn active(rule: &Rule) -> ActiveRule {
    let (source, file, line) = match &rule.source {
        RuleSource::File { file, line } => ("file", file.to_string(), *line),
        RuleSource::Cloud => ("cloud", String::new(), 0),
        RuleSource::Entry => ("entry", String::new(), 0),
        RuleSource::Built => ("built-in", String::new(), 0),
    };
    ActiveRule {
        source: source.into(),
        file,
        line: u64::try_from(line).unwrap_or_default(),
        json: serde_json::to_string(rule).unwrap_or_default(),
    }
}

/// Reads a rule that came from the admin socket.
///
/// # Errors
/// When it is none, as from an edge of another version.
pub(crate) fn read(active: &ActiveRule) -> Result<Rule, serde_json::Error> {
    let source = match active.source.as_str() {
        "file" => RuleSource::File {
            file: active.file.as_str().into(),
            line: usize::try_from(active.line).unwrap_or_default(),
        },
        "cloud" => RuleSource::Cloud,
        "entry" => RuleSource::Entry,
        _ => RuleSource::Built,
    };
    Ok(serde_json::from_str::<Rule>(&active.json)?.from_source(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_arrive_as_they_were_with_their_sources() {
        let text = "[[rule]]\nname = \"a\"\nid = \"spiffe://*/x\"\npublish = [\"a/{td}\"]\nqos-max = 1\n";
        let mut rules = Rule::from_toml_str(text, "a.toml").unwrap();
        let id = midge_identity::SpiffeId::new("spiffe://td/x").unwrap();
        rules.extend((0..PAGE).map(|n| Rule::grant(&n.to_string(), &id, &["b".to_owned()], &[])));
        rules.push(rules[0].clone().from_source(RuleSource::Cloud));
        let policy = Policy::compile(rules.clone(), 7).unwrap();
        let pages = pages(&policy);
        assert_eq!(
            pages.iter().map(|page| (page.epoch, page.rules.len())).collect::<Vec<_>>(),
            [(7, 500), (7, 2)]
        );
        let mut read: Vec<Rule> =
            pages.iter().flat_map(|page| &page.rules).map(|rule| read(rule).unwrap()).collect();
        let by_name = |rule: &Rule| (rule.name.clone(), rule.source.to_string());
        read.sort_by_key(by_name);
        rules.sort_by_key(by_name);
        assert_eq!(read, rules);
        assert_eq!(super::pages(&Policy::deny_all()).len(), 1);
    }
}
