//! Bytes that many keep together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A sum that everyone who adds to it can ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Total(Arc<AtomicUsize>);

impl Total {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    // A broker has one owner at a time, so nobody else adds between the two halves; doing both at once would cost
    // many times as much.
    pub(crate) fn grow(&self, bytes: usize) {
        self.0.store(self.get().saturating_add(bytes), Ordering::Relaxed);
    }

    pub(crate) fn shrink(&self, bytes: usize) {
        self.0.store(self.get().saturating_sub(bytes), Ordering::Relaxed);
    }
}
