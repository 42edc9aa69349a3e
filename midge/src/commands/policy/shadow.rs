//! `midge policy shadow`: what the candidate of a running edge would decide otherwise.

use super::reload::finding;
use crate::commands::admin::Admin;
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_api::midge::v1::{ShadowDifference, ShadowPolicy, ShowShadowRequest};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Shows what the candidate of a running edge would decide otherwise.
pub(super) async fn run(admin: &Admin, exit_code: bool, output: Output) -> anyhow::Result<ExitCode> {
    let response = admin.midge().await?.show_shadow(ShowShadowRequest {}).await;
    let shadow = response.map_err(|status| admin.error(&status))?.into_inner();
    match output {
        Output::Json => output::json(&shadow)?,
        Output::Pretty => print(&shadow),
    }
    // Also where an earlier candidate is still asked: it is not what the files say.
    if !shadow.faults.is_empty() {
        return Ok(ExitCode::from(exit::CONFIG));
    }
    if !shadow.active {
        return Err(failure(exit::NO, absent(&shadow)));
    }
    let differs = shadow.gained + shadow.lost > 0;
    Ok(if exit_code && differs { ExitCode::from(exit::NO) } else { ExitCode::SUCCESS })
}

fn absent(shadow: &ShadowPolicy) -> String {
    if shadow.dir.is_empty() {
        "no candidate policy is configured; name its directory in policy.shadow".into()
    } else {
        format!("there is no candidate policy: put its files (*.toml) into {}", shadow.dir)
    }
}

fn print(shadow: &ShadowPolicy) {
    shadow.faults.iter().for_each(finding);
    if !shadow.active {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(shadow.since_ms / 1_000).unwrap_or_default();
    let count = |count: u64, what: &str| format!("{count} {what}");
    output::fields(&[
        ("Candidate", format!("{}, {} rules with those of other sources", shadow.dir, shadow.rules)),
        ("Counted for", output::span(now.as_secs().saturating_sub(since))),
        ("Decisions", shadow.asked.to_string()),
        ("Would gain", count(shadow.gained, "that are denied now")),
        ("Would lose", count(shadow.lost, "that are allowed now")),
    ]);
    if shadow.differences.is_empty() {
        return;
    }
    output::line("");
    let rule = |text: &str| if text.is_empty() { "no rule".to_owned() } else { text.to_owned() };
    let row = |difference: &ShadowDifference| {
        vec![
            difference.kind.clone(),
            difference.action.clone(),
            difference.count.to_string(),
            rule(&difference.active_rule),
            rule(&difference.candidate_rule),
        ]
    };
    let rows: Vec<Vec<String>> = shadow.differences.iter().map(row).collect();
    output::table(&["KIND", "ACTION", "COUNT", "RULE IN FORCE", "CANDIDATE'S RULE"], &rows);
    for difference in &shadow.differences {
        output::line("");
        let (kind, action) = (&difference.kind, &difference.action);
        output::line(format_args!("{kind} {action}: {}", rule(&difference.candidate_rule)));
        for sample in &difference.samples {
            output::line(format_args!("  {} {}", sample.spiffe_id, output::plain(&sample.topic)));
            output::line(format_args!("      {}", sample.why));
        }
    }
    if shadow.uncounted > 0 {
        output::line("");
        output::line(format_args!("{} more differ in other ways", shadow.uncounted));
    }
}
