//! Steps 10 and 11: the cloud is back.

use crate::demo::narrator::Narrator;
use crate::demo::stage::{DEVICE, EDGE_CA_TTL_SECS, NODE, SOON, Stage, TRUST_DOMAIN};
use crate::output::span;
use anyhow::Context as _;
use midge_identity::UnixMillis;
use std::time::{Duration, Instant};

pub(super) async fn lease_secs(stage: &Stage) -> anyhow::Result<u64> {
    let status = stage.status("edge").await?;
    status["lease"]["remaining_secs"].as_u64().with_context(|| format!("no lease in {status}"))
}

pub(super) async fn returns(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    stage.start_cloud(narrator).await?;
    // Made before the edge has found its cloud again, or as good as.
    let id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/app/meanwhile");
    let parent = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}");
    let create = [
        "entry",
        "create",
        "-newEntryID",
        "meanwhile",
        "-spiffeID",
        &id,
        "-parentID",
        &parent,
        "-selector",
        "unix:uid:4294967294",
    ];
    stage.operator(narrator, "cloud", &create).await?;
    stage.operator(narrator, "cloud", &["entry", "delete", "-entryID", "late"]).await?;
    let since = Instant::now();
    stage
        .status_when("edge", Duration::from_secs(20), "connected", |status| {
            status["cloud"]["connected"] == true
        })
        .await?;
    narrator.check(
        true,
        "the edge finds its cloud again",
        &format!("{:.1} s", since.elapsed().as_secs_f64()),
    );
    let converged = converge(stage).await;
    let seen =
        converged.as_ref().map_or_else(|error| format!("{error:#}"), |()| "one entry came, one went".into());
    narrator.check(converged.is_ok(), "the changes made meanwhile arrive", &seen);
    deletion_cuts(stage, narrator).await
}

async fn converge(stage: &Stage) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let came = stage.quietly("edge", &["entry", "show", "-entryID", "meanwhile"]).await?.ok();
        let went = !stage.quietly("edge", &["entry", "show", "-entryID", "late"]).await?.ok();
        if came && went {
            return Ok(());
        }
        anyhow::ensure!(since.elapsed() < SOON, "new entry there: {came}, deleted entry gone: {went}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn deletion_cuts(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let mapper_id = format!("/mapper/{DEVICE}");
    let app_session = when_connected(stage, "/app/dashboard").await?;
    let since = UnixMillis(app_session["connected_at_ms"].as_u64().unwrap_or_default());
    narrator.note(&format!("the app is connected since {since}"));
    let mapper_before = when_connected(stage, &mapper_id).await?;
    let from = stage.audit(0).len();
    stage.operator(narrator, "cloud", &["entry", "delete", "-entryID", "app"]).await?;
    let deleted = Instant::now();
    let cut = stage
        .audited(from, |record| {
            record["event"] == "disconnected"
                && record["identity"].as_str().is_some_and(|id| id.ends_with("/app/dashboard"))
        })
        .await;
    let took = deleted.elapsed();
    let reason = cut.as_ref().map(|record| record["reason"].to_string()).unwrap_or_default();
    let seen = format!("{:.0} ms after the command, {reason}", took.as_secs_f64() * 1000.0);
    let held = cut.is_some() && took < Duration::from_secs(1);
    narrator.check(held, "a deleted entry's client is cut within a second", &seen);
    let others = stage.audit(from).into_iter().filter(|record| {
        record["event"] == "disconnected"
            && record["reason"].as_str().is_some_and(|reason| reason.contains("revoked"))
            && record["identity"].as_str().is_some_and(|id| !id.ends_with("/app/dashboard"))
    });
    let mapper_after = when_connected(stage, &mapper_id).await.is_ok();
    let seen = format!("the mapper's session of {} goes on", mapper_before["client_id"]);
    narrator.check(others.count() == 0 && mapper_after, "the others notice nothing", &seen);
    Ok(())
}

/// A client that is just changing its SVID is back within a moment.
async fn when_connected(stage: &Stage, id_end: &str) -> anyhow::Result<serde_json::Value> {
    let since = Instant::now();
    loop {
        if let Some(session) = stage.session(id_end).await? {
            return Ok(session);
        }
        anyhow::ensure!(since.elapsed() < SOON, "{id_end} is not connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn lease(stage: &Stage, narrator: &mut Narrator, alone: u64) -> anyhow::Result<()> {
    narrator.command("midge status   # at the edge");
    narrator.check(alone > 0, "it was shown while the cloud was away", &format!("{} left", span(alone)));
    narrator.note("the next CA is fetched once half of the current one's life is over");
    let longer = stage
        .status_when("edge", Duration::from_secs(EDGE_CA_TTL_SECS / 2 + 5), "a longer lease", |status| {
            status["lease"]["remaining_secs"].as_u64().is_some_and(|secs| secs > alone)
        })
        .await;
    let seen = match &longer {
        Ok(status) => format!(
            "{} left, {}",
            span(status["lease"]["remaining_secs"].as_u64().unwrap_or_default()),
            status["lease"]["reason"].as_str().unwrap_or_default()
        ),
        Err(error) => format!("{error:#}"),
    };
    narrator.check(longer.is_ok(), "and is longer again with the cloud", &seen);
    Ok(())
}
