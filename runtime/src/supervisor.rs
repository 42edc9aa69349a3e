//! Owns every long-running task of a process, from start to drain.

use crate::sd_notify::ServiceNotifier;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::panic;
use std::time::Duration;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

/// Owns every long-running task of a process: the first that fails cancels the rest, a panic is
/// raised again once the rest has stopped, and dropping the supervisor aborts them all.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
    token: CancellationToken,
}

/// Why a shutdown was not orderly.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// Tasks did not end within the time given.
    #[error("tasks did not stop within {} s and were aborted: {names}", .grace.as_secs_f32())]
    Overdue {
        /// Their names.
        names: String,
        /// The time given.
        grace: Duration,
    },
    /// A second signal asked to stop at once.
    #[error("stopped at once by a second signal; aborted: {names}")]
    Impatient {
        /// Tasks that were still running.
        names: String,
    },
    /// The signal handlers could not be installed.
    #[error("cannot install signal handlers")]
    Signals(#[source] io::Error),
}

impl Supervisor {
    /// Returns a supervisor without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token every task watches; it is cancelled when the process is to stop.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a task. It is to end soon after the token is cancelled; ending before with `Ok` is not a failure.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let name = name.into();
        let span = info_span!("task", name);
        let handle = self.tasks.spawn(task.instrument(span));
        self.names.insert(handle.id(), name);
    }

    /// Runs until SIGTERM or SIGINT, the token, the first failure, or the end of all tasks; then
    /// cancels the token and gives the tasks `grace` to end. A second signal ends them at once.
    ///
    /// # Errors
    /// Returns the first task's failure with its name, or a [`ShutdownError`].
    ///
    /// # Panics
    /// Raises the panic of a task again.
    pub async fn run_until_shutdown(self, grace: Duration) -> anyhow::Result<()> {
        let mut signals = StopSignals::install().map_err(ShutdownError::Signals)?;
        self.run(grace, async move || signals.next().await).await
    }

    /// As [`Supervisor::run_until_shutdown`], with `stop` in place of signals: it is called for the
    /// first and the second request to stop.
    ///
    /// # Errors
    /// As [`Supervisor::run_until_shutdown`].
    ///
    /// # Panics
    /// Raises the panic of a task again.
    pub async fn run(mut self, grace: Duration, mut stop: impl AsyncFnMut()) -> anyhow::Result<()> {
        let token = self.token();
        let first = tokio::select! {
            () = stop() => { info!("asked to stop"); None }
            () = token.cancelled() => None,
            end = self.first_failure() => end,
        };
        ServiceNotifier::from_env().stopping();
        token.cancel();
        let outcome = tokio::select! {
            end = self.drain(grace) => end,
            () = stop() => Err(ShutdownError::Impatient { names: self.running() }.into()),
        };
        self.tasks.abort_all();
        match first {
            Some(Ended::Failed(failure)) => Err(failure),
            Some(Ended::Panicked(payload)) => panic::resume_unwind(payload),
            None => outcome,
        }
    }

    /// Waits until a task fails; none when all have ended without failure.
    async fn first_failure(&mut self) -> Option<Ended> {
        while let Some(joined) = self.tasks.join_next_with_id().await {
            if let Some(failed) = self.ended(joined) {
                return Some(failed);
            }
        }
        None
    }

    async fn drain(&mut self, grace: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now().checked_add(grace);
        let overdue = async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(overdue);
        let mut first: Option<anyhow::Error> = None;
        loop {
            let joined = tokio::select! {
                joined = self.tasks.join_next_with_id() => joined,
                () = &mut overdue => return Err(ShutdownError::Overdue { names: self.running(), grace }.into()),
            };
            let Some(joined) = joined else { return first.map_or(Ok(()), Err) };
            match self.ended(joined) {
                Some(Ended::Panicked(payload)) => panic::resume_unwind(payload),
                Some(Ended::Failed(failure)) if first.is_none() => first = Some(failure),
                Some(Ended::Failed(failure)) => {
                    warn!(error = format!("{failure:#}"), "task failed while stopping")
                }
                None => {}
            }
        }
    }

    fn ended(&mut self, joined: Result<(Id, anyhow::Result<()>), JoinError>) -> Option<Ended> {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).unwrap_or_default();
        match joined {
            Ok((_, Ok(()))) => {
                debug!(task = name, "task ended");
                None
            }
            Ok((_, Err(failure))) => {
                error!(task = name, error = format!("{failure:#}"), "task failed");
                Some(Ended::Failed(failure.context(format!("{name} failed"))))
            }
            Err(error) => error.try_into_panic().ok().map(|payload| {
                error!(task = name, "task panicked");
                Ended::Panicked(payload)
            }),
        }
    }

    fn running(&self) -> String {
        let mut names: Vec<&str> = self.names.values().map(String::as_str).collect();
        names.sort_unstable();
        names.join(", ")
    }
}

enum Ended {
    Failed(anyhow::Error),
    Panicked(Box<dyn std::any::Any + Send>),
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn first_failure_cancels_the_rest_and_is_the_outcome() {
        let mut supervisor = Supervisor::new();
        let stopped = stops_when_asked(&mut supervisor);
        supervisor.spawn("listener", async { bail!("port 8883 is in use") });
        let error = supervisor.run(GRACE, never).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "listener failed: port 8883 is in use");
        assert!(stopped.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_task_may_end_early_without_stopping_the_others() {
        let mut supervisor = Supervisor::new();
        let (stop, asked) = tokio::sync::oneshot::channel::<()>();
        let stopped = stops_when_asked(&mut supervisor);
        let seen = Arc::clone(&stopped);
        supervisor.spawn("once", async move {
            tokio::task::yield_now().await;
            assert!(!seen.load(Ordering::SeqCst));
            drop(stop);
            Ok(())
        });
        let mut asked = Some(asked);
        supervisor
            .run(GRACE, async move || match asked.take() {
                Some(asked) => drop(asked.await),
                None => std::future::pending().await,
            })
            .await
            .unwrap();
        assert!(stopped.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn no_tasks_or_all_ended_is_the_end() {
        Supervisor::new().run(GRACE, never).await.unwrap();
    }

    #[tokio::test]
    async fn a_cancelled_token_stops_everything() {
        let mut supervisor = Supervisor::new();
        let stopped = stops_when_asked(&mut supervisor);
        supervisor.token().cancel();
        supervisor.run(GRACE, never).await.unwrap();
        assert!(stopped.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_panic_is_raised_again_after_the_rest_has_stopped() {
        let mut supervisor = Supervisor::new();
        let stopped = stops_when_asked(&mut supervisor);
        supervisor.spawn("hub", async { panic!("impossible state") });
        let joined = tokio::spawn(supervisor.run(GRACE, never)).await;
        let payload = joined.unwrap_err().into_panic();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"impossible state"));
        assert!(stopped.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_named_and_aborted() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("stuck", std::future::pending());
        stops_when_asked(&mut supervisor);
        supervisor.token().cancel();
        let error = supervisor.run(GRACE, never).await.unwrap_err();
        assert_eq!(error.to_string(), "tasks did not stop within 10 s and were aborted: stuck");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_does_not_wait_for_the_grace_time() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("stuck", std::future::pending());
        let error = supervisor.run(GRACE, async || ()).await.unwrap_err();
        assert!(
            matches!(error.downcast_ref(), Some(ShutdownError::Impatient { names }) if names == "stuck"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn dropping_aborts() {
        let mut supervisor = Supervisor::new();
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        supervisor.spawn("stuck", async move {
            let _held = held;
            std::future::pending().await
        });
        drop(supervisor);
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn sigterm_stops_in_order() {
        let mut supervisor = Supervisor::new();
        let stopped = stops_when_asked(&mut supervisor);
        supervisor.spawn("kill", async {
            // The handlers are installed before the first task runs.
            let status = tokio::process::Command::new("kill")
                .args(["-TERM", &std::process::id().to_string()])
                .status()
                .await?;
            assert!(status.success());
            Ok(())
        });
        supervisor.run_until_shutdown(GRACE).await.unwrap();
        assert!(stopped.load(Ordering::SeqCst));
    }

    async fn never() {
        std::future::pending().await
    }

    fn stops_when_asked(supervisor: &mut Supervisor) -> Arc<AtomicBool> {
        let stopped = Arc::new(AtomicBool::new(false));
        let (flag, token) = (Arc::clone(&stopped), supervisor.token());
        supervisor.spawn("orderly", async move {
            token.cancelled().await;
            flag.store(true, Ordering::SeqCst);
            Ok(())
        });
        stopped
    }
}
