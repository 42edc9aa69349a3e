//! Steps 1 to 3: from nothing to a mapper with an identity.

use crate::demo::narrator::Narrator;
use crate::demo::stage::{DEVICE, NODE, Role, SOON, Stage, TRUST_DOMAIN, holds};
use crate::exit;
use anyhow::Context as _;
use std::time::{Duration, Instant};

pub(super) async fn enrol(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    stage.start_cloud(narrator).await?;
    let id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}");
    let token = stage.operator(narrator, "cloud", &["token", "generate", "-spiffeID", &id]).await?;
    let token = token["token"].as_str().context("no token")?.to_owned();
    midge_pki::write_private(stage.dir.join("join-token"), token.as_bytes())?;

    let since = Instant::now();
    stage.start_edge(narrator).await?;
    let status = stage
        .status_when("edge", SOON, "connected with a CA", |status| {
            status["cloud"]["connected"] == true && status["ca"]["serial"].is_string()
        })
        .await?;
    let ca = status["ca"]["serial"].as_str().unwrap_or_default().to_owned();
    narrator.check(true, "the edge is enrolled and connected", &format!("{:.0} ms", ms(since)));
    let channel = stage.audit(0).into_iter().find(|record| record["event"] == "ca-installed");
    narrator.check(
        channel.as_ref().is_some_and(|record| record["source"] == "cloud-channel"),
        "its intermediate CA came over the websocket",
        &format!("CA {ca}"),
    );
    key_stays(stage, narrator)?;
    token_is_spent(stage, narrator).await
}

fn key_stays(stage: &Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let mut keys = 0;
    let mut leaked = false;
    for item in std::fs::read_dir(stage.edge_dir().join("keys"))? {
        let path = item?.path();
        if let Ok(key) = midge_pki::PrivateKey::load(&path) {
            keys += 1;
            leaked |= holds(&stage.cloud_dir(), &key.to_pkcs8_der());
        }
    }
    let seen = format!("{keys} private keys on the box, readable by their owner only, none at the cloud");
    narrator.check(keys > 0 && !leaked, "the CA's key never left the box", &seen);
    Ok(())
}

async fn token_is_spent(stage: &Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator.command("midge edge -c thief.toml   # another box, same token");
    let thief = stage.run(Role::Intruder, &["edge", "-c", &stage.path("thief.toml")]).await?;
    let refused = thief.code == Some(i32::from(exit::PERMISSION));
    let told = thief.stderr.contains("already been used");
    narrator.check(refused && told, "the token does not work twice", &thief.said());
    Ok(())
}

pub(super) async fn nobody(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let api = stage.workload_api();
    narrator.command("midge svid fetch   # by the program intruder");
    let fetched = stage.run(Role::Intruder, &["svid", "fetch", "--workload-api", &api]).await?;
    let refused = fetched.code == Some(i32::from(exit::NO)) && fetched.stderr.contains("no identity issued");
    narrator.check(refused, "the Workload API gives it no SVID", &fetched.said());

    narrator.command("midge pub -t demo/x -m hello   # by intruder");
    let audit = stage.audit(0).len();
    let mqtt = stage.mqtt();
    let published =
        stage.run(Role::Intruder, &["pub", "--broker", &mqtt, "-t", "demo/x", "-m", "hello"]).await?;
    narrator.check(!published.ok(), "it cannot connect over loopback TCP", &published.said());
    let record = stage.audited(audit, |record| record["event"] == "connection-refused").await;
    let reason = record.map(|record| record["reason"].to_string()).unwrap_or_default();
    narrator.check(!reason.is_empty(), "the refusal is audited", &reason);
    Ok(())
}

pub(super) async fn entry(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator.command(&format!("light-mapper --device {DEVICE}   # started before it has an entry"));
    let broker = format!("127.0.0.1:{}", stage.tls_port());
    let broker_id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/broker");
    let api = stage.workload_api();
    let arguments = [
        "light-mapper",
        "--device",
        DEVICE,
        "--broker",
        &broker,
        "--broker-id",
        &broker_id,
        "--workload-api",
        &api,
        "--output",
        "json",
    ];
    let mut mapper = stage.start("light-mapper", Role::LightMapper, &arguments)?;
    mapper.line(0, SOON, "word that it waits", |line| line.json()["event"] == "waiting").await?;

    let path = format!("unix:path:{}", stage.program(Role::LightMapper).canonicalize()?.display());
    let id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/mapper/{DEVICE}");
    let parent = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}");
    let arguments = [
        "entry",
        "create",
        "-newEntryID",
        "mapper",
        "-spiffeID",
        &id,
        "-parentID",
        &parent,
        "-selector",
        &path,
    ];
    let since = Instant::now();
    stage.operator(narrator, "cloud", &arguments).await?;
    let line = mapper.line(0, SOON, "identity", |line| line.json()["event"] == "identity").await?;
    let took = line.at.saturating_duration_since(since);
    let seen = format!(
        "{:.0} ms after the command began, {}",
        took.as_secs_f64() * 1000.0,
        text(&line.json()["id"])
    );
    narrator.check(took < Duration::from_secs(1), "the waiting mapper has its SVID within a second", &seen);
    narrator.check(
        mapper.runs(),
        "without being restarted",
        &format!("still process {}", mapper.id().unwrap_or(0)),
    );
    stage.mapper = Some(mapper);
    Ok(())
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
