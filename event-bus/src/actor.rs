//! The task that owns the twins: executes their effects and answers commands.

use crate::error::DeviceError;
use crate::handle::Command;
use crate::mqtt::{BusStatus, Incoming};
use crate::{TWIN_PREFIX, UpwardSink};
use bridge_core::twin::{Device, TwinEffect, TwinStore, check_desired};
use bridge_core::{Change, DeviceId, Extent, Now, UpwardItem};
use futures_util::future::join_all;
use midge_runtime::{CancellationToken, Clock, RateLimitedWarn};
use midge_store::{Batch, Durability, Store};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Messages handled in one commit.
const BATCH_MAX: usize = 64;
const RETRY_EVERY: Duration = Duration::from_secs(2);

static UNSENT: RateLimitedWarn = RateLimitedWarn::new(Duration::from_secs(10));

pub(crate) struct Actor {
    pub(crate) twins: TwinStore,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) up: Arc<dyn UpwardSink>,
    pub(crate) client: AsyncClient,
    pub(crate) status: watch::Sender<BusStatus>,
    pub(crate) messages: mpsc::Receiver<Incoming>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// What the disk or the spool has refused, to be tried again.
    pub(crate) unsaved: Unsaved,
}

#[derive(Default)]
pub(crate) struct Unsaved {
    failing: bool,
    twins: BTreeMap<String, Option<Vec<u8>>>,
    publishes: Vec<Publish>,
}

impl Actor {
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut incoming = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(RETRY_EVERY), if self.unsaved.failing => self.retry().await,
                Some(command) = self.commands.recv() => self.handle_command(command).await,
                taken = self.messages.recv_many(&mut incoming, BATCH_MAX) => {
                    if taken == 0 {
                        return;
                    }
                    self.handle_incoming(&mut incoming).await;
                }
            }
        }
    }

    async fn handle_incoming(&mut self, incoming: &mut Vec<Incoming>) {
        let now = self.now();
        let mut handled: Vec<Publish> = Vec::with_capacity(incoming.len());
        for message in incoming.drain(..) {
            match message {
                Incoming::Connected => self.twins.handle_started(now),
                Incoming::Publish(publish) => {
                    if let Ok(topic) = std::str::from_utf8(&publish.topic) {
                        self.twins.handle_publish(topic, &publish.payload, now);
                    }
                    handled.push(*publish);
                }
            }
        }
        self.unsaved.publishes.extend(handled);
        if self.execute().await.is_ok() {
            self.acknowledge();
        }
    }

    // Acknowledged only once it is on disk.
    fn acknowledge(&mut self) {
        for publish in self.unsaved.publishes.drain(..) {
            // A broken connection brings it again.
            drop(self.client.try_ack(&publish));
        }
    }

    async fn retry(&mut self) {
        // Reports and news of the failed try are gone: everything is told again.
        self.twins.handle_started(self.now());
        if self.execute().await.is_ok() {
            self.acknowledge();
        }
    }

    async fn handle_command(&mut self, command: Command) {
        match command {
            Command::Apply { changes, extent, done } => {
                let result = self.apply(changes, extent).await;
                drop(done.send(result));
            }
            Command::Create { device, desired, done } => {
                let result = self.create(*device, desired).await;
                drop(done.send(result));
            }
            Command::Delete { id, done } => {
                let result = self.delete(&id).await;
                drop(done.send(result));
            }
            Command::Set { id, desired, done } => {
                let result = self.set(&id, desired).await;
                drop(done.send(result));
            }
            Command::ReportAll { done } => {
                self.twins.handle_started(self.now());
                let result = self.finish().await;
                drop(done.send(result));
            }
            Command::List { done } => {
                let devices = self.twins.devices().cloned().collect();
                drop(done.send(Ok(devices)));
            }
            Command::Show { id, done } => {
                let result = self.known(&id);
                drop(done.send(result));
            }
        }
    }

    async fn apply(
        &mut self,
        changes: Vec<Change>,
        extent: Extent,
    ) -> Result<BTreeMap<String, String>, DeviceError> {
        let now = self.now();
        let skipped = if extent == Extent::Snapshot {
            self.twins.handle_snapshot(&changes, now)
        } else {
            self.twins.handle_changes(&changes, now)
        };
        for (resource, reason) in &skipped {
            tracing::warn!(resource, reason, "a change of the cloud is skipped");
        }
        self.finish().await?;
        Ok(skipped)
    }

    async fn create(
        &mut self,
        device: Device,
        desired: BTreeMap<String, String>,
    ) -> Result<Device, DeviceError> {
        let id = device.id.clone();
        if self.twins.device(&id).is_some() {
            return Err(DeviceError::Exists(id));
        }
        check_all(&desired)?;
        self.twins.upsert(device, self.now());
        self.set(&id, desired).await
    }

    async fn delete(&mut self, id: &DeviceId) -> Result<(), DeviceError> {
        if !self.twins.remove(id, self.now()) {
            return Err(DeviceError::Unknown(id.clone()));
        }
        self.finish().await
    }

    async fn set(&mut self, id: &DeviceId, desired: BTreeMap<String, String>) -> Result<Device, DeviceError> {
        self.known(id)?;
        check_all(&desired)?;
        let now = self.now();
        for (key, value) in desired {
            self.twins.set_value(id, &key, &value, now).map_err(DeviceError::Invalid)?;
        }
        self.finish().await?;
        self.known(id)
    }

    fn known(&self, id: &DeviceId) -> Result<Device, DeviceError> {
        self.twins.device(id).cloned().ok_or_else(|| DeviceError::Unknown(id.clone()))
    }

    async fn finish(&mut self) -> Result<(), DeviceError> {
        self.execute().await.map_err(DeviceError::Disk)
    }

    /// Executes all effects: first the disk, then the reports, then the news.
    async fn execute(&mut self) -> Result<(), String> {
        let result = self.try_execute().await;
        match &result {
            Ok(()) if self.unsaved.failing => {
                self.unsaved.failing = false;
                self.status.send_modify(|status| status.last_error = None);
            }
            Ok(()) => {}
            Err(reason) => {
                if !self.unsaved.failing {
                    tracing::warn!(reason, "twins or reports are not stored, will retry");
                }
                self.unsaved.failing = true;
                self.status.send_modify(|status| status.last_error = Some(reason.clone()));
            }
        }
        result
    }

    async fn try_execute(&mut self) -> Result<(), String> {
        let (mut reports, mut news) = (Vec::new(), Vec::new());
        while let Some(effect) = self.twins.poll_effect() {
            match effect {
                TwinEffect::Persist { key, value } => {
                    self.unsaved.twins.insert(key, value);
                }
                TwinEffect::Up(item) => reports.push(item),
                TwinEffect::Publish { topic, payload } => news.push((topic, payload)),
            }
        }
        if !self.unsaved.twins.is_empty() {
            let batch = self.unsaved.twins.iter().fold(Batch::new(), |batch, (key, value)| {
                let key = format!("{TWIN_PREFIX}{key}");
                match value {
                    Some(value) => batch.put(key, value.as_slice()),
                    None => batch.delete(key),
                }
            });
            self.store.commit(batch, Durability::PowerLoss).await.map_err(|error| error.to_string())?;
            self.unsaved.twins.clear();
        }
        let reported = self.report(reports).await;
        for (topic, payload) in news {
            self.publish(topic, payload);
        }
        reported
    }

    async fn report(&self, reports: Vec<UpwardItem>) -> Result<(), String> {
        // In order, and together: the spool commits what waits in one batch.
        let pushed = join_all(reports.into_iter().map(|item| self.up.push(item))).await;
        pushed.into_iter().collect()
    }

    fn publish(&self, topic: String, payload: String) {
        // While the broker is away nobody asks; deltas are told again when it is back.
        if self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_err()
            && let Some(suppressed) = UNSENT.occurred()
        {
            tracing::warn!(suppressed, "the broker takes no messages of the event bus");
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.clock.elapsed(), wall: self.clock.now() }
    }
}

fn check_all(desired: &BTreeMap<String, String>) -> Result<(), DeviceError> {
    desired.iter().try_for_each(|(key, value)| check_desired(key, value, "").map_err(DeviceError::Invalid))
}
