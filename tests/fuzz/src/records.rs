//! Records of the store: what damaged or hostile bytes make of them.

use broker_core::{Record, RecordKey};

/// The text of a key, a line feed, and the bytes found there.
///
/// What can be read is written to the same bytes' meaning: it reads as the same record again.
pub fn records(input: &[u8]) {
    let Some(at) = input.iter().position(|byte| *byte == b'\n') else { return };
    let (text, bytes) = input.split_at(at);
    let Ok(Ok(key)) = std::str::from_utf8(text).map(RecordKey::parse) else { return };
    assert_eq!(key.to_string().as_bytes(), text);
    let Ok(record) = Record::decode(key, bytes.get(1..).unwrap_or_default()) else { return };
    let written = record.encode().expect("what was read from a packet fits one");
    assert_eq!(Record::decode(key, &written), Ok(record));
}
