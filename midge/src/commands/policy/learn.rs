//! `midge policy learn`: rules from what identities were seen to do.

use crate::commands::admin::Admin;
use crate::commands::duration;
use crate::commands::signals::stop_on_signal;
use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use anyhow::Context as _;
use midge_api::midge::v1::ObserveAccessRequest;
use midge_policy_tools::{Generality, Observation, Observed, Proposal, Report, learn};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes of a file of observations: as large as an audit log may be where its limits were raised far.
const LOG_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Lines of each kind that are shown in the head of the proposal.
const SHOWN: usize = 10;

pub(super) fn run(observed: &Observed, generality: Generality, output: Output) -> anyhow::Result<ExitCode> {
    if observed.seen.is_empty() {
        return Err(failure(exit::NO, "nothing was seen: there are no observations to learn from"));
    }
    let proposal = learn(&observed.seen, generality).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        failure(exit::CONFIG, lines.join("\n"))
    })?;
    match output {
        Output::Json => output::json(&json!({
            "rules": proposal.rules, "toml": proposal.to_toml(), "report": proposal.report,
            "left-out": observed.left_out,
        }))?,
        Output::Pretty => print(&proposal, observed.left_out),
    }
    Ok(if proposal.report.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

/// Reads observations and audit logs.
pub(super) fn read(from: &[PathBuf], denied: bool) -> anyhow::Result<Observed> {
    let mut observed = Observed::default();
    for path in from {
        let shown = path.display();
        let read = Observation::read(&super::source::text_within(path, LOG_BYTES_MAX)?, denied)
            .map_err(|error| failure(exit::CONFIG, format!("{shown}:{}: {}", error.line, error.fault)))?;
        observed.seen.extend(read.seen);
        observed.left_out += read.left_out;
    }
    Ok(observed)
}

/// Watches what identities do at a running edge.
pub(super) async fn watch(
    admin: &Admin,
    duration: &str,
    denied: bool,
    save: Option<&Path>,
    observed: &mut Observed,
) -> anyhow::Result<()> {
    let secs = secs(duration)?;
    // A signal ends the watching, and what was seen until then counts.
    let stop = stop_on_signal()?;
    let mut saved = save.map(create).transpose()?;
    let request = ObserveAccessRequest { secs, denied };
    let (enough, requests) = mpsc::channel(2);
    enough.send(request).await.code(exit::INTERNAL)?;
    let mut client = admin.midge().await?;
    let response = client.observe_access(ReceiverStream::new(requests)).await;
    let mut pages = response.map_err(|status| admin.error(&status))?.into_inner();
    let (mut left_out, mut is_over) = (0, false);
    loop {
        let page = tokio::select! {
            page = pages.message() => page.map_err(|status| admin.error(&status))?,
            () = stop.cancelled(), if !is_over => {
                is_over = true;
                if enough.send(request).await.is_err() {
                    tracing::debug!("the edge has ended the watching already");
                }
                continue;
            }
        };
        let Some(page) = page else { break };
        let text = page.lines.join("\n");
        if let Some(file) = saved.as_mut().filter(|_| !text.is_empty()) {
            writeln!(file, "{text}").context("cannot write the observations").code(exit::IO)?;
        }
        let read = Observation::read(&text, denied);
        let read = read.map_err(|error| failure(exit::INTERNAL, error.to_string()))?;
        observed.seen.extend(read.seen);
        observed.left_out += read.left_out;
        left_out = page.left_out;
    }
    observed.left_out += left_out;
    Ok(())
}

/// What identities do is not for everybody to read.
fn create(path: &Path) -> anyhow::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot write {}", path.display())).code(exit::IO)
}

/// Reads `90s`, `10m`, `2h` or `1d`.
fn secs(text: &str) -> anyhow::Result<u64> {
    let wrong = || failure(exit::USAGE, format!("\"{text}\" is no duration: write 90s, 10m, 2h or 1d"));
    duration::secs(text).filter(|secs| *secs > 0).ok_or_else(wrong)
}

/// Prints a policy file; what there is to say about it is in its comments.
fn print(proposal: &Proposal, left_out: u64) {
    let Report { seen, identities, refused, allowed_pairs, seen_pairs, beyond, wider, silent } =
        &proposal.report;
    output::line(format_args!("# Proposed for {seen} things that {identities} identities were seen to do."));
    if left_out > 0 {
        output::line(format_args!(
            "# Done {left_out} times more, not told by whom or where, or at topics that no rule can name: it may be refused.\n# Of an audit log these are its publications too, which `--for` sees."
        ));
    }
    let more = allowed_pairs - seen_pairs;
    output::line(format_args!("# Refused of them: {}.", refused.len()));
    listed(refused);
    output::line(format_args!("# Allowed to these identities at these topics though not seen: {more}."));
    listed(beyond);
    if !silent.is_empty() {
        output::line("# Granted in part, and nothing was seen to come of it: these get nothing.");
        listed(silent);
    }
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

#[cfg(test)]
mod tests {
    use super::secs;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!((secs("90s").unwrap(), secs("10m").unwrap(), secs("1d").unwrap()), (90, 600, 86_400));
        for wrong in ["", "0s", "10", "m", "-1m", "1w", "99999999999999999999d", "ä"] {
            assert!(secs(wrong).is_err(), "{wrong}");
        }
    }
}
