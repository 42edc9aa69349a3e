use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use anyhow::Context as _;
use midge_policy_tools::{Generality, Observation, Proposal, Report, learn};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Lines of each kind that are shown in the head of the proposal.
const SHOWN: usize = 10;

pub(super) fn run(
    from: &[PathBuf],
    denied: bool,
    generality: Generality,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let mut observations = Vec::new();
    for path in from {
        observations.extend(read(path, denied)?);
    }
    if observations.is_empty() {
        return Err(failure(exit::NO, "nothing was seen: there are no observations to learn from"));
    }
    let proposal = learn(&observations, generality).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        failure(exit::CONFIG, lines.join("\n"))
    })?;
    match output {
        Output::Json => output::json(&json!({
            "rules": proposal.rules, "toml": proposal.to_toml(), "report": proposal.report,
        }))?,
        Output::Pretty => print(&proposal),
    }
    Ok(if proposal.report.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

fn read(path: &Path, denied: bool) -> anyhow::Result<Vec<Observation>> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}")).code(exit::IO)?;
    Observation::read(&text, denied)
        .map_err(|error| failure(exit::CONFIG, format!("{shown}:{}: {}", error.line, error.fault)))
}

/// Prints a policy file; what there is to say about it is in its comments.
fn print(proposal: &Proposal) {
    let Report { seen, identities, refused, allowed_pairs, seen_pairs, beyond, wider } = &proposal.report;
    output::line(format_args!("# Proposed for {seen} things that {identities} identities were seen to do."));
    let more = allowed_pairs - seen_pairs;
    output::line(format_args!("# Refused of them: {}.", refused.len()));
    listed(refused);
    output::line(format_args!("# Allowed to these identities at these topics though not seen: {more}."));
    listed(beyond);
    if !wider.is_empty() {
        output::line("# Wider than seen:");
        listed(wider);
    }
    output::line("");
    output::line(proposal.to_toml().trim_end());
}

fn listed(lines: &[String]) {
    for line in lines.iter().take(SHOWN) {
        output::line(format_args!("#   {}", line.escape_debug()));
    }
    if lines.len() > SHOWN {
        output::line(format_args!("#   and {} more (--output json lists all)", lines.len() - SHOWN));
    }
}
