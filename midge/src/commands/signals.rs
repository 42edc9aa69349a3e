//! The end that the user or the service manager asks for.

use crate::exit::{self, WithCode as _};
use midge_runtime::CancellationToken;
use tokio::signal::unix::{SignalKind, signal};

/// Keeps SIGHUP from ending a role that reads no files again: it means that at an edge, and scripts send it to all.
pub(crate) fn outlive_hangup() -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).code(exit::INTERNAL)?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::warn!(
                "SIGHUP changes nothing here: only an edge reads files again, those of its policy"
            );
        }
    });
    Ok(())
}

/// Returns a token that SIGINT or SIGTERM cancels.
pub(crate) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).code(exit::INTERNAL)?;
    let mut terminate = signal(SignalKind::terminate()).code(exit::INTERNAL)?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}
