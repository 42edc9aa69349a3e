//! Step 9: life without the cloud.

use super::topics::APP_TOPIC;
use crate::demo::narrator::Narrator;
use crate::demo::stage::{DEVICE, NODE, Role, SOON, SVID_TTL_SECS, Stage, TRUST_DOMAIN};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) async fn alone(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    synced_entry(stage, narrator).await?;
    narrator.command("kill -9 <cloud>");
    stage.cloud.take().context("the cloud is not there")?.kill().await?;
    let status = stage
        .status_when("edge", SOON, "without cloud", |status| status["cloud"]["connected"] == false)
        .await;
    narrator.check(status.is_ok(), "the edge knows that it is alone", "");
    rotates(stage, narrator).await?;
    late_workload(stage, narrator, "a workload with a synced entry that starts now gets its SVID").await?;

    narrator.command("kill -9 <edge>");
    stage.edge.take().context("the edge is not there")?.kill().await?;
    let seen = lines(stage);
    let since = Instant::now();
    stage.start_edge(narrator).await?;
    let took = since.elapsed().as_secs_f64() * 1000.0;
    narrator.check(true, "killed and restarted offline, the edge serves again", &format!("{took:.0} ms"));
    let mapper = stage.mapper.as_mut().context("the mapper is not there")?;
    let back = mapper.line(seen, SOON, "reconnection", |line| line.json()["event"] == "connected").await;
    narrator.check(back.is_ok(), "the mapper is connected again", "");
    late_workload(stage, narrator, "and SVIDs are issued as before").await
}

/// An entry that reaches the edge while there still is a cloud, for a workload that starts later.
async fn synced_entry(stage: &Stage, narrator: &Narrator) -> anyhow::Result<()> {
    let path = format!("unix:path:{}", stage.program(Role::Late).canonicalize()?.display());
    let id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/app/late");
    let parent = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}");
    let create = [
        "entry",
        "create",
        "-newEntryID",
        "late",
        "-spiffeID",
        &id,
        "-parentID",
        &parent,
        "-selector",
        &path,
    ];
    stage.operator(narrator, "cloud", &create).await?;
    stage.entry_arrives("late").await
}

fn lines(stage: &Stage) -> usize {
    stage.mapper.as_ref().map_or(0, |mapper| mapper.lines().len())
}

/// Three SVID lifetimes long: the mapper's SVID changes, and every message arrives.
async fn rotates(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let lifetimes = Duration::from_secs(3 * SVID_TTL_SECS);
    narrator.note(&format!("watching for {} s: three SVID lifetimes", lifetimes.as_secs()));
    let (since, from) = (Instant::now(), lines(stage));
    let (mqtts, api) = (stage.mqtts(), stage.workload_api());
    let mut sent = BTreeSet::new();
    while since.elapsed() < lifetimes {
        let payload = format!("alone-{}", sent.len());
        let arguments = ["pub", "--broker", &mqtts, "--workload-api", &api, "-t", APP_TOPIC, "-m", &payload];
        let ended = stage.run(Role::App, &arguments).await?;
        anyhow::ensure!(ended.ok(), "the app cannot publish: {}", ended.said());
        sent.insert(payload);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mapper = stage.mapper.as_ref().context("the mapper is not there")?;
    let serials: BTreeSet<String> = mapper
        .lines()
        .iter()
        .skip(from)
        .map(|line| line.json())
        .filter(|event| event["event"] == "identity")
        .map(|event| event["serial"].to_string())
        .collect();
    let seen = format!("{} new SVIDs of the mapper in {} s", serials.len(), since.elapsed().as_secs());
    narrator.check(serials.len() >= 3, "SVIDs go on rotating", &seen);
    let app = stage.app.as_mut().context("the app is not there")?;
    let last = format!("alone-{}", sent.len() - 1);
    let arrived = app.line(0, SOON, "last message", |line| line.json()["payload"] == last.as_str()).await;
    let received: BTreeSet<String> =
        app.lines().iter().filter_map(|line| line.json()["payload"].as_str().map(String::from)).collect();
    let missing = sent.difference(&received).count();
    let seen = format!("{} messages sent, {missing} missing", sent.len());
    narrator.check(arrived.is_ok() && missing == 0, "clients talk on over the rotations", &seen);
    let mapper_id = format!("/mapper/{DEVICE}");
    narrator.check(stage.session(&mapper_id).await?.is_some(), "the mapper is connected", "");
    Ok(())
}

async fn late_workload(stage: &Stage, narrator: &mut Narrator, what: &str) -> anyhow::Result<()> {
    let api = stage.workload_api();
    narrator.command("midge svid fetch   # by the program late");
    let fetched =
        stage.run(Role::Late, &["svid", "fetch", "--workload-api", &api, "--output", "json"]).await?;
    let id = fetched.json().map(|json| json["svids"][0]["spiffe_id"].to_string()).unwrap_or_default();
    let seen = if fetched.ok() { id.clone() } else { fetched.said() };
    narrator.check(fetched.ok() && id.contains("/app/late"), what, &seen);
    Ok(())
}
