//! Keeps a light and its twin alike.

use crate::config::LightConfig;
use crate::event::{LightEvent, Observer};
use crate::lamp::Lamp;
use crate::light::{Action, Light};
use anyhow::Context as _;
use mapper_sdk::{
    CancellationToken, DeviceTopics, Link, LinkConfig, LinkEvent, SvidIdentity, Will, WorkloadIdentity,
    broker_beside, state_update,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

/// Between two questions for a twin that has not come: the device may not be known on the box yet.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Between two questions for a twin that is known: a delta that was lost is made up for.
const ASK_FRESH: Duration = Duration::from_secs(30);
/// Longest time for the last messages to be sent.
const FAREWELL: Duration = Duration::from_secs(3);

/// Runs a light until `token` is cancelled.
///
/// # Errors
/// When the GPIO line cannot be had, no Workload API is configured, or no broker can be derived
/// from the mapper's identity. Everything else is waited out.
pub async fn run(config: LightConfig, token: CancellationToken) -> anyhow::Result<()> {
    let lamp = Lamp::open(&config.lamp)?;
    let topics = DeviceTopics::new(&config.device, config.form);
    let observer = config.observer.clone();
    let waited = WorkloadIdentity::wait(config.source.clone(), &token, |reason| {
        observer.tell(&LightEvent::Waiting { reason: reason.to_owned() });
    });
    let identity = match waited.await {
        Ok(identity) => Arc::new(identity),
        Err(_) if token.is_cancelled() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let link_token = CancellationToken::new();
    let svid = identity.usable().context("the identity was withdrawn at once")?;
    observer.tell(&introduction(&svid));
    let link_config = link_config(&config, &topics, &svid)?;
    let link = Link::open(link_config, Arc::clone(&identity), link_token.clone());
    let mut task = LightTask { light: Light::new(topics.clone(), lamp), link, identity, svid, observer };
    task.serve(&token).await;
    task.publish(topics.state_update(), state_update("offline"));
    link_token.cancel();
    // Whether the farewell arrives does not matter to anybody who waits for the end of this process.
    drop(timeout(FAREWELL, async { while task.link.next().await.is_some() {} }).await);
    Ok(())
}

fn introduction(svid: &SvidIdentity) -> LightEvent {
    LightEvent::Identity { spiffe_id: svid.id.to_string(), serial: svid.serial(), expires: svid.expires.0 }
}

fn link_config(
    config: &LightConfig,
    topics: &DeviceTopics,
    svid: &SvidIdentity,
) -> anyhow::Result<LinkConfig> {
    let broker = config.broker.clone().or_else(|| broker_beside(&svid.id)).with_context(|| {
        format!("{} is not below an edge box; say which SPIFFE ID the broker has", svid.id)
    })?;
    Ok(LinkConfig {
        subscriptions: topics.subscriptions(),
        will: Some(Will { topic: topics.state_update(), payload: state_update("offline") }),
        ..LinkConfig::new(&config.host, config.port, broker, &config.client_id)
    })
}

struct LightTask {
    light: Light,
    link: Link,
    identity: Arc<WorkloadIdentity>,
    /// The SVID told of last.
    svid: Arc<SvidIdentity>,
    observer: Observer,
}

impl LightTask {
    async fn serve(&mut self, token: &CancellationToken) {
        let mut connected = false;
        let mut ask_at = Instant::now() + ASK_AGAIN;
        loop {
            let event = tokio::select! {
                () = token.cancelled() => return,
                event = self.link.next() => event,
                () = sleep_until(ask_at), if connected => {
                    let actions = self.light.handle_timeout();
                    self.execute(actions);
                    ask_at = self.next_question();
                    continue;
                }
            };
            match event {
                None => return,
                Some(LinkEvent::Connected { resumed }) => {
                    connected = true;
                    self.introduce();
                    self.observer.tell(&LightEvent::Connected { resumed });
                    let actions = self.light.handle_connected();
                    self.execute(actions);
                    ask_at = self.next_question();
                }
                Some(LinkEvent::Message { topic, payload }) => {
                    let actions = self.light.handle_message(&topic, &payload);
                    self.execute(actions);
                    ask_at = self.next_question();
                }
                Some(LinkEvent::Renewing) => self.observer.tell(&LightEvent::Renewing),
                Some(LinkEvent::Disconnected { reason }) => {
                    connected = false;
                    self.observer.tell(&LightEvent::Disconnected { reason });
                }
                Some(
                    LinkEvent::PublishRefused { topic, reason }
                    | LinkEvent::SubscriptionRefused { filter: topic, reason },
                ) => self.observer.tell(&LightEvent::Refused { topic, reason }),
            }
        }
    }

    fn introduce(&mut self) {
        if let Some(svid) = self.identity.usable().filter(|svid| !Arc::ptr_eq(svid, &self.svid)) {
            self.observer.tell(&introduction(&svid));
            self.svid = svid;
        }
    }

    fn next_question(&self) -> Instant {
        Instant::now() + if self.light.is_synced() { ASK_FRESH } else { ASK_AGAIN }
    }

    fn execute(&self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Publish { topic, payload } => self.publish(topic, payload),
                Action::Tell(event) => self.observer.tell(&event),
            }
        }
    }

    fn publish(&self, topic: String, payload: Vec<u8>) {
        if let Err(error) = self.link.publish(topic, payload) {
            warn!(%error, "not published");
        }
    }
}
