//! `midge rule …`: the rules that a cloud hands out.

use super::admin::Admin;
use crate::cli::RuleCommand;
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_api::midge::v1::{ApplyRulesRequest, DeleteRuleRequest, HandedRule, ListRulesRequest};
use midge_policy::Rule;
use tonic::Code;

pub(crate) async fn run(admin: &Admin, command: RuleCommand, output: Output) -> anyhow::Result<()> {
    let response = match command {
        RuleCommand::Apply { file, node } => {
            let path = file.display();
            let toml = super::policy::text(&file)?;
            // Here the file has its name, which the cloud does not learn.
            Rule::from_toml_str(&toml, &path.to_string()).map_err(|faults| {
                failure(exit::CONFIG, faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            })?;
            let request = ApplyRulesRequest { node: node.unwrap_or_default(), toml };
            admin.midge().await?.apply_rules(request).await
        }
        RuleCommand::List => admin.midge().await?.list_rules(ListRulesRequest {}).await,
        RuleCommand::Delete { name, node } => {
            let node = node.unwrap_or_default();
            let mut client = admin.midge().await?;
            let deleted =
                client.delete_rule(DeleteRuleRequest { node: node.clone(), name: name.clone() }).await;
            match deleted {
                Err(status) if status.code() == Code::NotFound => {
                    let rules = client.list_rules(ListRulesRequest {}).await;
                    let rules = rules.map_err(|status| admin.error(&status))?.into_inner().rules;
                    return Err(unknown(&rules, &name, &node));
                }
                deleted => deleted,
            }
        }
    };
    print(&response.map_err(|status| admin.error(&status))?.into_inner().rules, output)
}

/// Says for whom there is a rule of that name, if not for whom it was to be taken back.
fn unknown(rules: &[HandedRule], name: &str, node: &str) -> anyhow::Error {
    let whose = if node.is_empty() { "all nodes" } else { node };
    let named = |rule: &&HandedRule| rule.name == name;
    let remedy = match rules.iter().find(named) {
        Some(rule) if rule.node.is_empty() => "there is one for all nodes: leave --node out".to_owned(),
        Some(rule) => format!("there is one for {0}: write --node {0}", rule.node),
        None => "`midge rule list` shows those there are".to_owned(),
    };
    failure(exit::NO, format!("no rule \"{name}\" for {whose}; {remedy}"))
}

fn print(rules: &[HandedRule], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&serde_json::json!({ "rules": rules }));
    }
    let rows: Vec<Vec<String>> = rules
        .iter()
        .map(|rule| {
            let node = if rule.node.is_empty() { "(all)" } else { &rule.node };
            vec![rule.name.clone(), node.to_owned()]
        })
        .collect();
    output::table(&["RULE", "NODE"], &rows);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_for_others_is_found() {
        let rule = |name: &str, node: &str| HandedRule {
            name: name.into(),
            node: node.into(),
            ..HandedRule::default()
        };
        let rules = [rule("a", ""), rule("b", "box-1")];
        let told = |name: &str, node: &str| unknown(&rules, name, node).to_string();
        assert!(told("a", "box-1").contains("\"a\" for box-1; there is one for all nodes"));
        assert!(told("b", "").contains("\"b\" for all nodes; there is one for box-1: write --node box-1"));
        assert!(told("c", "").contains("midge rule list"));
    }
}
