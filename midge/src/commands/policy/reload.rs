//! `midge policy reload`: has a running edge read its policy files now.

use crate::commands::admin::Admin;
use crate::exit;
use crate::output::{self, Output};
use midge_api::midge::v1::{PolicyFinding, ReloadPolicyRequest, ReloadPolicyResponse, ReloadedCandidate};
use std::process::ExitCode;

/// Has a running edge read its policy files now.
pub(super) async fn run(admin: &Admin, output: Output) -> anyhow::Result<ExitCode> {
    let response = admin.midge().await?.reload_policy(ReloadPolicyRequest {}).await;
    let reloaded = response.map_err(|status| admin.error(&status))?.into_inner();
    match output {
        Output::Json => output::json(&reloaded)?,
        Output::Pretty => print(&reloaded),
    }
    // The candidate is told and no part of what was asked for: what holds is as its files say.
    Ok(if reloaded.taken { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFIG) })
}

fn print(reloaded: &ReloadPolicyResponse) {
    print_files(reloaded);
    match &reloaded.candidate {
        None => {}
        Some(ReloadedCandidate { faults, present, .. }) if !faults.is_empty() => {
            faults.iter().for_each(finding);
            let kept = if *present { "; the one of before is evaluated on" } else { "" };
            output::line(format_args!("candidate: refused with {} errors{kept}", faults.len()));
        }
        Some(ReloadedCandidate { present: false, .. }) => output::line("candidate: there is none"),
        Some(ReloadedCandidate { changed: true, .. }) => {
            output::line("candidate: taken over, counts begin anew")
        }
        Some(_) => output::line("candidate: nothing has changed"),
    }
}

fn print_files(reloaded: &ReloadPolicyResponse) {
    let ReloadPolicyResponse { taken, changed, epoch, rules, faults, warnings, linted, candidate: _ } =
        reloaded;
    faults.iter().chain(warnings).for_each(finding);
    if !taken {
        let text =
            format_args!("refused with {} errors; epoch {epoch} with {rules} rules holds on", faults.len());
        return output::line(text);
    }
    let what = if *changed { "taken over" } else { "nothing has changed" };
    let seen = match warnings.len() {
        _ if !linted => "not checked: run `midge policy check`".to_owned(),
        count => format!("{count} warnings"),
    };
    output::line(format_args!("{what}: epoch {epoch}, {rules} rules, {seen}"));
}

/// Prints a finding as `midge policy check` does.
pub(super) fn finding(finding: &PolicyFinding) {
    let PolicyFinding { severity, code, rule, place, message, remedy } = finding;
    let of = if rule.is_empty() { String::new() } else { format!(": rule `{rule}`") };
    output::line(format_args!("{severity}[{code}] {}{of}", output::plain(place)));
    output::line(format_args!("    {}", output::plain(message)));
    if !remedy.is_empty() {
        output::line(format_args!("    {}", output::plain(remedy)));
    }
}
