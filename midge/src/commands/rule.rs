//! `midge rule …`: the rules that a cloud hands out.

use super::admin::Admin;
use crate::cli::RuleCommand;
use crate::exit::{self, WithCode, failure};
use crate::output::{self, Output};
use anyhow::Context as _;
use midge_api::midge::v1::{ApplyRulesRequest, DeleteRuleRequest, HandedRule, ListRulesRequest};
use midge_policy::Rule;

pub(crate) async fn run(admin: &Admin, command: RuleCommand, output: Output) -> anyhow::Result<()> {
    let response = match command {
        RuleCommand::Apply { file, node } => {
            let path = file.display();
            let toml = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read {path}"))
                .code(exit::IO)?;
            // Here the file has its name, which the cloud does not learn.
            Rule::from_toml_str(&toml, &path.to_string()).map_err(|faults| {
                failure(exit::CONFIG, faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            })?;
            let request = ApplyRulesRequest { node: node.unwrap_or_default(), toml };
            admin.midge().await?.apply_rules(request).await
        }
        RuleCommand::List => admin.midge().await?.list_rules(ListRulesRequest {}).await,
        RuleCommand::Delete { name, node } => {
            admin.midge().await?.delete_rule(DeleteRuleRequest { node: node.unwrap_or_default(), name }).await
        }
    };
    print(&response.map_err(|status| admin.error(&status))?.into_inner().rules, output)
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
