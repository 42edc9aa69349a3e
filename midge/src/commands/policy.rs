//! `midge policy …`: what rules grant, to whom and why.

mod check;
mod diff;
mod learn;
mod reload;
mod shadow;
mod source;
mod table;

use super::admin::Admin;
use crate::cli::{Conditions, PolicyCommand};
use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use midge_identity::SpiffeId;
use midge_policy_tools::{
    Case, Decision, Explanation, Generality, Request, Ruleset, Verb, Verdict, Way, Who, qos,
};
use mqtt_proto::TopicName;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

pub(super) use source::text;

pub(super) async fn run(admin: &Admin, command: PolicyCommand, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Check { sources, against, subscribe_mode, strict } => {
            let asked =
                check::Asked { sources: &sources, against: against.as_deref(), subscribe_mode, strict };
            check::run(admin, &asked, output).await
        }
        PolicyCommand::Explain { id, action, topic, conditions, deciding } => {
            let (id, request) = (spiffe_id(&id)?, request(&action, &topic, conditions)?);
            let rules = source::deciding(admin, &deciding).await?;
            explain(&Explanation::of(&rules, &id, &request), output)
        }
        PolicyCommand::Can { id, action, topic, conditions, deciding } => {
            let (id, request) = (spiffe_id(&id)?, request(&action, &topic, conditions)?);
            let rules = source::deciding(admin, &deciding).await?;
            can(&rules, &id, &request, output)
        }
        PolicyCommand::Who { action, topic, ids, conditions, deciding } => {
            let request = request(&action, &topic, conditions)?;
            let listed = ids.as_deref().map(source::listed_ids).transpose()?;
            let rules = source::deciding(admin, &deciding).await?;
            let mut known = listed.unwrap_or_default();
            if deciding.sources.policy.iter().any(|source| source == source::RUNNING) {
                known.extend(source::registered(admin).await?);
            }
            who(&rules, &request, &known, output)
        }
        PolicyCommand::Diff { old, new, id, old_mode, new_mode, exit_code } => {
            let id = id.as_deref().map(spiffe_id).transpose()?;
            let (old, new) = source::both_with_modes(admin, (old, old_mode), (new, new_mode)).await?;
            let differs = diff::run(&old, &new, id.as_ref(), output)?;
            Ok(if differs && exit_code { ExitCode::from(exit::NO) } else { ExitCode::SUCCESS })
        }
        PolicyCommand::Test { file, deciding } => {
            let cases = cases(&file)?;
            let rules = source::deciding(admin, &deciding).await?;
            test(&file, &cases, &rules, output)
        }
        PolicyCommand::Learn { from, duration, save, denied, exact_ids, values_max } => {
            let mut observed = learn::read(&from, denied)?;
            if let Some(duration) = &duration {
                learn::watch(admin, duration, denied, save.as_deref(), &mut observed).await?;
            }
            learn::run(&observed, Generality { kinds: !exact_ids, values_max }, output)
        }
        PolicyCommand::Reload => reload::run(admin, output).await,
        PolicyCommand::Shadow { exit_code } => shadow::run(admin, exit_code, output).await,
        PolicyCommand::Rules { sources } => {
            list(&source::ruleset(admin, &sources.policy).await?, output)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn spiffe_id(text: &str) -> anyhow::Result<SpiffeId> {
    // For its message.
    super::admin::spiffe_id(text)?;
    SpiffeId::new(text).code(exit::USAGE)
}

fn request(action: &str, topic: &str, conditions: Conditions) -> anyhow::Result<Request> {
    let verb = Verb::read(action).ok_or_else(|| {
        failure(exit::USAGE, format!("\"{action}\" is no action; write publish, will, subscribe or receive"))
    })?;
    let wrong =
        |text: &str, error: mqtt_proto::InvalidTopic| failure(exit::USAGE, format!("\"{text}\": {error}"));
    let request = Request::new(verb, topic).map_err(|error| wrong(topic, error))?;
    let reply =
        conditions.response_topic.map(|text| TopicName::new(&text).map_err(|error| wrong(&text, error)));
    let request = Request {
        qos: qos(conditions.qos).unwrap_or_default(),
        retain: conditions.retain,
        payload_len: conditions.payload,
        response_topic: reply.transpose()?,
        client_id: conditions.client_id,
        listener: conditions.listener,
        ..request
    };
    match request.beside_the_point() {
        Some(why) => Err(failure(exit::USAGE, format!("{action} \"{topic}\": {why}"))),
        None => Ok(request),
    }
}

fn answer(allowed: bool) -> ExitCode {
    if allowed { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) }
}

fn can(rules: &Ruleset, id: &SpiffeId, request: &Request, output: Output) -> anyhow::Result<ExitCode> {
    let answer = request.answer(rules, id);
    match output {
        Output::Json => {
            let verdict = |verdict: &Verdict| {
                with(decision(&verdict.decision), [("listeners", json!(verdict.listeners))])
            };
            let by_listener: Vec<Value> = answer.by_listener.iter().map(verdict).collect();
            let asked = [
                ("id", json!(id.to_string())),
                ("request", json!(request.to_string())),
                ("by-listener", json!(by_listener)),
            ];
            output::json(&with(decision(&answer.decision), asked))?;
        }
        Output::Pretty => table::answer(&answer),
    }
    Ok(self::answer(answer.decision.allowed))
}

/// Adds keys to an object.
fn with<const N: usize>(json: Value, more: [(&str, Value); N]) -> Value {
    let own = json.as_object().cloned().unwrap_or_default();
    own.into_iter().chain(more.map(|(key, value)| (key.to_owned(), value))).collect()
}

fn decision(decision: &Decision) -> Value {
    json!({
        "allowed": decision.allowed, "in-part": decision.in_part, "mode": decision.mode,
        "reason": decision.reason, "rule": decision.rule, "place": decision.place,
        "granted-qos": decision.granted_qos, "rates": decision.rates, "filtered": decision.filtered,
        "parts": decision.parts, "left-out": decision.left_out, "not-whole": decision.not_whole,
    })
}

fn explain(explanation: &Explanation, output: Output) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => output::json(explanation)?,
        Output::Pretty => table::explanation(explanation),
    }
    Ok(ExitCode::SUCCESS)
}

fn who(
    rules: &Ruleset,
    request: &Request,
    known: &BTreeSet<SpiffeId>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let who = Who::can(rules, request).code(exit::INTERNAL)?;
    let kinds = who.kinds();
    let registered: Vec<(String, Way)> =
        known.iter().flat_map(|id| who.ways(id).into_iter().map(move |way| (id.to_string(), way))).collect();
    match output {
        Output::Json => {
            let identity =
                |(id, way): &(String, Way)| Ok(with(serde_json::to_value(way)?, [("id", json!(id))]));
            output::json(&json!({
                "request": request.to_string(), "patterns": kinds,
                "identities": registered.iter().map(identity).collect::<anyhow::Result<Vec<Value>>>()?,
                "asked": known.len(),
            }))?;
        }
        Output::Pretty => table::who(&kinds, &registered, known.len()),
    }
    Ok(answer(!kinds.is_empty() || !registered.is_empty()))
}

fn cases(path: &Path) -> anyhow::Result<Vec<Case>> {
    let shown = path.display();
    let text = text(path)?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let cases = Case::read(&text, is_toml).map_err(|errors| {
        let lines: Vec<String> =
            errors.iter().map(|error| format!("{shown}:{}: {}", error.line, error.fault)).collect();
        failure(exit::CONFIG, lines.join("\n"))
    })?;
    if cases.is_empty() {
        let remedy = "write one a line, `allow|deny ID ACTION TOPIC [key=value …]`, or name another file";
        return Err(failure(
            exit::CONFIG,
            format!("{shown} has no cases, which would prove nothing: {remedy}"),
        ));
    }
    Ok(cases)
}

fn test(path: &Path, cases: &[Case], rules: &Ruleset, output: Output) -> anyhow::Result<ExitCode> {
    let outcomes: Vec<_> = cases.iter().map(|case| case.run(rules)).collect();
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    match output {
        Output::Json => output::json(&json!({
            "file": path, "cases": outcomes.len(), "failed": failed, "outcomes": outcomes,
        }))?,
        Output::Pretty => table::outcomes(path, &outcomes, failed),
    }
    Ok(answer(failed == 0))
}

fn list(rules: &Ruleset, output: Output) -> anyhow::Result<()> {
    let rules = rules.policy().all_rules();
    let rules: Vec<_> = rules.iter().map(|rule| rule.rule()).collect();
    match output {
        Output::Json => {
            let rule = |rule: &&midge_policy::Rule| {
                Ok(json!({ "source": rule.source.to_string(), "rule": serde_json::to_value(rule)? }))
            };
            output::json(&json!({ "rules": rules.iter().map(rule).collect::<anyhow::Result<Vec<_>>>()? }))
        }
        Output::Pretty => {
            let row = |rule: &&midge_policy::Rule| {
                vec![rule.name.clone(), rule.source.to_string(), rule.id.clone()]
            };
            output::table(&["RULE", "SOURCE", "ID"], &rules.iter().map(row).collect::<Vec<_>>());
            Ok(())
        }
    }
}
