//! The rules in force and what listeners make of them, on their way to and from the admin socket.

use midge_api::midge::v1::{ActiveRule, ListenerMode, PolicyPage};
use midge_broker::SubscribeModes;
use midge_policy::{CheckedRule, LISTENERS, Policy, Rule, RuleSource, SubscribeMode};
use midge_policy_tools::Modes;
use std::collections::BTreeMap;

/// Rules of one message: far below the limit of 4 MiB that gRPC has for one.
const PAGE: usize = 500;

/// Returns the rules of a policy in order of precedence; one page at least.
pub(crate) fn pages(policy: &Policy, modes: &SubscribeModes) -> Vec<PolicyPage> {
    let rules = policy.all_rules();
    let mode = |name: &str| ListenerMode { listener: name.into(), mode: modes.on(name).name().into() };
    let page = |rules: &[&CheckedRule]| PolicyPage {
        epoch: policy.epoch(),
        rules: rules.iter().map(|rule| active(rule.rule())).collect(),
        modes: LISTENERS.map(mode).into(),
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

/// Reads the modes of listeners that came from the admin socket; none where one is missing or unknown, as from an edge
/// of another version.
pub(crate) fn read_modes(modes: &[ListenerMode]) -> Option<Modes> {
    let read = |mode: &ListenerMode| Some((mode.listener.clone(), SubscribeMode::read(&mode.mode)?));
    let modes: BTreeMap<String, SubscribeMode> = modes.iter().map(read).collect::<Option<_>>()?;
    let are_all = LISTENERS.iter().all(|name| modes.contains_key(*name));
    are_all.then(|| Modes::by_name(|name| modes.get(name).copied().unwrap_or_default()))
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
        let set =
            SubscribeModes { unix: SubscribeMode::Filter, tls: SubscribeMode::Narrow, ..Default::default() };
        let pages = pages(&policy, &set);
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
        let empty = super::pages(&Policy::deny_all(), &set);
        assert_eq!(empty.len(), 1);
        for page in pages.iter().chain(&empty) {
            assert_eq!(read_modes(&page.modes), Some(Modes::by_name(|name| set.on(name))));
        }
        let mut modes = empty[0].modes.clone();
        modes[1].mode = "ask".into();
        assert!(read_modes(&modes).is_none() && read_modes(&modes[2..]).is_none());
    }
}
