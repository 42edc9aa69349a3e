//! Medians and ratios, for people and as Markdown.

use super::Run;
use super::servers::Server;
use crate::load::{Kind, Outcome, Shape};
use anyhow::Context as _;
use std::path::Path;
use std::time::Duration;

const MARKERS: (&str, &str) = ("<!-- compare:begin -->", "<!-- compare:end -->");

/// The figure that is compared: the less the better.
fn figure(shape: &Shape, outcome: &Outcome) -> f64 {
    match shape.kind {
        Kind::Open { .. } => quantile(&outcome.latencies, 0.5) / 1e3,
        Kind::Idle { .. } => outcome.memory.unwrap_or(0.0) / 1024.0,
        Kind::Closed { .. } | Kind::Away { .. } | Kind::Connects { .. } => {
            per(outcome.server_cpu.as_secs_f64(), outcome.count) * 1e6
        }
    }
}

fn unit(shape: &Shape) -> &'static str {
    match shape.kind {
        Kind::Closed { .. } | Kind::Away { .. } => "µs CPU/message",
        Kind::Open { .. } => "µs p50",
        Kind::Connects { .. } => "µs CPU/connect",
        Kind::Idle { .. } => "KiB/connection",
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run")]
fn per(total: f64, count: u64) -> f64 {
    if count == 0 { f64::NAN } else { total / count as f64 }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and nanoseconds of one run"
)]
fn quantile(sorted: &[u64], part: f64) -> f64 {
    let index = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(index.saturating_sub(1)).map_or(f64::NAN, |nanos| *nanos as f64)
}

/// Prints one run.
#[expect(clippy::print_stdout, reason = "the figures are the result")]
pub(super) fn progress(run: &Run) {
    let head = format!("{} {:<22}{:<10}", run.round + 1, run.shape.name, run.server.name());
    match &run.result {
        Err(error) => println!("{head}FAILED: {error}"),
        Ok(outcome) => {
            let mut line = format!("{head}{:>9.3} {}", figure(&run.shape, outcome), unit(&run.shape));
            let rate = per(outcome.elapsed.as_secs_f64(), outcome.count).recip();
            let loader = per(outcome.loader_cpu.as_secs_f64(), outcome.count) * 1e6;
            append(&mut line, &format!(", {rate:.0}/s, loader {loader:.3} µs"));
            if !outcome.latencies.is_empty() {
                let at = |part| quantile(&outcome.latencies, part) / 1e3;
                append(&mut line, &format!(", p99 {:.0} p99.9 {:.0} µs", at(0.99), at(0.999)));
            }
            if outcome.faults.count() > 0 {
                append(&mut line, &format!(", FAULTS {:?}", outcome.faults));
            }
            println!("{line}");
        }
    }
}

fn append(line: &mut String, text: &str) {
    line.push_str(text);
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((values.get(middle.checked_sub(1)?)? + upper) / 2.0)
    }
}

struct Runs<'a>(&'a [Run]);

impl Runs<'_> {
    fn of(&self, shape: &Shape, server: Server) -> impl Iterator<Item = &Run> {
        let name = shape.name;
        self.0.iter().filter(move |run| run.shape.name == name && run.server == server)
    }

    fn median(&self, shape: &Shape, server: Server, figure: impl Fn(&Outcome) -> f64) -> Option<f64> {
        median(self.of(shape, server).filter_map(|run| run.result.as_ref().ok()).map(figure).collect())
    }

    /// Median over the rounds of Midge's figure divided by the other's of the same round.
    fn ratio(&self, shape: &Shape, other: Server) -> Option<f64> {
        let ratios = self.of(shape, Server::Midge).filter_map(|run| {
            let other = self.of(shape, other).find(|candidate| candidate.round == run.round)?;
            let (ours, theirs) = (run.result.as_ref().ok()?, other.result.as_ref().ok()?);
            Some(figure(shape, ours) / figure(shape, theirs))
        });
        median(ratios.collect())
    }

    /// What went wrong in a shape, in words.
    fn faults(&self, shape: &Shape, server: Server) -> Option<String> {
        let mut failures = self.of(shape, server).filter_map(|run| run.result.as_ref().err());
        if let Some(error) = failures.next() {
            return Some(format!("failed: {}", error.lines().next().unwrap_or_default()));
        }
        let faults = self.of(shape, server).filter_map(|run| run.result.as_ref().ok()).map(|o| o.faults);
        let (lost, doubled, disordered) = faults.fold((0, 0, 0), |sum, faults| {
            (sum.0 + faults.lost, sum.1 + faults.duplicated, sum.2 + faults.disordered)
        });
        (lost + doubled + disordered > 0)
            .then(|| format!("{lost} lost, {doubled} duplicated, {disordered} out of order"))
    }
}

/// Prints the tables and writes them into a file.
#[expect(clippy::print_stdout, reason = "the figures are the result")]
pub(super) fn publish(
    runs: &[Run],
    shapes: &[Shape],
    (servers, disk): (&[Server], Option<Duration>),
    file: Option<&Path>,
) -> anyhow::Result<()> {
    let mut text = markdown(&Runs(runs), shapes, servers);
    if let Some(disk) = disk {
        let millis = disk.as_secs_f64() * 1e3;
        append(&mut text, &format!("\nThe disk: 64 KiB written and synced in {millis:.1} ms, median.\n"));
    }
    println!("\n{text}");
    let Some(file) = file else { return Ok(()) };
    let document = std::fs::read_to_string(file)?;
    let (head, rest) = document.split_once(MARKERS.0).context("the file has no <!-- compare:begin -->")?;
    let (_, tail) = rest.split_once(MARKERS.1).context("the file has no <!-- compare:end -->")?;
    std::fs::write(file, format!("{head}{}\n{text}{}{tail}", MARKERS.0, MARKERS.1))?;
    Ok(())
}

fn markdown(runs: &Runs<'_>, shapes: &[Shape], servers: &[Server]) -> String {
    let mut out = String::from("| shape | unit |");
    for server in servers {
        append(&mut out, &format!(" {} |", server.name()));
    }
    out.push_str(" Midge / relay | Midge / mosquitto | Midge's rate | loader |\n|---|---|");
    servers.iter().for_each(|_| out.push_str("---:|"));
    out.push_str("---:|---:|---:|---:|\n");
    for shape in shapes {
        line(&mut out, runs, shape, servers);
    }
    let mut wrong = String::new();
    for shape in shapes {
        for &server in servers {
            if let Some(fault) = runs.faults(shape, server) {
                append(&mut wrong, &format!("- {} in {}: {fault}\n", server.name(), shape.name));
            }
        }
    }
    if wrong.is_empty() {
        out.push_str("\nEvery message of every run arrived once and in order.\n");
    } else {
        out.push_str("\nWhat did not arrive once and in order, all rounds together:\n\n");
        out.push_str(&wrong);
    }
    out
}

fn line(out: &mut String, runs: &Runs<'_>, shape: &Shape, servers: &[Server]) {
    let cell = |value: Option<f64>| match value {
        None => "–".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.0}"),
    };
    let times = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}×"));
    append(out, &format!("| {} | {} |", shape.name, unit(shape)));
    for &server in servers {
        let value = runs.median(shape, server, |outcome| figure(shape, outcome));
        append(out, &format!(" {} |", cell(value)));
    }
    let rate = runs
        .median(shape, Server::Midge, |outcome| per(outcome.elapsed.as_secs_f64(), outcome.count).recip());
    let loader = runs
        .median(shape, Server::Midge, |outcome| per(outcome.loader_cpu.as_secs_f64(), outcome.count) * 1e6);
    let rate = rate.map_or("–".to_owned(), |rate| format!("{rate:.0}/s"));
    let loader = loader.map_or("–".to_owned(), |micros| format!("{micros:.2} µs"));
    let (relay, mosquitto) =
        (times(runs.ratio(shape, Server::Relay)), times(runs.ratio(shape, Server::Mosquitto)));
    append(out, &format!(" {relay} | {mosquitto} | {rate} | {loader} |\n"));
}
