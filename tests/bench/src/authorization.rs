//! What authorization costs per message: an operator's policy beside one rule that allows everything, in
//! processes that differ in nothing else.

use crate::compare::programs;
use crate::compare::servers::{POLICY, Programs, Running, Server};
use crate::load::{self, Outcome, Shape, Timing, Version};
use anyhow::{Context as _, ensure};
use std::path::PathBuf;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Shapes of `compare`, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "p2p-qos0")]
    shapes: Vec<String>,
    /// Rounds; both servers are started anew in each, and run every shape twice.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Seconds measured per run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The midge to measure; default: it is built.
    #[arg(long)]
    midge: Option<PathBuf>,
}

/// Everything that the load and the box's own clients do, allowed by one rule.
const ALLOW_ALL: &str = r##"
[[rule]]
name = "all"
id = "spiffe://{td}/**"
publish = ["#", "$hw/#", "$ke/#", "$identity/#"]
subscribe = ["#", "$hw/#", "$ke/#", "$identity/#", "$SYS/#"]
"##;

/// CPU per message of both, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Pair {
    with: f64,
    without: f64,
}

#[expect(clippy::print_stdout, reason = "the figures are the result")]
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    crate::compare::raise_file_limit();
    let (_, programs) = programs::find(&[Server::Midge], arguments.midge, None, Version::V311).await?;
    let timing =
        Timing { warm: Duration::from_millis(500), measure: Duration::from_secs_f64(arguments.seconds) };
    let named = |name: &String| Shape::named(name).with_context(|| format!("no shape {name}"));
    let shapes = arguments.shapes.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let mut pairs: Vec<Vec<Pair>> = vec![Vec::new(); shapes.len()];
    for round in 0..arguments.rounds.max(1) {
        let measured = one_round(&programs, &shapes, timing, round % 2 == 0).await?;
        for ((shape, pairs), pair) in shapes.iter().zip(&mut pairs).zip(measured) {
            let more = (pair.with / pair.without - 1.0) * 100.0;
            let (with, without) = (pair.with, pair.without);
            println!(
                "{} {}: policy {with:.4}, allow-all {without:.4} µs CPU/message, {more:+.1} %",
                round + 1,
                shape.name
            );
            pairs.push(pair);
        }
    }
    for (shape, pairs) in shapes.iter().zip(&pairs) {
        let of = |figure: fn(&Pair) -> f64| median(pairs.iter().map(figure).collect());
        let (with, without) = (of(|pair| pair.with), of(|pair| pair.without));
        let more = (of(|pair| pair.with / pair.without) - 1.0) * 100.0;
        println!(
            "{}: medians of {} rounds: policy {with:.4}, allow-all {without:.4} µs CPU/message; \
             of the ratios {more:+.1} %",
            shape.name,
            pairs.len(),
        );
    }
    Ok(())
}

/// Runs the shapes against both, in the order A B B A: what drifts meanwhile counts for both.
async fn one_round(
    programs: &Programs,
    shapes: &[Shape],
    timing: Timing,
    is_with_first: bool,
) -> anyhow::Result<Vec<Pair>> {
    let with = Running::midge(programs, POLICY, true, None).await?;
    let without = Running::midge(programs, ALLOW_ALL, false, None).await?;
    let (first, second) = if is_with_first { (&with, &without) } else { (&without, &with) };
    let mut pairs = Vec::new();
    for &shape in shapes {
        let cost = |running: &Running| per_message(&load::run(&running.target, shape, timing)?);
        let early = (cost(first)?, cost(second)?);
        let late = (cost(second)?, cost(first)?);
        let (of_first, of_second) = ((early.0 + late.1) / 2.0, (early.1 + late.0) / 2.0);
        let (with, without) = if is_with_first { (of_first, of_second) } else { (of_second, of_first) };
        pairs.push(Pair { with, without });
    }
    Ok(pairs)
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run")]
fn per_message(outcome: &Outcome) -> anyhow::Result<f64> {
    ensure!(outcome.faults.count() == 0, "messages did not arrive once and in order: {:?}", outcome.faults);
    ensure!(outcome.count > 0, "nothing arrived");
    Ok(outcome.server_cpu.as_secs_f64() * 1e6 / outcome.count as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(lower), at(upper))
}
