//! The audit log: what its verification says of lines that nobody or somebody else wrote.

use audit_core::{Chain, Expected, Record, Report, Verifier};
use midge_identity::UnixMillis;

/// Three bytes and then lines.
///
/// The lines are verified as they are. Then the first byte's number of records are written as a log, and the byte
/// that the second and third name is changed in it: that must be seen.
pub fn audit(input: &[u8]) {
    let [records, line, byte, lines @ ..] = input else { return };
    let lines: Vec<Vec<u8>> = lines.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let report = verify(&lines);
    assert_eq!(report.lines, lines.len() as u64);
    let log = written(2 + usize::from(records % 16), &lines);
    let before = verify(&log);
    let mut changed = log;
    let count = changed.len();
    // The last line has no later one that vouches for it.
    let Some(chosen) = changed.get_mut(usize::from(*line) % (count - 1)) else { return };
    let length = chosen.len();
    if let Some(chosen) = chosen.get_mut(usize::from(*byte) % length) {
        *chosen ^= 1;
    }
    let after = verify(&changed);
    assert!(after.findings != before.findings && !after.is_intact(), "line {line}, byte {byte}: {after:?}");
}

fn verify(lines: &[Vec<u8>]) -> Report {
    let mut verifier =
        Verifier::new(|_: &[u8], message: &[u8], signature: &[u8]| message == signature, Expected::default());
    verifier.file("audit.jsonl");
    lines.iter().for_each(|line| verifier.line(line));
    verifier.finish()
}

/// A log of so many records that carry these texts, the last of them a checkpoint.
fn written(records: usize, texts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut chain, mut out) = (Chain::new("fuzz"), Vec::new());
    for n in 0..records {
        let text = texts.get(n % texts.len().max(1)).map(|text| String::from_utf8_lossy(text).into_owned());
        let record = Record::new(UnixMillis::from_secs(1_800_000_000), "connected");
        chain.append(&record.with("client", text.unwrap_or_default()), &mut out);
    }
    let sign = |message: &[u8]| Ok::<_, std::convert::Infallible>(message.to_vec());
    let Ok(()) = chain.checkpoint(UnixMillis::from_secs(1_800_000_001), "key", sign, &mut out);
    let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(<[u8]>::to_vec).collect()
}
