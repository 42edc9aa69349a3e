//! What many keep together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sums that everyone who adds to them can ask for: things, and their bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Total(Arc<Sums>);

#[derive(Debug, Default)]
struct Sums {
    bytes: AtomicUsize,
    count: AtomicUsize,
}

impl Total {
    /// Bytes of them all.
    pub(crate) fn get(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Adds one of so many bytes.
    // A broker has one owner at a time, so nobody else adds between the two halves; doing both at once would cost
    // many times as much.
    pub(crate) fn grow(&self, bytes: usize) {
        self.0.bytes.store(self.get().saturating_add(bytes), Ordering::Relaxed);
        self.0.count.store(self.count().saturating_add(1), Ordering::Relaxed);
    }

    /// Takes one of so many bytes away.
    pub(crate) fn shrink(&self, bytes: usize) {
        self.shrink_by(bytes, 1);
    }

    /// Takes so many away, of so many bytes together.
    pub(crate) fn shrink_by(&self, bytes: usize, count: usize) {
        self.0.bytes.store(self.get().saturating_sub(bytes), Ordering::Relaxed);
        self.0.count.store(self.count().saturating_sub(count), Ordering::Relaxed);
    }
}

/// Bytes of something that is kept, counted among all of its kind and among its identity's for as long as it is there.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    bytes: usize,
    among: [Total; 2],
}

impl Counted {
    pub(crate) fn new(bytes: usize, among: [Total; 2]) -> Self {
        among.iter().for_each(|total| total.grow(bytes));
        Self { bytes, among }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tells whether neither sum is above its limit with so much more.
    pub(crate) fn has_room_for(&self, more: usize, limits: [usize; 2]) -> bool {
        self.among.iter().zip(limits).all(|(total, limit)| total.get().saturating_add(more) <= limit)
    }

    /// Counts other bytes instead of some of them.
    pub(crate) fn replace(&mut self, old: usize, new: usize) {
        self.among.iter().for_each(|total| total.shrink(self.bytes));
        self.bytes = self.bytes.saturating_sub(old).saturating_add(new);
        self.among.iter().for_each(|total| total.grow(self.bytes));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.among.iter().for_each(|total| total.shrink(self.bytes));
    }
}
