//! Verification, a line at a time: nothing but the last hash is kept of what was read.

use crate::chain::{Hash, Head, checkpoint_record, fingerprint, render, signed_message};
use crate::intake::Intake;
use crate::line::Line;
use crate::record::event;
use crate::report::{Finding, FindingKind, Note, Report, Signed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Findings and notes told one by one; further findings are counted.
const TOLD_MAX: usize = 100;

/// What is known about a log from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Fingerprints of the keys that may have signed it; when empty, the log's own first key is taken.
    pub keys: Vec<String>,
    /// The last line known to be signed: the log must contain it.
    pub head: Option<Head>,
    /// Whether all there is of the log is there. Then what is missing before the first line must have been deleted
    /// for the bound, and `head` must be known: it is noted before the first line is written.
    pub is_whole: bool,
}

/// Verifies a log. `check` verifies a signature: public key (SPKI), message, signature.
#[derive(Debug)]
pub struct Verifier<C> {
    check: C,
    expected: Expected,
    report: Report,
    file: String,
    line: u64,
    /// SubjectPublicKeyInfo of the current key.
    spki: Option<Vec<u8>>,
    /// The line before.
    last: Option<Last>,
    /// Hash that the first line says its predecessor had.
    before_first: Hash,
    /// Lines up to this one were deleted for the bound, so say signed records.
    trims: Vec<(u64, Trim)>,
    /// Hash of the line at the expected head.
    at_head: Option<Hash>,
}

#[derive(Debug)]
struct Last {
    seq: u64,
    /// Unknown when the line could not be read: then there is nothing to hold the next one against.
    hash: Option<Hash>,
    file: String,
    line: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Trim {
    through: u64,
    hash: Hash,
}

impl<C: Fn(&[u8], &[u8], &[u8]) -> bool> Verifier<C> {
    /// Returns a verifier that has read nothing.
    pub fn new(check: C, expected: Expected) -> Self {
        Self {
            check,
            expected,
            report: Report::default(),
            file: String::new(),
            line: 0,
            spki: None,
            last: None,
            before_first: Hash::default(),
            trims: Vec::new(),
            at_head: None,
        }
    }

    /// Returns a verifier that goes on after what was taken of a log.
    pub(crate) fn resume(check: C, expected: Expected, after: &Intake) -> Self {
        let mut verifier = Self::new(check, expected);
        verifier.spki.clone_from(&after.key);
        if let Some(head) = &after.head {
            verifier.report.log.clone_from(&head.log);
            verifier.keep(head.seq, Some(head.hash));
        }
        verifier
    }

    /// Returns the key of the lines read, as SubjectPublicKeyInfo.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.spki.as_deref()
    }

    /// Begins the next file, in the order of the log.
    pub fn file(&mut self, name: &str) {
        name.clone_into(&mut self.file);
        self.line = 0;
        self.report.files += 1;
    }

    /// Takes the next line, without its newline.
    pub fn line(&mut self, bytes: &[u8]) {
        self.line += 1;
        self.report.lines += 1;
        let hash = Hash::of(bytes);
        match Line::parse(bytes) {
            Ok(line) => {
                self.place(&line);
                self.read(&line, hash, bytes);
                self.keep(line.seq, Some(hash));
            }
            Err(error) => {
                let seq = self.last.as_ref().map_or(1, |last| last.seq.saturating_add(1));
                self.find(FindingKind::Changed, Some(seq), format!("the line is {error}"));
                self.keep(seq, None);
            }
        }
    }

    /// Says that the file ends with so many bytes that are no whole line.
    pub fn torn(&mut self, bytes: usize) {
        self.line += 1;
        let text = format!(
            "the last {bytes} bytes are no whole line: cut off, or torn by a crash (then the next start repairs it)"
        );
        self.find(FindingKind::Truncated, None, text);
    }

    /// Returns what was found.
    pub fn finish(mut self) -> Report {
        (self.file, self.line) = (String::new(), 0);
        let signed = self.report.signed.as_ref().map_or(0, |signed| signed.seq);
        let last = self.last.as_ref().map_or(0, |last| last.seq);
        self.report.unsigned = last.saturating_sub(signed);
        self.check_start(signed);
        self.check_end(last);
        if self.report.lines > 0 && self.spki.is_none() {
            let text =
                "no line names the public key, so no checkpoint is verified; add the file before".to_owned();
            self.find(FindingKind::Foreign, None, text);
        }
        if let Some(last) = self.last {
            let head =
                Head { log: self.report.log.clone(), seq: last.seq, hash: last.hash.unwrap_or_default() };
            self.report.last = Some(head);
        }
        self.report
    }

    /// Holds the line against the one before.
    fn place(&mut self, line: &Line) {
        let Some(last) = &self.last else {
            self.report.first = line.seq;
            self.before_first = line.prev;
            if line.seq == 1 && line.prev != Hash::default() {
                self.find(FindingKind::Changed, Some(1), "the first line names a line before it".into());
            }
            return;
        };
        let next = last.seq.saturating_add(1);
        if line.seq > next {
            let missing = line.seq - next;
            let through = line.seq - 1;
            let text = if missing == 1 {
                format!("line {next} of the log is missing before this one")
            } else {
                format!("lines {next} to {through} of the log are missing before this one ({missing} lines)")
            };
            self.find(FindingKind::Missing, Some(line.seq), text);
        } else if line.seq < next {
            let text = format!("line {} stands after line {}: moved, or repeated", line.seq, last.seq);
            self.find(FindingKind::Order, Some(line.seq), text);
        } else if last.hash.is_some_and(|hash| hash != line.prev) {
            let (file, number, seq) = (last.file.clone(), last.line, last.seq);
            let text = format!("the line was changed: line {} carries another hash for it", line.seq);
            self.find_at(file, number, FindingKind::Changed, Some(seq), text);
        }
    }

    /// Takes what lines about the log itself say.
    fn read(&mut self, line: &Line, hash: Hash, bytes: &[u8]) {
        if self.expected.head.as_ref().is_some_and(|head| head.seq == line.seq) {
            self.at_head = Some(hash);
        }
        match line.event.as_str() {
            event::CREATED | event::OPENED => self.header(line),
            event::KEY_CHANGED => self.key_changed(line),
            event::CHECKPOINT => self.checkpoint(line, hash, bytes),
            event::TRIMMED => self.trimmed(line),
            event::RESUMED => self.resumed(line),
            event::TAIL_MISSING => {
                let signed = line.number("signed").unwrap_or_default();
                let found = line.number("found").unwrap_or_default();
                let text = format!(
                    "lines {} to {signed} were signed and missing when the log was opened",
                    found + 1
                );
                self.find(FindingKind::Truncated, Some(line.seq), text);
            }
            event::HEAD_MISSING => {
                let found = line.number("found").unwrap_or_default();
                let text = format!(
                    "the note of the last checkpoint was missing when the log was opened: lines after {found} may have been cut off"
                );
                self.find(FindingKind::HeadMissing, Some(line.seq), text);
            }
            event::REPAIRED => {
                let removed = line.number("removed-bytes").unwrap_or_default();
                if removed > 0 {
                    self.note(
                        line.seq,
                        format!("a torn last line of {removed} bytes was removed after a crash"),
                    );
                }
                if let Some(name) = line.text("set-aside") {
                    self.note(line.seq, format!("a file that was no audit log was kept as {name}"));
                }
            }
            event::GAP => {
                let lost = line.number("lost").unwrap_or_default();
                self.note(line.seq, format!("{lost} events were lost before they could be written"));
            }
            _ => {}
        }
    }

    fn header(&mut self, line: &Line) {
        let log = line.text("log").unwrap_or_default();
        if self.report.log.is_empty() {
            log.clone_into(&mut self.report.log);
        } else if self.report.log != log {
            let text = format!("the file belongs to log {log}, not to {}", self.report.log);
            self.find(FindingKind::Foreign, Some(line.seq), text);
        }
        let Some(spki) = key_of(line) else {
            return self.find(FindingKind::Changed, Some(line.seq), "the line names no public key".into());
        };
        let name = fingerprint(&spki);
        match &self.spki {
            Some(known) if *known == spki => {}
            Some(_) if self.expected.keys.contains(&name) => self.take_key(line.seq, spki, name),
            Some(_) => {
                let text = format!("the file has key {name}, which no line before it announces");
                self.find(FindingKind::Foreign, Some(line.seq), text);
            }
            None => self.take_key(line.seq, spki, name),
        }
    }

    fn key_changed(&mut self, line: &Line) {
        let Some(spki) = key_of(line) else {
            return self.find(FindingKind::Changed, Some(line.seq), "the line names no public key".into());
        };
        let name = fingerprint(&spki);
        if self.expected.keys.contains(&name) {
            self.note(line.seq, format!("the key is {name} from here on"));
            self.take_key(line.seq, spki, name);
        } else {
            let text = format!(
                "the key is {name} from here on, and nobody vouches for it; name it as a key if you do"
            );
            self.find(FindingKind::Foreign, Some(line.seq), text);
            // Its checkpoints are still held against it: what else is wrong must be seen too.
            self.spki = Some(spki);
        }
    }

    fn take_key(&mut self, seq: u64, spki: Vec<u8>, name: String) {
        if self.expected.keys.is_empty() {
            self.report.key_is_own_word = true;
        } else if !self.expected.keys.contains(&name) {
            let text =
                format!("the log is signed with key {name}, not with {}", self.expected.keys.join(" or "));
            self.find(FindingKind::Foreign, Some(seq), text);
        }
        self.report.key = name;
        self.spki = Some(spki);
    }

    fn checkpoint(&mut self, line: &Line, hash: Hash, bytes: &[u8]) {
        let Some(spki) = &self.spki else { return };
        let key = fingerprint(spki);
        let log = line.text("log").unwrap_or_default();
        let signature =
            line.text("signature").and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        let mut canonical = Vec::with_capacity(bytes.len());
        render(line.seq, line.prev, &checkpoint_record(log, line.at, &key, &signature), &mut canonical);
        // What is not signed must not be there: nobody would notice if it was changed in the last line.
        let holds = canonical == bytes
            && log == self.report.log
            && (self.check)(spki, &signed_message(log, line.seq, line.prev, line.at), &signature);
        if holds {
            self.report.checkpoints += 1;
            self.report.signed = Some(Signed { seq: line.seq, hash, at: line.at });
        } else {
            let text = "the signature of the checkpoint does not hold".to_owned();
            self.find(FindingKind::Signature, Some(line.seq), text);
        }
    }

    fn trimmed(&mut self, line: &Line) {
        let through = line.number("through").unwrap_or_default();
        if let Some(hash) = line.text("hash").and_then(|text| text.parse().ok()) {
            self.trims.push((line.seq, Trim { through, hash }));
        }
        self.note(line.seq, format!("lines up to {through} were deleted to stay within the bound"));
    }

    fn resumed(&mut self, line: &Line) {
        let signed = line.number("signed").unwrap_or_default();
        // What stood unsigned on disk at a start may have been put there: it cannot excuse a deletion.
        self.trims.retain(|(seq, _)| *seq <= signed);
        let unsigned = line.seq.saturating_sub(1).saturating_sub(signed);
        if unsigned > 0 {
            let text =
                format!("{unsigned} lines before this one were not signed when the last process ended");
            self.note(line.seq, text);
        }
    }

    fn check_start(&mut self, signed: u64) {
        if !self.expected.is_whole || self.report.first <= 1 {
            return;
        }
        let before = Trim { through: self.report.first - 1, hash: self.before_first };
        if !self.trims.iter().any(|(seq, trim)| *seq <= signed && *trim == before) {
            let text = format!(
                "lines 1 to {} are missing, and no signed line says that they were deleted for the bound",
                before.through
            );
            self.find(FindingKind::Missing, None, text);
        }
    }

    fn check_end(&mut self, last: u64) {
        let Some(head) = self.expected.head.take() else {
            // Every log has one from its start on, so whoever cuts a log must not get away with removing it too.
            if self.expected.is_whole && last > 0 {
                let text = format!(
                    "the note of the last checkpoint is missing or cannot be read: lines after {last} may have been cut off"
                );
                self.find(FindingKind::HeadMissing, None, text);
            }
            return;
        };
        if !self.report.log.is_empty() && head.log != self.report.log {
            let text =
                format!("this is log {}; the last checkpoint known is of log {}", self.report.log, head.log);
            return self.find(FindingKind::Foreign, None, text);
        }
        if head.seq > last {
            let text = format!(
                "the log ends at line {last}; line {} was signed, so lines {} to {} are missing",
                head.seq,
                last + 1,
                head.seq
            );
            self.find(FindingKind::Truncated, None, text);
        } else if self.at_head.is_some_and(|hash| hash != head.hash) {
            let text = format!("line {} is not the one that was signed", head.seq);
            self.find(FindingKind::Changed, Some(head.seq), text);
        }
    }

    fn keep(&mut self, seq: u64, hash: Option<Hash>) {
        self.last = Some(Last { seq, hash, file: self.file.clone(), line: self.line });
    }

    fn find(&mut self, kind: FindingKind, seq: Option<u64>, text: String) {
        self.find_at(self.file.clone(), self.line, kind, seq, text);
    }

    fn find_at(&mut self, file: String, line: u64, kind: FindingKind, seq: Option<u64>, text: String) {
        if self.report.findings.len() < TOLD_MAX {
            self.report.findings.push(Finding { file, line, seq, kind, text });
        } else {
            self.report.more_findings += 1;
        }
    }

    fn note(&mut self, seq: u64, text: String) {
        if self.report.notes.len() < TOLD_MAX {
            self.report.notes.push(Note { seq, text });
        }
    }
}

fn key_of(line: &Line) -> Option<Vec<u8>> {
    STANDARD.decode(line.text("public-key")?).ok()
}
