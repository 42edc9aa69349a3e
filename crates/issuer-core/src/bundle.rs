//! The roots of the server's own trust domain: which are published and for how long.

use crate::ca::hex_bytes;
use midge_identity::UnixMillis;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An expired root stays this long, for peers whose clock is behind.
pub const PRUNE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Roots of one trust domain; each costs every verifier a comparison.
pub const ROOTS_MAX: usize = 64;

/// One root certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Certificate, DER.
    #[serde(with = "hex_bytes")]
    pub certificate: Vec<u8>,
    /// End of its validity.
    pub not_after: UnixMillis,
    /// Published still, so that what it signed can be renewed, but proof of nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tainted: bool,
}

/// Why roots were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Taking it would make every identity of the trust domain untrusted.
    #[error("a trust bundle without roots is refused")]
    Empty,
    /// More than the cap.
    #[error("a trust bundle of {0} roots is refused, at most {ROOTS_MAX}")]
    TooMany(usize),
}

/// The published roots, in the order they came, and a number that goes up with each change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    roots: Vec<Root>,
    /// `spiffe_sequence`.
    sequence: u64,
}

impl Bundle {
    /// Returns the roots.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Returns the number of the current content.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the bundle with a root more; the same if it has it.
    ///
    /// # Errors
    /// There would be too many.
    pub fn with_root(&self, root: Root) -> Result<Self, BundleError> {
        let mut roots = self.roots.clone();
        if !roots.iter().any(|known| known.certificate == root.certificate) {
            roots.push(root);
        }
        self.with_roots(roots)
    }

    /// Returns the bundle with exactly these roots; the same if nothing changes.
    ///
    /// # Errors
    /// There is none, or too many.
    pub fn with_roots(&self, roots: Vec<Root>) -> Result<Self, BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        if roots.len() > ROOTS_MAX {
            return Err(BundleError::TooMany(roots.len()));
        }
        if roots == self.roots {
            return Ok(self.clone());
        }
        Ok(Self { roots, sequence: self.sequence.saturating_add(1) })
    }

    /// Returns the bundle with exactly these roots (DER, end of validity); what was tainted stays so.
    ///
    /// # Errors
    /// There is none, or too many.
    pub fn with_published(&self, roots: Vec<(Vec<u8>, UnixMillis)>) -> Result<Self, BundleError> {
        let tainted = |certificate: &[u8]| {
            self.roots.iter().any(|known| known.tainted && known.certificate == certificate)
        };
        let roots = roots.into_iter().map(|(certificate, not_after)| {
            let tainted = tainted(&certificate);
            Root { certificate, not_after, tainted }
        });
        self.with_roots(roots.collect())
    }

    /// Returns the bundle without one root, if it is not the only one.
    ///
    /// # Errors
    /// It is the only one.
    pub fn without_root(&self, certificate: &[u8]) -> Result<Self, BundleError> {
        self.with_roots(self.roots.iter().filter(|root| root.certificate != certificate).cloned().collect())
    }

    /// Returns the bundle without roots that expired more than a day ago, if there are any; the newest always stays.
    pub fn pruned(&self, now: UnixMillis) -> Option<Self> {
        let newest = self.roots.iter().map(|root| root.not_after).max()?;
        let keep = |root: &&Root| root.not_after.after(PRUNE_AFTER) > now || root.not_after == newest;
        let roots: Vec<Root> = self.roots.iter().filter(keep).cloned().collect();
        if roots.len() == self.roots.len() {
            return None;
        }
        self.with_roots(roots).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(byte: u8, ends_secs: u64) -> Root {
        Root { certificate: vec![byte], not_after: UnixMillis::from_secs(ends_secs), tainted: false }
    }

    #[test]
    fn each_change_has_a_number_and_no_change_has_none() {
        let one = Bundle::default().with_root(root(1, 100)).unwrap();
        assert_eq!((one.sequence(), one.roots().len()), (1, 1));
        assert_eq!(one.with_root(root(1, 100)).unwrap(), one);
        assert_eq!(one.with_root(root(2, 100)).unwrap().sequence(), 2);
        assert_eq!(one.with_roots(vec![root(1, 100)]).unwrap().sequence(), 1);
    }

    #[test]
    fn an_empty_bundle_is_refused() {
        let one = Bundle::default().with_root(root(1, 100)).unwrap();
        assert_eq!(one.with_roots(Vec::new()), Err(BundleError::Empty));
    }

    #[test]
    fn too_many_roots_are_refused() {
        let roots: Vec<Root> = (0..=64).map(|byte| root(byte, 100)).collect();
        assert_eq!(Bundle::default().with_roots(roots), Err(BundleError::TooMany(65)));
    }

    #[test]
    fn an_expired_root_stays_a_day() {
        let day = PRUNE_AFTER.as_secs();
        let bundle = Bundle::default().with_roots(vec![root(1, 1000), root(2, 900_000)]).unwrap();
        assert_eq!(bundle.pruned(UnixMillis::from_secs(1000 + day - 1)), None);
        let pruned = bundle.pruned(UnixMillis::from_secs(1000 + day)).unwrap();
        assert_eq!(pruned.roots(), [root(2, 900_000)]);
        assert_eq!(pruned.sequence(), 2);
    }

    #[test]
    fn the_newest_root_is_never_pruned() {
        let bundle = Bundle::default().with_roots(vec![root(1, 1000), root(2, 2000)]).unwrap();
        let late = UnixMillis::from_secs(10_000_000);
        assert_eq!(bundle.pruned(late).unwrap().roots(), [root(2, 2000)]);
        assert_eq!(Bundle::default().pruned(late), None);
    }
}
