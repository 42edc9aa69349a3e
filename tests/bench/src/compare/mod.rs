//! Midge beside mosquitto, rumqttd and the relay, in interleaved rounds.

mod disk;
pub(crate) mod programs;
pub(crate) mod servers;
mod table;

use crate::load::{self, Kind, Outcome, SHAPES, Shape, Timing, Version};
use anyhow::Context as _;
use servers::{Programs, Running, Server};
use std::path::PathBuf;
use std::time::Duration;

/// What to compare.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Shapes; default: all. Separated by commas.
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<String>,
    /// Servers; default: all. Separated by commas.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<Server>,
    /// One short round.
    #[arg(long)]
    quick: bool,
    /// Rounds; every server runs every shape once in each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured per run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// MQTT version of the load: 4 is 3.1.1.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=5))]
    mqtt: u8,
    /// The midge to measure; default: it is built.
    #[arg(long)]
    midge: Option<PathBuf>,
    /// A line for `[mqtt]` of Midge's configuration.
    #[arg(long)]
    midge_option: Option<String>,
    /// Niceness of loader and servers: below 0 (as root) where other programs would disturb.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    nice: i32,
    /// Directory for the files of the servers, which durable shapes measure the disk of; default: the one for
    /// temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// File whose tables between the markers `compare:begin` and `compare:end` are replaced.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// What one server did in one shape and round.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    shape: Shape,
    server: Server,
    round: usize,
    result: Result<Outcome, String>,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    raise_file_limit();
    if arguments.nice != 0 {
        // Of this thread, which is the loader, and of the servers it starts.
        rustix::process::setpriority_process(None, arguments.nice).context("niceness")?;
    }
    let version = if arguments.mqtt == 5 { Version::V5 } else { Version::V311 };
    let shapes = chosen(&arguments.shapes)?;
    let (servers, programs) =
        programs::find(&arguments.servers, arguments.midge, arguments.midge_option, version).await?;
    let programs = Programs { dir: arguments.dir.unwrap_or_else(std::env::temp_dir), ..programs };
    let disk = shapes.iter().any(|shape| shape.durable.is_some());
    let disk = disk.then(|| disk::sync_time(&programs.dir)).transpose()?;
    let (rounds, seconds) =
        if arguments.quick { (1, 1.0) } else { (arguments.rounds.max(1), arguments.seconds) };
    let timing = Timing {
        warm: Duration::from_millis(if arguments.quick { 200 } else { 500 }),
        measure: Duration::from_secs_f64(seconds),
    };
    let mut runs = Vec::new();
    for round in 0..rounds {
        let (alone, loads): (Vec<Shape>, Vec<Shape>) = shapes
            .iter()
            .partition(|shape| matches!(shape.kind, Kind::Idle { .. }) || shape.durable.is_some());
        let mut running = Vec::new();
        for &server in servers.iter().filter(|_| !loads.is_empty()) {
            running.push((server, Running::start(server, &programs, None).await));
        }
        for shape in loads {
            // Who is first takes turns.
            let (later, first) = running.split_at(round % running.len().max(1));
            for (server, running) in first.iter().chain(later) {
                let result = match running {
                    Ok(running) => load::run(&running.target, shape, timing),
                    Err(error) => Err(anyhow::anyhow!("{error:#}")),
                };
                note(&mut runs, round, shape, *server, result);
            }
        }
        drop(running);
        for shape in alone {
            // The relay stores nothing.
            for &server in
                servers.iter().filter(|server| shape.durable.is_none() || **server != Server::Relay)
            {
                let result = match Running::start(server, &programs, shape.durable).await {
                    Ok(running) => load::run(&running.target, shape, timing),
                    Err(error) => Err(error),
                };
                note(&mut runs, round, shape, server, result);
            }
        }
    }
    table::publish(&runs, &shapes, (&servers, disk), arguments.write.as_deref())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Shape>> {
    if names.is_empty() {
        return Ok(SHAPES.to_vec());
    }
    let known = || SHAPES.map(|shape| shape.name).join(", ");
    let named = names
        .iter()
        .map(|name| Shape::named(name).with_context(|| format!("no shape {name}; there are {}", known())));
    named.collect()
}

fn note(runs: &mut Vec<Run>, round: usize, shape: Shape, server: Server, result: anyhow::Result<Outcome>) {
    let run = Run { shape, server, round, result: result.map_err(|error| format!("{error:#}")) };
    table::progress(&run);
    runs.push(run);
}

/// Thousands of connections need as many descriptors, here and in the servers, which inherit the limit.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Refused: then the shapes that need them say so.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap_or_default();
}
