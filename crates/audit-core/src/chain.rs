//! The chain: each line carries its number and the hash of the line before it.

use crate::line::Line;
use crate::record::{Record, event};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use midge_identity::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

/// SHA-256 of a line without its newline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

/// A text that is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 in 64 lower-case hex digits")]
pub struct HashError;

impl Hash {
    /// Returns the hash of a line.
    pub fn of(line: &[u8]) -> Self {
        Self(Sha256::digest(line).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(HashError);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| HashError)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Hash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, HashError> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// A place in a log: the number of a line and its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Which log.
    pub log: String,
    /// Number of the line; 0 before the first.
    pub seq: u64,
    /// Its hash; all zeros before the first.
    pub hash: Hash,
}

/// The growing end of a log. Nothing here is on disk: whoever writes keeps a copy until it is.
#[derive(Clone, Debug)]
pub struct Chain {
    head: Head,
}

impl Chain {
    /// Returns the chain of a new log; `log` is its random name.
    pub fn new(log: &str) -> Self {
        Self { head: Head { log: log.to_owned(), seq: 0, hash: Hash::default() } }
    }

    /// Returns the chain that goes on after this line.
    pub fn resume(head: Head) -> Self {
        Self { head }
    }

    /// Returns the last line's place.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Writes the record as the next line, newline included.
    pub fn append(&mut self, record: &Record, out: &mut Vec<u8>) {
        let start = out.len();
        let seq = self.head.seq.saturating_add(1);
        render(seq, self.head.hash, record, out);
        self.head.seq = seq;
        self.head.hash = Hash::of(out.get(start..).unwrap_or_default());
        out.push(b'\n');
    }

    /// Writes a checkpoint as the next line: `sign` signs the bytes it is given with the key of this
    /// fingerprint.
    ///
    /// # Errors
    /// What `sign` fails with; then nothing is written.
    pub fn checkpoint<E>(
        &mut self,
        at: UnixMillis,
        key: &str,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
        out: &mut Vec<u8>,
    ) -> Result<(), E> {
        let seq = self.head.seq.saturating_add(1);
        let signature = sign(&signed_message(&self.head.log, seq, self.head.hash, at))?;
        self.append(&checkpoint_record(&self.head.log, at, key, &signature), out);
        Ok(())
    }
}

/// Returns the fingerprint of a public key: SHA-256 of its SubjectPublicKeyInfo, lower-case hex.
pub fn fingerprint(spki: &[u8]) -> String {
    hex::encode(Sha256::digest(spki))
}

/// Tells whether a line is a checkpoint of this log that this key, a SubjectPublicKeyInfo, has signed. `bytes` are those of
/// the line; `check` verifies a signature as for [`Verifier::new`](crate::Verifier::new).
pub fn checkpoint_holds(
    bytes: &[u8],
    line: &Line,
    log: &str,
    spki: &[u8],
    check: impl Fn(&[u8], &[u8], &[u8]) -> bool,
) -> bool {
    if line.event != event::CHECKPOINT || line.text("log") != Some(log) {
        return false;
    }
    let signature = line.text("signature").and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let mut canonical = Vec::with_capacity(bytes.len());
    let record = checkpoint_record(log, line.at, &fingerprint(spki), &signature);
    render(line.seq, line.prev, &record, &mut canonical);
    // What is not signed must not be there: nobody would notice if it was changed in the last line.
    canonical == bytes && check(spki, &signed_message(log, line.seq, line.prev, line.at), &signature)
}

/// What the signature of a checkpoint is over. The purpose stands first, so that it is never valid for anything else.
fn signed_message(log: &str, seq: u64, prev: Hash, at: UnixMillis) -> Vec<u8> {
    format!("midge audit checkpoint 1\n{log}\n{seq}\n{prev}\n{}\n", at.0).into_bytes()
}

fn checkpoint_record(log: &str, at: UnixMillis, key: &str, signature: &[u8]) -> Record {
    Record::new(at, event::CHECKPOINT)
        .with("log", log)
        .with("key", key)
        .with("signature", STANDARD.encode(signature))
}

/// Writes a line without its newline. Writing to a vector and JSON of a JSON value cannot fail.
fn render(seq: u64, prev: Hash, record: &Record, out: &mut Vec<u8>) {
    let mut line = Vec::with_capacity(512);
    let Record { at, event, .. } = record;
    let begun = write!(line, "{{\"seq\":{seq},\"prev\":\"{prev}\",\"at\":{},\"event\":\"{event}\"", at.0);
    let written = record.details().try_for_each(|(key, value)| {
        write!(line, ",{}:", Value::from(key))?;
        serde_json::to_writer(&mut line, value).map_err(std::io::Error::other)
    });
    debug_assert!(begun.is_ok() && written.is_ok());
    line.push(b'}');
    out.append(&mut line);
}
