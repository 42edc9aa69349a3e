//! Entry created → the waiting workload holds its SVID and key.

use crate::admin::{Edge, Entries};
use anyhow::Context as _;
use midge_agent::client::{WorkloadClient, await_identity};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) async fn measure(
    edge: &Edge,
    mut entries: Entries,
    rounds: usize,
) -> anyhow::Result<Vec<Duration>> {
    let socket = Path::new(edge.listener("workload-api")?).to_owned();
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let workload = socket.clone();
        let waiting = tokio::spawn(async move {
            await_identity(&workload).await?;
            let context = WorkloadClient::connect(&workload).await?.fetch_x509().await?;
            Ok::<_, anyhow::Error>((Instant::now(), context.svids.len()))
        });
        // The workload has to be waiting before the entry is made, or its start would be measured too.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let id = format!("bench-{round}");
        let since = Instant::now();
        entries.create(edge, &id, &format!("/app/bench-{round}")).await?;
        let (held, svids) = waiting.await?.context("the workload got nothing")?;
        anyhow::ensure!(svids == 1, "{svids} SVIDs instead of 1");
        times.push(held.saturating_duration_since(since));
        entries.delete(&id).await?;
        while WorkloadClient::connect(&socket).await?.fetch_x509().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(times)
}
