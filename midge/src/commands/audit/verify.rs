//! `midge audit verify`: exit code 0 when nothing is wrong, 1 when something is, with its place.

use super::Place;
use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use midge_audit::{Expected, Hash, Report, own_key, verify, verify_log};
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) fn run(
    place: &Place,
    mut keys: Vec<String>,
    files: &[PathBuf],
    output: Output,
) -> anyhow::Result<ExitCode> {
    for key in &keys {
        if key.parse::<Hash>().is_err() {
            let text =
                format!("\"{key}\" is not the fingerprint of a key; `midge status` of the edge shows it");
            return Err(failure(exit::USAGE, text));
        }
    }
    let report = if files.is_empty() {
        place.files()?;
        if keys.is_empty() {
            keys.extend(own_key(&place.key));
        }
        verify_log(&place.log, &place.key, keys).code(exit::IO)?
    } else {
        // A part of a log: what was before and after it is not asked for.
        verify(files, Expected { keys, head: None, is_whole: false }).code(exit::IO)?
    };
    match output {
        Output::Json => {
            let mut value = serde_json::to_value(&report)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("intact".into(), report.is_intact().into());
            }
            output::json(&value)?;
        }
        Output::Pretty => print(&report),
    }
    Ok(if report.is_intact() { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

fn print(report: &Report) {
    let own_word = if report.key_is_own_word {
        " (the log's own word: compare it with `midge status` of the edge, or name it with --key)"
    } else {
        ""
    };
    let last = report.last.as_ref().map_or(0, |last| last.seq);
    let signed = report.signed.as_ref().map_or_else(
        || "none is valid".to_owned(),
        |signed| format!("{}, the last is line {} of {}", report.checkpoints, signed.seq, signed.at),
    );
    output::fields(&[
        ("Log", report.log.clone()),
        ("Key", format!("{}{own_word}", report.key)),
        ("Files", report.files.to_string()),
        ("Lines", format!("{} ({} to {last})", report.lines, report.first)),
        ("Checkpoints", signed),
        ("Unsigned", format!("{} lines after the last checkpoint", report.unsigned)),
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
    output::line(if report.is_intact() { "intact" } else { "NOT intact" });
}
