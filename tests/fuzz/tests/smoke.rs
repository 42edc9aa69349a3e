//! Every target over its corpus and over damaged copies of it: short, and the same each time.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use midge_fuzz::{TARGETS, Target};
use std::path::Path;

/// Damaged copies per target.
const DAMAGED: u64 = 2_000;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

/// One to four small damages: a bit, a byte that matters, bytes taken away or doubled, or the end of another file.
fn damage(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1).min(bytes.len().saturating_sub(1));
        if bytes.is_empty() {
            return bytes;
        }
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, b'#', b'/', b'$'][random.below(8)],
            2 => drop(bytes.drain(at..(at + 1 + random.below(4)).min(bytes.len()))),
            3 => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            _ => {
                let other = &corpus[random.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
        }
    }
    bytes
}

fn smoke(name: &str) {
    let (_, body): Target = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    body(&[]);
    corpus.iter().for_each(|input| body(input));
    for seed in 0..DAMAGED {
        body(&damage(&corpus, &mut Random(seed << 32)));
    }
}

#[test]
fn audit() {
    smoke("audit");
}

#[test]
fn codec() {
    smoke("codec");
}

#[test]
fn compiler() {
    smoke("compiler");
}

#[test]
fn connection() {
    smoke("connection");
}

#[test]
fn containment() {
    smoke("containment");
}

#[test]
fn filters() {
    smoke("filters");
}

#[test]
fn policy() {
    smoke("policy");
}

#[test]
fn records() {
    smoke("records");
}

#[test]
fn websocket() {
    smoke("websocket");
}
