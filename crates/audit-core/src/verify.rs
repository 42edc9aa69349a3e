//! Verification, a line at a time: nothing but the last hash is kept of what was read.

use crate::chain::{Hash, Head, checkpoint_holds, fingerprint};
use crate::cover::{Cover, Stretch};
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
    /// for the bound, and `head` must be known and a checkpoint: it is noted before the first line is written.
    pub is_whole: bool,
    /// Whether a process may be writing it, or was when it ended: then the last lines need no checkpoint yet.
    pub may_grow: bool,
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
    /// Hash of the line at the expected head, and whether it is a checkpoint that holds.
    at_head: Option<(Hash, bool)>,
    cover: Cover,
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
            cover: Cover::default(),
        }
    }

    /// Returns a verifier that goes on after what was taken of a log.
    pub(crate) fn resume(check: C, expected: Expected, after: &Intake) -> Self {
        let mut verifier = Self::new(check, expected);
        verifier.spki.clone_from(&after.key);
        if let Some(head) = &after.head {
            verifier.report.log.clone_from(&head.log);
            verifier.keep(head.seq, Some(head.hash));
            verifier.cover.begin(after.signed);
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
        self.check_start(signed);
        self.check_end(last);
        self.check_cover(last);
        self.finish_portion()
    }

    /// Returns what was found in lines that need not be all, and of which more may come.
    pub(crate) fn finish_portion(mut self) -> Report {
        (self.file, self.line) = (String::new(), 0);
        let last = self.last.as_ref().map_or(0, |last| last.seq);
        let tail = self.cover.stretch(last);
        self.report.unsigned = tail.map_or(0, |tail| tail.lines());
        self.report.unproven = self.report.unproven.saturating_add(self.report.unsigned);
        if self.report.lines > 0 && self.spki.is_none() {
            let text =
                "no line names the public key, so no checkpoint is verified; add the file before".to_owned();
            self.find(FindingKind::Foreign, None, text);
        }
        if let Some((tail, why)) = tail.and_then(|tail| Some((tail, tail.excess()?))) {
            // Without the number of the last line: of a log that arrives in portions it is told once.
            let text = format!("no checkpoint that holds covers the lines from {} on: {why}", tail.first);
            self.find(FindingKind::Unsigned, None, text);
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
            // What is before it was covered in its own file.
            self.cover.begin(line.seq - 1);
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
            self.cover.begin(through);
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
            self.at_head = Some((hash, false));
        }
        self.cover.line(line);
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
            event::HEAD_INVALID => {
                let signed = line.number("signed").unwrap_or_default();
                let found = line.number("found").unwrap_or_default();
                let text = format!(
                    "the note of the last checkpoint named line {signed} when the log was opened, which is none that the key has signed: lines up to {found} may be anybody's"
                );
                self.find(FindingKind::HeadInvalid, Some(line.seq), text);
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
        // The writer closes a file with a checkpoint before it begins the next.
        if let Some(stretch) = self.cover.stretch(line.seq - 1) {
            let text = format!(
                "a file begins here and lines {} to {} before it are covered by no checkpoint that holds",
                stretch.first, stretch.last
            );
            self.find(FindingKind::Unsigned, Some(line.seq), text);
        }
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
        let holds = checkpoint_holds(bytes, line, &self.report.log, spki, &self.check);
        if holds {
            self.report.checkpoints += 1;
            self.report.signed = Some(Signed { seq: line.seq, hash, at: line.at });
            if let Some((_, at_head)) = self
                .at_head
                .as_mut()
                .filter(|_| self.expected.head.as_ref().is_some_and(|head| head.seq == line.seq))
            {
                *at_head = true;
            }
            if let Some(found) = self.cover.checkpoint(line.seq) {
                self.unproven(line.seq, found);
            }
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
        let covered = self.cover.through();
        // What stood unsigned on disk at a start may have been put there: it cannot excuse a deletion.
        self.trims.retain(|(seq, _)| *seq <= covered);
        let signed = line.number("signed").unwrap_or_default();
        if signed > covered {
            let text = format!(
                "the start that wrote this line took lines up to {signed} for signed, and no checkpoint that holds covers those after {covered}"
            );
            self.find(FindingKind::Unsigned, Some(line.seq), text);
        }
        let before = line.seq.saturating_sub(1);
        self.cover.resumed(line.number("found").map_or(before, |found| found.min(before)));
    }

    /// Tells of lines that a start of the log's own found unsigned.
    fn unproven(&mut self, seq: u64, found: Stretch) {
        let Stretch { first, last, .. } = found;
        self.report.unproven = self.report.unproven.saturating_add(found.lines());
        let text = format!(
            "lines {first} to {last} were not signed yet when the process that wrote them ended: it is not proven that they are as it wrote them, nor that they are all"
        );
        self.note(seq, text);
        if let Some(why) = found.excess() {
            let text = format!("lines {first} to {last} were unsigned when the log was opened: {why}");
            self.find(FindingKind::Unsigned, Some(seq), text);
        }
    }

    /// Finds what no checkpoint covers though one should.
    fn check_cover(&mut self, last: u64) {
        if self.report.lines == 0 {
            let text = "there is no line: nothing is proven".to_owned();
            self.find(FindingKind::Unsigned, None, text);
        } else if self.report.signed.is_none() {
            let text =
                "not one checkpoint holds: nothing is proven, anybody may have written this".to_owned();
            self.find(FindingKind::Unsigned, None, text);
        } else if let Some(tail) = self.cover.stretch(last).filter(|_| !self.expected.may_grow) {
            let text = format!(
                "lines {} to {last} stand after the last checkpoint that holds: anybody may have written them",
                tail.first
            );
            self.find(FindingKind::Unsigned, None, text);
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
        } else if self.at_head.is_some_and(|(hash, _)| hash != head.hash) {
            let text = format!("line {} is not the one that was signed", head.seq);
            self.find(FindingKind::Changed, Some(head.seq), text);
        } else if self.expected.is_whole && head.seq > 0 && !self.at_head.is_some_and(|(_, holds)| holds) {
            let text = format!(
                "line {} is noted as the last checkpoint, and is none that the key has signed",
                head.seq
            );
            self.find(FindingKind::Unsigned, Some(head.seq), text);
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
