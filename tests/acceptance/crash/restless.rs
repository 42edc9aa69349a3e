//! When a client leaves its connection, and how: by closing it, or by coming back while the broker still believes it
//! to be there, which then has one connection take over the session from the other ([MQTT-3.1.4-3]).

use super::Random;
use super::link::Link;
use std::thread::sleep;
use std::time::Duration;

pub(crate) struct Restless {
    random: Random,
    /// Packets, about, from one leave to the next.
    packets: u64,
    /// What it left and did not close.
    left: Option<Link>,
}

impl Restless {
    pub(crate) fn new(seed: u64, packets: u64) -> Self {
        Self { random: Random(seed), packets, left: None }
    }

    /// Returns the one who leaves now.
    pub(crate) fn leaving(who: &mut Option<Self>) -> Option<&mut Self> {
        who.as_mut().and_then(|restless| (restless.random.below(restless.packets) == 0).then_some(restless))
    }

    pub(crate) fn leave(&mut self, link: Link) {
        // What the broker sends on it until it knows is lost.
        self.left = (self.random.below(2) == 0).then_some(link);
        if self.left.is_none() {
            // Meanwhile messages wait for it.
            sleep(Duration::from_millis(self.random.below(60)));
        }
    }

    /// It has its CONNACK on another connection.
    pub(crate) fn is_back(&mut self) {
        self.left = None;
    }
}
