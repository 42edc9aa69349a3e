//! Steps 4 and 5: the light, and who reaches what.

use crate::demo::narrator::Narrator;
use crate::demo::stage::{DEVICE, NODE, Role, SOON, Stage, TRUST_DOMAIN};
use anyhow::{Context as _, ensure};
use std::time::{Duration, Instant};

/// What the app was granted to publish.
pub(super) const APP_TOPIC: &str = "plant/line-1/alerts";

pub(super) async fn light(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let create = ["device", "create", DEVICE, "--node", NODE, "--property", "power-status=OFF"];
    stage.operator(narrator, "cloud", &create).await?;
    let mapper = stage.mapper.as_mut().context("the mapper is not there")?;
    mapper.line(0, SOON, "connection", |line| line.json()["event"] == "connected").await?;
    mapper.line(0, SOON, "first twin", |line| line.json()["event"] == "light").await?;
    let session = stage.session(&format!("/mapper/{DEVICE}")).await?;
    let proof = session.as_ref().map(|session| session["proof"].to_string()).unwrap_or_default();
    narrator.check(proof.contains("x509-svid"), "the mapper is connected over mTLS as itself", &proof);
    let state = device_when(stage, "state is online", |device| device["state"] == "online").await;
    narrator.check(state.is_ok(), "its state is at the cloud", &seen(&state, "state"));

    let since = Instant::now();
    stage.operator(narrator, "cloud", &["device", "set", DEVICE, "power-status", "ON"]).await?;
    let mapper = stage.mapper.as_mut().context("the mapper is not there")?;
    let line = mapper
        .line(0, SOON, "light", |line| line.json()["event"] == "light" && line.json()["on"] == true)
        .await?;
    let took = line.at.saturating_duration_since(since).as_secs_f64() * 1000.0;
    narrator.check(
        true,
        "`device set … ON` at the cloud turns the light on",
        &format!("{took:.0} ms after the command began"),
    );
    let actual =
        device_when(stage, "actual is ON", |device| device["twin"]["power-status"]["actual"] == "ON").await;
    narrator.check(actual.is_ok(), "and the actual value is back at the cloud", &seen(&actual, "twin"));
    Ok(())
}

async fn device_when(
    stage: &Stage,
    what: &str,
    wanted: impl Fn(&serde_json::Value) -> bool,
) -> anyhow::Result<serde_json::Value> {
    let since = Instant::now();
    loop {
        let device = stage.quietly("cloud", &["device", "show", DEVICE]).await?.json()?;
        if wanted(&device) {
            return Ok(device);
        }
        ensure!(since.elapsed() < SOON, "not {what}: {device}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn seen(result: &anyhow::Result<serde_json::Value>, key: &str) -> String {
    match result {
        Ok(device) if key == "twin" => {
            let properties = device[key].as_object().into_iter().flatten();
            let told = properties.map(|(name, twin)| {
                let of = |value: &str| twin[value].as_str().unwrap_or("-").to_owned();
                format!("{name}: desired {}, actual {}", of("desired"), of("actual"))
            });
            told.collect::<Vec<_>>().join("; ")
        }
        Ok(device) => device[key].as_str().map_or_else(|| device[key].to_string(), str::to_owned),
        Err(error) => format!("{error:#}"),
    }
}

pub(super) async fn reach(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    start_app(stage, narrator).await?;
    let mapper_topic = format!("$hw/events/device/{DEVICE}/twin/update");
    let result_topic = format!("$hw/events/device/{DEVICE}/twin/update/result");
    event_bus_svid(stage, narrator).await?;
    let bus = stage.path("event-bus");
    let mqtts = stage.mqtts();
    let api = stage.workload_api();
    let workload = ["--broker", &mqtts, "--workload-api", &api];
    let minted = ["--broker", &mqtts, "--svid", &bus];
    let cast: [(&str, Role, &[&str], &str, &str); 3] = [
        ("mapper", Role::LightMapper, &workload, &mapper_topic, &result_topic),
        ("app", Role::App, &workload, APP_TOPIC, "plant/line-1/#"),
        ("event-bus", Role::Intruder, &minted, &result_topic, "$hw/events/device/+/twin/+"),
    ];
    for (name, role, identity, own_publish, own_subscribe) in cast {
        let mut held = Vec::new();
        for (other, _, _, publish, subscribe) in cast {
            let (may_publish, may_subscribe) = (publish == own_publish, subscribe == own_subscribe);
            let published = publishes(stage, role, identity, publish).await?;
            let subscribed = subscribes(stage, role, identity, subscribe).await?;
            if published != may_publish || subscribed != may_subscribe {
                let found = format!("on the {other}'s topics: publish {published}, subscribe {subscribed}");
                narrator.check(false, &format!("{name} reaches its own topics only"), &found);
            } else {
                held.push(if other == name { "own: yes".to_owned() } else { format!("{other}'s: no") });
            }
        }
        if held.len() == cast.len() {
            narrator.check(true, &format!("{name} reaches its own topics only"), &held.join(", "));
        }
    }
    let app = stage.app.as_mut().context("the app is not there")?;
    let line = app.line(0, SOON, "message", |line| line.json()["topic"] == APP_TOPIC).await?;
    narrator.check(true, "the app reads what it was granted", &line.text);
    Ok(())
}

async fn start_app(stage: &mut Stage, narrator: &Narrator) -> anyhow::Result<()> {
    let path = format!("unix:path:{}", stage.program(Role::App).canonicalize()?.display());
    let id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/app/dashboard");
    let parent = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}");
    let arguments = [
        "entry",
        "create",
        "-newEntryID",
        "app",
        "-spiffeID",
        &id,
        "-parentID",
        &parent,
        "-selector",
        &path,
        "-publish",
        APP_TOPIC,
        "-subscribe",
        "plant/line-1/#",
    ];
    stage.operator(narrator, "cloud", &arguments).await?;
    stage.entry_arrives("app").await?;
    let (mqtts, api) = (stage.mqtts(), stage.workload_api());
    narrator.command("midge sub -t 'plant/line-1/#'   # by the program app");
    let arguments = [
        "sub",
        "--broker",
        &mqtts,
        "--workload-api",
        &api,
        "--id",
        "dashboard",
        "-t",
        "plant/line-1/#",
        "--output",
        "json",
    ];
    let mut app = stage.start("app", Role::App, &arguments)?;
    app.line(0, SOON, "subscription", |line| line.json()["event"] == "subscribed").await?;
    stage.app = Some(app);
    Ok(())
}

/// The event-bus is part of the edge; to try its reach from outside the operator mints its SVID.
async fn event_bus_svid(stage: &Stage, narrator: &Narrator) -> anyhow::Result<()> {
    let id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/event-bus");
    let dir = stage.path("event-bus");
    stage
        .operator(narrator, "edge", &["svid", "mint", "-spiffeID", &id, "-ttl", "60", "--write", &dir])
        .await?;
    Ok(())
}

pub(super) async fn publishes(
    stage: &Stage,
    role: Role,
    identity: &[&str],
    topic: &str,
) -> anyhow::Result<bool> {
    let mut arguments = vec!["pub", "-t", topic, "-m", "{}"];
    arguments.extend(identity);
    Ok(stage.run(role, &arguments).await?.ok())
}

pub(super) async fn subscribes(
    stage: &Stage,
    role: Role,
    identity: &[&str],
    filter: &str,
) -> anyhow::Result<bool> {
    // `-C 0` ends as soon as the subscription stands.
    let mut arguments = vec!["sub", "-t", filter, "-C", "0"];
    arguments.extend(identity);
    Ok(stage.run(role, &arguments).await?.ok())
}
