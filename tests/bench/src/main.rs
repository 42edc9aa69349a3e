//! Measurements: how Midge compares with other brokers, and how long identities and revocations take to
//! arrive.
//!
//! Run by hand: `cargo run --release -p midge-bench -- --help`. What is measured, what it was on
//! which machine, and how to compare: docs/BENCHMARKS.md.

mod admin;
mod authorization;
mod compare;
mod cut;
mod cutoff;
mod entry;
mod figures;
mod load;
mod relay;
mod tls;
mod usage;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use tokio::runtime::Builder;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Admin socket of the edge.
    #[arg(long, global = true, default_value = "midge-data/run/admin.sock")]
    edge: PathBuf,
    /// Admin socket of the server where entries are made and deleted; default: the edge.
    #[arg(long, global = true)]
    at: Option<PathBuf>,
    /// How often.
    #[arg(long, global = true, default_value_t = 200)]
    rounds: usize,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Runs Midge, mosquitto, rumqttd and a bare TLS relay beside each other.
    Compare(compare::Arguments),
    /// The relay of `compare`.
    #[command(hide = true)]
    Relay(relay::Arguments),
    /// What authorization costs per message: an operator's policy beside one rule that allows everything.
    Authorization(authorization::Arguments),
    /// From the end of a right to the end of its use, with thousands of sessions and others at work.
    Cutoff(cutoff::Arguments),
    /// From the call that creates an entry to the moment the waiting workload holds its SVID.
    EntryToSvid,
    /// From the call that deletes an entry to the end of the connection of its client.
    DeleteToCut,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // The relay shows what TLS and sockets cost at least: on one thread, as Midge's connections.
    let mut runtime = match arguments.what {
        What::Relay(_) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let what = match arguments.what.clone() {
        What::Compare(arguments) => return compare::run(arguments).await,
        What::Authorization(options) => return authorization::run(options).await,
        What::Cutoff(options) => return cutoff::run(options, arguments.rounds).await,
        What::Relay(arguments) => return relay::serve(arguments).await,
        what => what,
    };
    let edge = admin::Edge::find(&arguments.edge).await.context("the edge does not answer")?;
    let at = arguments.at.as_deref().unwrap_or(&arguments.edge);
    let entries = admin::Entries::connect(at).await?;
    let times = match what {
        What::DeleteToCut => cut::measure(&edge, entries, arguments.rounds).await?,
        _ => entry::measure(&edge, entries, arguments.rounds).await?,
    };
    figures::print(&times);
    Ok(())
}
