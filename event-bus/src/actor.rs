//! The task that owns the twins: executes their effects and answers commands.

use crate::error::DeviceError;
use crate::handle::Command;
use crate::mqtt::{BusStatus, Delivery, Incoming};
use crate::unsaved::Unsaved;
use crate::{RECEIVE_MAX, TWIN_PREFIX, UpwardSink};
use bridge_core::twin::{Device, TwinStore, check_desired};
use bridge_core::{Change, DeviceId, Extent, Now};
use futures_util::future::join_all;
use midge_runtime::{CancellationToken, Clock, RateLimitedWarn};
use midge_store::{Batch, Durability, Store};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Messages handled in one commit.
const BATCH_MAX: usize = RECEIVE_MAX as usize;
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
    /// Number of the connection that there is.
    pub(crate) connection: Arc<AtomicU64>,
    /// What the disk or the spool has refused, to be tried again.
    pub(crate) unsaved: Unsaved,
}

impl Actor {
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut incoming = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(RETRY_EVERY), if self.unsaved.failing => self.retry().await,
                Some(command) = self.commands.recv() => self.handle_command(command).await,
                // Nothing more is taken before what was taken is safe: the broker keeps it.
                taken = self.messages.recv_many(&mut incoming, BATCH_MAX), if !self.unsaved.failing => {
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
        for message in incoming.drain(..) {
            match message {
                Incoming::Connected => self.twins.handle_started(now),
                Incoming::Publish(delivery) => {
                    if let Ok(topic) = std::str::from_utf8(&delivery.publish.topic) {
                        self.twins.handle_publish(topic, &delivery.publish.payload, now);
                    }
                    self.unsaved.deliveries.push(delivery);
                }
            }
        }
        if self.execute().await.is_ok() {
            self.acknowledge();
        }
    }

    // Acknowledged only once it is on disk.
    fn acknowledge(&mut self) {
        let connection = self.connection.load(Ordering::Relaxed);
        for Delivery { publish, over } in self.unsaved.deliveries.drain(..) {
            // A new connection brings it again; its packet identifier may be another message's by then.
            if over == connection {
                drop(self.client.try_ack(&publish));
            }
        }
    }

    async fn retry(&mut self) {
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
        while let Some(effect) = self.twins.poll_effect() {
            self.unsaved.add(effect);
        }
        self.store_twins().await?;
        let reported = self.report().await;
        for (topic, payload) in std::mem::take(&mut self.unsaved.news) {
            self.publish(topic, payload);
        }
        reported
    }

    async fn store_twins(&mut self) -> Result<(), String> {
        if self.unsaved.twins.is_empty() {
            return Ok(());
        }
        let batch = self.unsaved.twins.iter().fold(Batch::new(), |batch, (key, value)| {
            let key = format!("{TWIN_PREFIX}{key}");
            match value {
                Some(value) => batch.put(key, value.as_slice()),
                None => batch.delete(key),
            }
        });
        self.store.commit(batch, Durability::PowerLoss).await.map_err(|error| error.to_string())?;
        self.unsaved.twins.clear();
        Ok(())
    }

    async fn report(&mut self) -> Result<(), String> {
        // In order, and together: the spool commits what waits in one batch.
        let items = self.unsaved.reports.iter().cloned();
        let pushed = join_all(items.map(|item| self.up.push(item))).await;
        self.unsaved.reported(&pushed);
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
