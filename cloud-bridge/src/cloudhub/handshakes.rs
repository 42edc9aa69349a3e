//! Connections that have not proven who they are yet: bounded, and the oldest makes room for the
//! newest, so that whoever opens connections and says nothing locks nobody out.

use midge_runtime::CancellationToken;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone)]
pub(super) struct Handshakes {
    max: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// One of them, until dropped.
pub(super) struct Handshake {
    number: u64,
    /// Cancelled when a newer one needs the place.
    pub(super) evicted: CancellationToken,
    state: Arc<Mutex<State>>,
}

impl Handshakes {
    pub(super) fn new(max: usize) -> Self {
        Self { max, state: Arc::default() }
    }

    pub(super) fn begin(&self) -> Handshake {
        let mut state = self.state.lock();
        while state.waiting.len() >= self.max
            && let Some((_, oldest)) = state.waiting.pop_first()
        {
            oldest.cancel();
        }
        let number = state.next;
        state.next = number.wrapping_add(1);
        let evicted = CancellationToken::new();
        state.waiting.insert(number, evicted.clone());
        Handshake { number, evicted, state: Arc::clone(&self.state) }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.state.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_the_finished_need_none() {
        let handshakes = Handshakes::new(2);
        let first = handshakes.begin();
        drop(handshakes.begin());
        let third = handshakes.begin();
        assert!(!first.evicted.is_cancelled());
        let fourth = handshakes.begin();
        assert!(first.evicted.is_cancelled());
        assert!(!third.evicted.is_cancelled() && !fourth.evicted.is_cancelled());
    }
}
