//! `midge policy check`: what rules do not do.

use super::source;
use crate::commands::admin::Admin;
use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use midge_policy::{DEFAULT_POLICY_NAME, PolicyError, SubscribeMode};
use midge_policy_tools::{Diff, Finding, Severity, check, check_against, check_modes};
use serde_json::json;
use std::process::ExitCode;

/// What is to be checked, and how.
pub(super) struct Asked<'a> {
    pub(super) sources: &'a [String],
    pub(super) against: Option<&'a str>,
    pub(super) subscribe_mode: Option<SubscribeMode>,
    pub(super) strict: bool,
}

pub(super) async fn run(admin: &Admin, asked: &Asked<'_>, output: Output) -> anyhow::Result<ExitCode> {
    let Asked { sources, against, subscribe_mode, strict } = *asked;
    let read = match source::read(admin, sources, subscribe_mode).await? {
        Ok(read) => read,
        Err(faults) => return faulty(&faults, output),
    };
    let mut findings = check(&read.rules).code(exit::INTERNAL)?;
    if let Some(modes) = read.modes() {
        findings.extend(check_modes(&read.rules, &modes));
    }
    let count = read.rules.rules().count();
    findings.extend((count == 0).then(|| no_rules(sources)).flatten());
    if let Some(against) = against {
        let reference = source::read(admin, &[against.to_owned()], None).await?.map_err(source::refused)?;
        let (reference, rules) = source::compared((reference, false), (read, false))?;
        let found = check_against(&rules, &reference).map_err(|error| {
            let dearest = Diff::dearest(&reference, &rules).map(|dearest| format!("; {dearest}"));
            failure(exit::INTERNAL, format!("{error}{}", dearest.unwrap_or_default()))
        })?;
        findings.extend(found);
    }
    // Nobody who checks rules of their own can change those, and each box has deny rules that guard what is not there.
    let is_builtin = |finding: &Finding| finding.place.starts_with(&format!("{DEFAULT_POLICY_NAME}:"));
    findings.retain(|finding| finding.severity == Severity::Warning || !is_builtin(finding));
    findings.sort_by(|a, b| (a.severity, a.code).cmp(&(b.severity, b.code)));
    match output {
        Output::Json => output::json(&json!({ "rules": count, "findings": findings }))?,
        Output::Pretty => print(count, &findings),
    }
    let serious = findings.iter().any(|finding| strict || finding.severity == Severity::Warning);
    Ok(if serious { ExitCode::from(exit::NO) } else { ExitCode::SUCCESS })
}

/// What was meant to have rules may be another file, or may have been cut off.
fn no_rules(sources: &[String]) -> Option<Finding> {
    let is_meant = !sources.is_empty() && sources.iter().all(|source| source == source::NONE);
    (!is_meant).then(|| Finding {
        severity: Severity::Note,
        code: "no-rules",
        rule: String::new(),
        place: if sources.is_empty() { source::DEFAULT_CONFIG.to_owned() } else { sources.join(", ") },
        message: "there are no rules, so everything is denied".into(),
        remedy: "name another source, or write `none` if that is meant".into(),
    })
}

fn print(rules: usize, findings: &[Finding]) {
    for finding in findings {
        let severity = if finding.severity == Severity::Warning { "warning" } else { "note" };
        // What is said of a mode is of no rule.
        let rule = if finding.rule.is_empty() { String::new() } else { format!(": rule `{}`", finding.rule) };
        output::line(format_args!("{severity}[{}] {}{rule}", finding.code, finding.place));
        output::line(format_args!("    {}", finding.message));
        output::line(format_args!("    {}", finding.remedy));
    }
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning).count();
    output::line(format_args!("{rules} rules, {warnings} warnings, {} notes", findings.len() - warnings));
}

/// A policy with faults is no policy: nothing more can be said about it.
fn faulty(faults: &[PolicyError], output: Output) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => {
            let fault = |fault: &PolicyError| {
                json!({
                    "severity": "error", "code": "fault", "rule": fault.rule, "place": fault.place.to_string(),
                    "message": fault.problem.to_string(),
                })
            };
            output::json(&json!({ "findings": faults.iter().map(fault).collect::<Vec<_>>() }))?;
        }
        Output::Pretty => {
            for fault in faults {
                output::line(output::short(&format!("error[fault] {fault}")));
            }
            output::line(format_args!("{} errors; an edge does not take this policy", faults.len()));
        }
    }
    Ok(ExitCode::from(exit::CONFIG))
}
