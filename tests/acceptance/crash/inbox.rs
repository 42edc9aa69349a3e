//! What one subscriber received, or several together.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Inbox(Mutex<Received>);

#[derive(Debug, Default)]
struct Received {
    all: Vec<u32>,
    /// When each came first, and how often.
    different: BTreeMap<u32, (Instant, u32)>,
}

impl Inbox {
    pub(crate) fn note(&self, number: u32) {
        let mut received = self.0.lock().unwrap();
        received.all.push(number);
        received.different.entry(number).or_insert((Instant::now(), 0)).1 += 1;
    }

    /// How many different ones.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.lock().unwrap().different.len()).unwrap()
    }

    /// All, in their order.
    pub(crate) fn all(&self) -> Vec<u32> {
        self.0.lock().unwrap().all.clone()
    }

    /// When it came first, and how often it came.
    pub(crate) fn of(&self, number: u32) -> Option<(Instant, u32)> {
        self.0.lock().unwrap().different.get(&number).copied()
    }
}
