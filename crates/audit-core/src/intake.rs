//! Judging the lines of another process's log as they arrive: what follows what is there, what is missing, and
//! what contradicts it.

use crate::chain::{Hash, Head, fingerprint};
use crate::line::Line;
use crate::report::{Finding, FindingKind};
use crate::verify::{Expected, Verifier};

/// The end of a log that was taken over from another process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    /// The last line that was taken; `None` before the first.
    pub head: Option<Head>,
    /// SubjectPublicKeyInfo of the key that signs.
    pub key: Option<Vec<u8>>,
    /// Number of the last line that a checkpoint covers which holds.
    pub signed: u64,
}

/// What has become of lines that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The end of the log with them.
    pub intake: Intake,
    /// They do not go on from what was there: another log, or another history of the same one. What was there is
    /// to be kept as it is, and they begin a new branch.
    pub branches: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Number of the last checkpoint among them that holds.
    pub signed: Option<u64>,
}

impl Intake {
    /// Judges lines of `log`, each without its newline; `pinned` is the fingerprint of the key that has signed
    /// the logs of this process so far. `check` verifies a signature as for [`Verifier::new`]. Everything is taken, whatever is
    /// wrong with it: it is evidence.
    pub fn judge(
        &self,
        log: &str,
        lines: &[&[u8]],
        pinned: Option<&str>,
        check: impl Fn(&[u8], &[u8], &[u8]) -> bool,
    ) -> Judged {
        let first = lines.first().and_then(|line| Line::parse(line).ok());
        let mut findings = Vec::new();
        let branches = match (&self.head, &first) {
            (None, _) => true,
            (Some(head), _) if head.log != log => {
                let text = format!("log {log} begins; until line {} it was log {}", head.seq, head.log);
                findings.push(finding(first.as_ref(), FindingKind::Foreign, text));
                true
            }
            (Some(head), Some(line)) if contradicts(head, line) => {
                let text = format!(
                    "the log has another history: its line {} does not follow line {}, which was taken before",
                    line.seq, head.seq
                );
                findings.push(finding(first.as_ref(), FindingKind::Changed, text));
                true
            }
            (Some(_), _) => false,
        };
        let keys = pinned.map(str::to_owned).into_iter().collect();
        let expected = Expected { keys, ..Expected::default() };
        let mut verifier =
            if branches { Verifier::new(check, expected) } else { Verifier::resume(check, expected, self) };
        verifier.file("");
        lines.iter().for_each(|line| verifier.line(line));
        let key = verifier.key().map(<[u8]>::to_vec);
        let report = verifier.finish_portion();
        findings.extend(report.findings);
        let head = match (lines.last(), report.last) {
            (Some(line), Some(last)) => {
                Some(Head { log: log.to_owned(), seq: last.seq, hash: Hash::of(line) })
            }
            _ => self.head.clone(),
        };
        let signed = report.signed.map(|signed| signed.seq);
        let last = head.as_ref().map_or(0, |head| head.seq);
        // Lines whose beginning is missing count from where they begin.
        let covered = last.saturating_sub(report.unsigned);
        Judged { intake: Self { head, key, signed: covered }, branches, findings, signed }
    }

    /// Returns the fingerprint of the key.
    pub fn key_name(&self) -> Option<String> {
        self.key.as_deref().map(fingerprint)
    }
}

/// A line that comes later in the same history may be missing others before it: that is a gap and no other history.
fn contradicts(head: &Head, line: &Line) -> bool {
    line.seq <= head.seq || (line.seq == head.seq.saturating_add(1) && line.prev != head.hash)
}

fn finding(line: Option<&Line>, kind: FindingKind, text: String) -> Finding {
    Finding { file: String::new(), line: 0, seq: line.map(|line| line.seq), kind, text }
}
