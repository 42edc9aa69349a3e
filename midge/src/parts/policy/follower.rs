//! Follows the files of the policy and of its candidate, and hands on what was read: who keeps the policy waits for no
//! file.

use super::Reloaded;
use super::files::{Files, Read};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

/// How often policy files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was read.
#[derive(Default)]
pub(super) struct Came {
    /// None where there is nothing new.
    pub(super) files: Option<Read>,
    pub(super) candidate: Option<Read>,
    /// Who has asked for it.
    pub(super) asked: Option<oneshot::Sender<Reloaded>>,
}

/// Follows files.
pub(crate) struct Follower {
    pub(super) files: Files,
    /// None where no candidate is configured.
    pub(super) candidate: Option<Files>,
    pub(super) reloads: mpsc::Receiver<oneshot::Sender<Reloaded>>,
    pub(super) came: mpsc::Sender<Came>,
}

impl Follower {
    /// Follows the files until nobody takes what was read.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let came = tokio::select! {
                _ = look.tick() => self.look().await,
                _ = hangup.recv() => self.read(None).await,
                Some(asked) = self.reloads.recv() => self.read(Some(asked)).await,
            };
            let is_new = came.files.is_some() || came.candidate.is_some();
            if is_new && self.came.send(came).await.is_err() {
                // That task has ended, and tells why itself.
                return std::future::pending().await;
            }
        }
    }

    /// Reads what has changed.
    pub(super) async fn look(&mut self) -> Came {
        let of_candidate = async {
            match &mut self.candidate {
                Some(files) => files.look().await,
                None => None,
            }
        };
        let (files, candidate) = tokio::join!(self.files.look(), of_candidate);
        Came { files, candidate, asked: None }
    }

    /// Reads everything.
    pub(super) async fn read(&mut self, asked: Option<oneshot::Sender<Reloaded>>) -> Came {
        let of_candidate = async {
            match &mut self.candidate {
                Some(files) => Some(files.read().await),
                None => None,
            }
        };
        let (files, candidate) = tokio::join!(self.files.read(), of_candidate);
        Came { files: Some(files), candidate, asked }
    }
}
