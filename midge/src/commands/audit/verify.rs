//! `midge audit verify`: exit code 0 when nothing is wrong, 1 when something is, with its place, or when nobody but the log
//! itself names the key that has signed it.

use super::{Place, unreadable};
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_audit::{Expected, Hash, Report, copy_state, own_key, verify, verify_log};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Verifies the log of a data directory, or a cloud's copy of a node's.
pub(super) fn run(place: &Place, mut keys: Vec<String>, output: Output) -> anyhow::Result<ExitCode> {
    are_fingerprints(&keys)?;
    if let Some(copy) = &place.copy {
        return of_node(place, copy, keys, output);
    }
    place.files()?;
    if keys.is_empty() {
        keys.extend(own_key(&place.key));
    }
    let report = verify_log(&place.log, &place.key, keys).map_err(|error| unreadable(&error))?;
    tell(&report, std::slice::from_ref(&place.log), output)
}

/// Verifies a part of a log: what was before and after it is not asked for.
pub(super) fn of_files(keys: Vec<String>, files: &[PathBuf], output: Output) -> anyhow::Result<ExitCode> {
    are_fingerprints(&keys)?;
    if let Some(dir) = files.iter().find(|path| path.is_dir()) {
        let text = format!(
            "{0} is a directory: name its files, or --dir {0} for the log of a data directory",
            dir.display()
        );
        return Err(failure(exit::USAGE, text));
    }
    let report = verify(files, Expected { keys, ..Expected::default() });
    tell(&report.map_err(|error| unreadable(&error))?, files, output)
}

fn are_fingerprints(keys: &[String]) -> anyhow::Result<()> {
    match keys.iter().find(|key| key.parse::<Hash>().is_err()) {
        None => Ok(()),
        Some(key) => Err(failure(
            exit::USAGE,
            format!("\"{key}\" is not the fingerprint of a key; `midge status` of the edge shows it"),
        )),
    }
}

fn tell(report: &Report, read: &[PathBuf], output: Output) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => output::json(&value_of(report, read)?)?,
        Output::Pretty => print(report, read),
    }
    Ok(if is_proven(report) { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

/// Tells whether nothing is wrong and somebody else than the log names its key: anybody can sign with a key of their own.
fn is_proven(report: &Report) -> bool {
    report.is_intact() && !report.key_is_own_word
}

/// What it comes to, in one line: what is not proven must not read as if it was.
fn verdict(report: &Report) -> String {
    if !report.is_intact() {
        return "NOT intact".into();
    }
    if report.key_is_own_word {
        return "NOT proven: only the log itself names the key; name it with --key, as `midge status` of the edge shows it"
            .into();
    }
    match (report.unproven, report.unsigned) {
        (0, _) => "intact".into(),
        (lines, 0) => format!("intact, but for {lines} lines that are not proven, see above"),
        (lines, tail) if lines == tail => {
            format!("intact to the last checkpoint; the {tail} lines after it are not proven")
        }
        (lines, tail) => format!(
            "intact to the last checkpoint, but for {} lines before it and the {tail} after it that are not proven",
            lines.saturating_sub(tail)
        ),
    }
}

fn value_of(report: &Report, read: &[PathBuf]) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(report)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("intact".into(), report.is_intact().into());
        object.insert("proven".into(), (is_proven(report) && report.unproven == 0).into());
        object.insert("read".into(), json!(read));
    }
    Ok(value)
}

/// Verifies a cloud's copy of a node's log, branch by branch, and tells what was wrong as it arrived.
fn of_node(place: &Place, copy: &Path, mut keys: Vec<String>, output: Output) -> anyhow::Result<ExitCode> {
    let branches = place.branches(copy)?;
    let state = copy_state(copy).map_err(|error| unreadable(&error))?.unwrap_or_default();
    if keys.is_empty() {
        keys.extend(state.key.clone());
    }
    let mut reports = Vec::new();
    for branch in branches {
        // The oldest files go first when there are more than there may be, with them whole branches.
        if branch.files.is_empty() && branch.number < state.branch && state.deleted_files > 0 {
            continue;
        }
        let head = state.end_of(branch.number).cloned();
        // Of a branch that is written, the rest may be on its way.
        let may_grow = branch.number == state.branch;
        let expected = Expected { keys: keys.clone(), head, is_whole: false, may_grow };
        let report = verify(&branch.files, expected).map_err(|error| unreadable(&error))?;
        reports.push((branch, report));
    }
    let is_intact = state.findings.is_empty() && reports.iter().all(|(_, report)| is_proven(report));
    match output {
        Output::Json => {
            let branches = reports.iter().map(|(branch, report)| value_of(report, &branch.files));
            let branches = branches.collect::<Result<Vec<_>, _>>()?;
            let state = serde_json::to_value(&state)?;
            output::json(
                &json!({ "intact": is_intact, "branches": branches, "arrived": state.get("findings") }),
            )?;
        }
        Output::Pretty => {
            for (branch, report) in &reports {
                if reports.len() > 1 {
                    output::line(format_args!("Branch {}", branch.number));
                }
                print(report, &branch.files);
            }
            for found in &state.findings {
                output::line(format_args!(
                    "WRONG as it arrived {} (branch {}): {}",
                    found.at, found.branch, found.text
                ));
            }
            if state.more_findings > 0 {
                output::line(format_args!("WRONG as it arrived, and {} more", state.more_findings));
            }
        }
    }
    Ok(if is_intact { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

fn print(report: &Report, read: &[PathBuf]) {
    let own_word = if report.key_is_own_word { " (the log's own word)" } else { "" };
    let last = report.last.as_ref().map_or(0, |last| last.seq);
    let signed = report.signed.as_ref().map_or_else(
        || "none is valid".to_owned(),
        |signed| format!("{}, the last is line {} of {}", report.checkpoints, signed.seq, signed.at),
    );
    let read: Vec<_> = read.iter().map(|path| path.display().to_string()).collect();
    output::fields(&[
        ("Read", read.join(" ")),
        ("Log", report.log.clone()),
        ("Key", format!("{}{own_word}", report.key)),
        ("Files", report.files.to_string()),
        ("Lines", format!("{} ({} to {last})", report.lines, report.first)),
        ("Checkpoints", signed),
        ("Unsigned", format!("{} lines after the last checkpoint, which are not proven", report.unsigned)),
    ]);
    for note in &report.notes {
        output::line(format_args!("line {}: {}", note.seq, note.text));
    }
    for finding in &report.findings {
        let number = finding.seq.map_or_else(String::new, |seq| format!(" (line {seq} of the log)"));
        let place = match (finding.file.as_str(), finding.line) {
            ("", _) => String::new(),
            (file, line) => format!("{file}:{line}{number}: "),
        };
        output::line(format_args!("WRONG {place}{}", finding.text));
    }
    if report.more_findings > 0 {
        output::line(format_args!("WRONG and {} more", report.more_findings));
    }
    output::line(verdict(report));
}
