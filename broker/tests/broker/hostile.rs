//! Peers that mean no good, on real sockets. Beside each of them a well-behaved pair exchanges messages,
//! and loses none.
//!
//! With `MIDGE_HOSTILE=table` each attack is as strong as the machine can make it and goes on for some seconds. The
//! pair sends at a fixed rate meanwhile, whatever becomes of what it sent before (`table.rs`); its latencies without
//! and with the attack are printed, and what rate the attack reached:
//! `MIDGE_HOSTILE=table cargo test --release -p midge-broker --test broker hostile -- --nocapture --test-threads 1`

mod arrivals;
mod connects;
mod frames;
mod packets;
mod pair;
mod table;
mod topics;

use crate::house::{House, SOON};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Exchanges of the pair before and beside each attack.
const EXCHANGES: usize = 20;

fn is_measured() -> bool {
    std::env::var("MIDGE_HOSTILE").is_ok_and(|mode| mode == "table")
}

/// The first where the attacks are measured, else the second.
fn measured_or<T>(measured: T, otherwise: T) -> T {
    if is_measured() { measured } else { otherwise }
}

/// Runs an attack beside the pair, which must lose nothing. The attack says how many it did of what it does (`unit`).
async fn beside<F: Future<Output = u64>>(
    house: &House,
    (name, unit): (&str, &str),
    attack: impl Fn() -> F + Sync,
) {
    if is_measured() {
        let row = tokio::task::block_in_place(|| table::measure(house, &attack));
        return println!("| {name} | {row} {unit}/s |");
    }
    let mut pair = pair::Pair::open(house).await;
    pair.exchange_while(|count| count < EXCHANGES).await;
    let is_over = AtomicBool::new(false);
    let attacks = async {
        attack().await;
        is_over.store(true, Ordering::Relaxed);
    };
    let exchanges = pair.exchange_while(|count| !is_over.load(Ordering::Relaxed) || count < EXCHANGES);
    tokio::join!(attacks, exchanges);
}

/// Reads until the broker closes.
async fn closed<S: AsyncRead + Unpin>(mut stream: S) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await;
    assert!(read.is_ok(), "the broker keeps the connection");
    bytes
}
