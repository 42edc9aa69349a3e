//! Entry deleted → the connection of its client is closed.

use crate::admin::{Edge, Entries};
use anyhow::{Context as _, bail};
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) async fn measure(
    edge: &Edge,
    mut entries: Entries,
    rounds: usize,
) -> anyhow::Result<Vec<Duration>> {
    let broker: SocketAddr = edge.listener("tcp")?.parse()?;
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let id = format!("bench-{round}");
        entries.create(edge, &id, &format!("/app/bench-{round}")).await?;
        let (client, mut events) = connected(broker, round).await?;
        let cut = tokio::spawn(async move {
            while events.poll().await.is_ok() {}
            Instant::now()
        });
        let since = Instant::now();
        entries.delete(&id).await?;
        let ended =
            tokio::time::timeout(Duration::from_secs(10), cut).await.context("the session was not cut")??;
        times.push(ended.saturating_duration_since(since));
        drop(client);
    }
    Ok(times)
}

/// Connects once the entry has arrived: from the cloud that takes a moment.
async fn connected(broker: SocketAddr, round: usize) -> anyhow::Result<(AsyncClient, EventLoop)> {
    let since = Instant::now();
    loop {
        let options = MqttOptions::new(format!("bench-{round}"), broker.ip().to_string(), broker.port());
        let (client, mut events) = AsyncClient::new(options, 10);
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => return Ok((client, events)),
            Ok(other) => bail!("unexpected {other:?}"),
            Err(error) if since.elapsed() > Duration::from_secs(5) => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
