//! What goes through the sockets, counted where it does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start. They are read alone, so their order among each other does not matter.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    sockets: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// Sockets that came to nothing since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketsLost {
    /// Closed at once: as many were there as `connections-max` and `arrivals-max` together allow.
    pub refused: u64,
    /// Not accepted by the kernel, as when the process has no file descriptor left.
    pub failed: u64,
}

impl Traffic {
    pub(crate) fn read(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn written(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn accepted(&self) {
        self.sockets.fetch_add(1, Ordering::Relaxed);
    }

    /// A socket was closed at once, since there are as many as there may be.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A socket could not be accepted.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sockets_lost(&self) -> SocketsLost {
        SocketsLost {
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    pub(crate) fn sockets(&self) -> u64 {
        self.sockets.load(Ordering::Relaxed)
    }
}
