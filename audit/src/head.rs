//! The last checkpoint, kept apart from the log: a log that ends before it was cut.
//!
//! It is there before the key and the first line are, then with the number 0. So one that is missing was removed.

use crate::error::AuditError;
use audit_core::Head;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignedHead {
    #[serde(flatten)]
    pub(crate) head: Head,
    /// Fingerprint of the key that signed it.
    pub(crate) key: String,
}

pub(crate) fn path_of(key: &Path) -> PathBuf {
    key.with_extension("head")
}

/// Reads what the last process left; a file that cannot be read counts as none, which is told as a missing one is.
pub(crate) fn load(path: &Path) -> Option<SignedHead> {
    let bytes = midge_pki::read_private(path).ok()?;
    let head = serde_json::from_slice(&bytes);
    head.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "last checkpoint cannot be read"))
        .ok()
}

pub(crate) fn store(path: &Path, head: &SignedHead) -> Result<(), AuditError> {
    let text = serde_json::to_vec(head).unwrap_or_default();
    Ok(midge_pki::write_private(path, &text)?)
}

/// Returns the last checkpoint of the log that this key signs, and the fingerprint of the key then, if they can
/// be read.
pub fn signed_head(key: &Path) -> Option<(Head, String)> {
    load(&path_of(key)).map(|signed| (signed.head, signed.key))
}

/// Returns the fingerprint of the key in this file, if it can be read.
pub fn own_key(key: &Path) -> Option<String> {
    midge_pki::PrivateKey::load(key).ok().map(|key| audit_core::fingerprint(&key.public_key_der()))
}
