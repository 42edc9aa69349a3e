//! Steps 6 to 8: what is refused, and what a plain client gets.

use super::topics::{APP_TOPIC, publishes};
use crate::demo::certificates::{StolenCa, unknown_ca};
use crate::demo::narrator::Narrator;
use crate::demo::process::run_to_end;
use crate::demo::stage::{DEVICE, NODE, Role, SOON, Stage, TRUST_DOMAIN};
use anyhow::Context as _;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) async fn topics(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let own = format!("$hw/events/device/{DEVICE}");
    let cloud_updated = format!("{own}/twin/cloud_updated");
    let attempts: [(&str, &str, &[&str]); 4] = [
        (
            "another device's topic",
            "publish-denied",
            &["pub", "-t", "$hw/events/device/press-02/twin/update", "-m", "{}"],
        ),
        ("a forged cloud sync", "publish-denied", &["pub", "-t", &cloud_updated, "-m", "{}"]),
        ("a subscription to everything", "subscribe-denied", &["sub", "-t", "#", "-C", "0"]),
        (
            "a will on a topic without right",
            "connect-refused",
            &["pub", "--will-topic", "plant/line-1/alerts", "-t", "x", "-m", "x"],
        ),
    ];
    let (mqtts, api) = (stage.mqtts(), stage.workload_api());
    for (what, event, arguments) in attempts {
        narrator.call(arguments, "by the light mapper's program");
        let from = stage.audit(0).len();
        let mut all = arguments.to_vec();
        all.extend(["--broker", &mqtts, "--workload-api", &api]);
        let ended = stage.run(Role::LightMapper, &all).await?;
        let record = stage.audited(from, |record| record["event"] == event).await;
        refused(narrator, what, !ended.ok() && ended.code.is_some(), record.as_ref(), &ended.said());
    }
    foreign_client_id(stage, narrator).await
}

async fn foreign_client_id(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    // The mapper may come anew by itself, with a renewed SVID; a takeover would be seen every time.
    let stays = mapper_stays(stage, narrator, true).await?
        || mapper_stays(stage, narrator, false).await?
        || mapper_stays(stage, narrator, false).await?;
    let seen =
        "client ids belong to an identity: the app got a session of its own, the mapper stayed connected";
    narrator.check(stays, "taking over the mapper's session by its client id", seen);
    Ok(())
}

/// Tells whether the mapper's connection outlives that of an app with the same client id.
async fn mapper_stays(stage: &mut Stage, narrator: &mut Narrator, is_told: bool) -> anyhow::Result<bool> {
    let mapper_id = format!("/mapper/{DEVICE}");
    let before = stage.session(&mapper_id).await?.context("the mapper has no session")?;
    let client_id = before["client_id"].as_str().unwrap_or_default();
    if is_told {
        narrator.command(&format!(
            "midge pub --id {client_id} …   # by the program app: the mapper's client id, the app's identity"
        ));
    }
    let (mqtts, api) = (stage.mqtts(), stage.workload_api());
    let arguments =
        ["pub", "--broker", &mqtts, "--workload-api", &api, "--id", client_id, "-t", APP_TOPIC, "-m", "mine"];
    stage.run(Role::App, &arguments).await?;
    let after = stage.session(&mapper_id).await?;
    Ok(after.is_some_and(|after| after["connected_at_ms"] == before["connected_at_ms"]))
}

fn refused(narrator: &mut Narrator, what: &str, held: bool, record: Option<&Value>, said: &str) {
    let reason = record.and_then(|record| record["reason"].as_str());
    let seen = match reason {
        Some(reason) => format!("client: {said}; audit: {reason}"),
        None => format!("client: {said}; nothing in the audit log"),
    };
    narrator.check(held && reason.is_some(), what, &seen);
}

pub(super) async fn door(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let mapper = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/mapper/{DEVICE}");
    let good = stage.dir.join("good");
    mint(stage, narrator, &mapper, "60", &good).await?;
    let bundle = std::fs::read_to_string(good.join("bundle.pem"))?;
    let chain = std::fs::read(good.join("svid.pem"))?;
    let dir = |name: &str| stage.dir.join(name);

    let expired = dir("expired");
    mint(stage, narrator, &mapper, "1", &expired).await?;
    let gone = dir("gone");
    gone_entry(stage, narrator, &gone).await?;
    unknown_ca(&dir("unknown-ca"), &mapper, &bundle)?;
    let ca = StolenCa::take(&chain, &stage.edge_dir().join("keys"))?;
    let other = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/app/dashboard");
    ca.two_identities(&dir("two-uri-sans"), &[&mapper, &other], &bundle)?;
    ca.as_client(&dir("ca-as-client"), &bundle)?;

    let topic = format!("$hw/events/device/{DEVICE}/twin/get");
    let mqtts = stage.mqtts();
    let good_text = good.display().to_string();
    let twin = publishes(stage, Role::Intruder, &["--broker", &mqtts, "--svid", &good_text], &topic).await?;
    narrator.check(twin, "the twin of these attempts, with a good SVID, is let in", "");
    // Expiry is in whole seconds, the last of which counts in full.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let broker = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/broker");
    let attempts = [
        ("an SVID of an unknown CA", dir("unknown-ca")),
        ("an expired SVID", expired),
        ("a good SVID whose entry is gone", gone),
        ("a certificate with two URI SANs", dir("two-uri-sans")),
        ("a CA certificate as client", dir("ca-as-client")),
    ];
    for (what, svid) in attempts {
        let svid = svid.display().to_string();
        let identity = ["--broker", &mqtts, "--broker-id", &broker, "--svid", &svid];
        at_the_door(stage, narrator, what, &identity, &topic).await?;
    }
    let mqtt = stage.mqtt();
    at_the_door(stage, narrator, "plain TCP from a uid without entry", &["--broker", &mqtt], &topic).await
}

async fn at_the_door(
    stage: &Stage,
    narrator: &mut Narrator,
    what: &str,
    identity: &[&str],
    topic: &str,
) -> anyhow::Result<()> {
    let from = stage.audit(0).len();
    let mut arguments = vec!["pub", "-t", topic, "-m", "{}"];
    arguments.extend(identity);
    let ended = stage.run(Role::Intruder, &arguments).await?;
    let record = stage.audited(from, |record| record["event"] == "connection-refused").await;
    refused(narrator, what, !ended.ok() && ended.code.is_some(), record.as_ref(), &ended.said());
    Ok(())
}

async fn mint(stage: &Stage, narrator: &Narrator, id: &str, ttl: &str, dir: &Path) -> anyhow::Result<()> {
    let dir = dir.display().to_string();
    stage
        .operator(narrator, "edge", &["svid", "mint", "-spiffeID", id, "-ttl", ttl, "--write", &dir])
        .await?;
    Ok(())
}

/// Makes an entry, mints its SVID, and deletes the entry again.
async fn gone_entry(stage: &Stage, narrator: &Narrator, dir: &Path) -> anyhow::Result<()> {
    let id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/app/gone");
    let create =
        ["entry", "create", "-newEntryID", "gone", "-spiffeID", &id, "-selector", "unix:uid:4294967294"];
    stage.operator(narrator, "edge", &create).await?;
    mint(stage, narrator, &id, "60", dir).await?;
    stage.operator(narrator, "edge", &["entry", "delete", "-entryID", "gone"]).await?;
    Ok(())
}

pub(super) async fn unmodified(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let uid = rustix::process::getuid().as_raw();
    let id = format!("spiffe://{TRUST_DOMAIN}/edge/{NODE}/app/uid-{uid}");
    let selector = format!("unix:uid:{uid}");
    let create = [
        "entry",
        "create",
        "-newEntryID",
        "uid",
        "-spiffeID",
        &id,
        "-selector",
        &selector,
        "-publish",
        "plant/line-1/plain",
    ];
    stage.operator(narrator, "edge", &create).await?;
    let client = plain_client(stage);
    narrator.command(&format!("{} -p {} -t plant/line-1/plain -m hello", client.name, stage.tcp_port()));
    let from = stage.audit(0).len();
    let allowed = client.publish(stage, "plant/line-1/plain").await?;
    narrator.check(allowed, "it publishes what its uid's entry grants", "");
    // Others may just be changing their SVIDs; they come over mTLS.
    let local = |record: &Value| record["event"] == "connected" && record["proof"]["kind"] == "local";
    let record = stage.audited(from, local).await;
    let identity = record.as_ref().and_then(|record| record["identity"].as_str()).unwrap_or_default();
    narrator.check(identity == id, "its identity is that of its uid", identity);
    let app = stage.app.as_mut().context("the app is not there")?;
    let received = app
        .line(0, SOON, "plain client's message", |line| line.json()["topic"] == "plant/line-1/plain")
        .await;
    narrator.check(received.is_ok(), "the app receives it", "");
    let from = stage.audit(0).len();
    client.publish(stage, APP_TOPIC).await?;
    let denied = stage.audited(from, |record| record["event"] == "publish-denied").await;
    let reason = denied.as_ref().and_then(|record| record["reason"].as_str()).unwrap_or_default();
    narrator.check(denied.is_some(), "and nothing more", reason);
    Ok(())
}

struct PlainClient {
    name: &'static str,
    program: PathBuf,
}

/// mosquitto_pub where it is installed, else our own command, which on this port knows no identity either.
fn plain_client(stage: &Stage) -> PlainClient {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mosquitto =
        std::env::split_paths(&path).map(|dir| dir.join("mosquitto_pub")).find(|file| file.is_file());
    match mosquitto {
        Some(program) => PlainClient { name: "mosquitto_pub", program },
        None => PlainClient { name: "midge pub", program: stage.program(Role::Intruder) },
    }
}

impl PlainClient {
    async fn publish(&self, stage: &Stage, topic: &str) -> anyhow::Result<bool> {
        let (port, mqtt) = (stage.tcp_port().to_string(), stage.mqtt());
        let arguments: Vec<&str> = if self.name == "mosquitto_pub" {
            vec!["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-m", "hello"]
        } else {
            vec!["pub", "--broker", &mqtt, "-t", topic, "-m", "hello"]
        };
        Ok(run_to_end(&self.program, &arguments, Duration::from_secs(20)).await?.ok())
    }
}
