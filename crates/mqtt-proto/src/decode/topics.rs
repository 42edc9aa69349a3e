//! The topics that a peer publishes to: most repeat one or a few, and equal bytes share the checked name instead of being
//! checked and allocated again.

use crate::topic::TopicName;

/// Places for topics beside the latest; where two have the same, the later one takes it.
const PLACES: usize = 32;
/// Longest topic that is given one, in bytes: no peer keeps more alive than 8 KiB by it.
const PLACED_BYTES_MAX: usize = 256;

/// Topics of one peer.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    latest: Option<TopicName>,
    /// None, or [`PLACES`] of them: who has one topic needs no more.
    places: Vec<Option<TopicName>>,
}

impl Topics {
    /// Returns the name that these bytes are known to be.
    #[inline]
    pub(super) fn find(&self, bytes: &[u8]) -> Option<&TopicName> {
        let is_it = |topic: &&TopicName| topic.as_str().as_bytes() == bytes;
        self.latest.as_ref().filter(is_it).or_else(|| self.places.get(place(bytes))?.as_ref().filter(is_it))
    }

    /// Remembers a name that is new.
    pub(super) fn remember(&mut self, topic: &TopicName) {
        let Some(before) = self.latest.replace(topic.clone()) else { return };
        if before.as_str().len() > PLACED_BYTES_MAX {
            return;
        }
        self.places.resize(PLACES, None);
        if let Some(at) = self.places.get_mut(place(before.as_str().as_bytes())) {
            *at = Some(before);
        }
    }
}

/// Returns the place of a topic. Who makes them collide has its topics checked again, and nobody else's.
fn place(bytes: &[u8]) -> usize {
    let fold = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0, |sum, word| fold(sum, u64::from_le_bytes(*word)));
    let sum = rest.iter().fold(sum, |sum, byte| fold(sum, u64::from(*byte)));
    usize::try_from(sum % PLACES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn a_few_topics_in_turn_are_known_and_share_their_names() {
        let mut topics = Topics::default();
        let names: Vec<_> = (0..4).map(|n| name(&format!("line/{n}/value"))).collect();
        for round in 0..3 {
            let unknown = names.iter().filter(|name| {
                let is_new = topics.find(name.as_str().as_bytes()).is_none();
                if is_new {
                    topics.remember(name);
                }
                is_new
            });
            let most = if round == 0 { 4 } else { 2 };
            assert!(unknown.count() <= most, "in round {round}");
        }
        assert_eq!(topics.find(b"line/9/value"), None);
        let found = topics.find(names[3].as_str().as_bytes()).unwrap();
        assert_eq!(found.as_str().as_ptr(), names[3].as_str().as_ptr());
    }

    #[test]
    fn one_topic_takes_no_places_and_a_long_one_none_for_long() {
        let mut topics = Topics::default();
        let (short, long) = (name("a"), name(&"x".repeat(PLACED_BYTES_MAX + 1)));
        topics.remember(&long);
        assert!(topics.places.is_empty());
        assert_eq!(topics.find(long.as_str().as_bytes()), Some(&long));
        topics.remember(&short);
        assert_eq!(topics.find(long.as_str().as_bytes()), None);
        topics.remember(&name("b"));
        assert_eq!(topics.find(b"a"), Some(&short));
    }
}
