//! Message ids: random UUIDs (version 4) from a seed.

use std::fmt::Write as _;

/// A source of message ids. They correlate answers; they are no secrets.
#[derive(Clone, Debug)]
pub struct MessageIds {
    state: u64,
}

impl MessageIds {
    /// Starts a sequence. Two sequences with different seeds do not meet in practice.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next id as UUID text.
    pub fn next_id(&mut self) -> String {
        let high = (self.next_u64() & 0xffff_ffff_ffff_0fff) | 0x4000;
        let low = (self.next_u64() & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
        let mut text = String::with_capacity(36);
        // Writing to a String cannot fail.
        write!(
            text,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
        .unwrap_or_default();
        text
    }

    // splitmix64 (Steele, Lea, Flood 2014).
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_4_uuids_and_differ() {
        let mut ids = MessageIds::new(7);
        let (first, second) = (ids.next_id(), ids.next_id());
        assert_ne!(first, second);
        assert_ne!(first, MessageIds::new(8).next_id());
        for id in [first, second] {
            let parts: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12]);
            assert_eq!(id.as_bytes()[14], b'4');
            assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        }
    }
}
