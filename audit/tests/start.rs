//! What a start signs, and what it does not: the files may be anybody's while no process writes them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use midge_audit::{
    AuditConfig, AuditLog, Bounds, FindingKind, Hash, Head, Line, Record, Report, Status, event, own_key,
    signed_head, verify_log,
};
use midge_identity::UnixMillis;
use midge_runtime::Clock;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("audit.key")
    }

    fn head(&self) -> PathBuf {
        self.0.path().join("audit.head")
    }

    /// Runs a process with so many events that ends as planned.
    fn runs(&self, events: u64) -> Status {
        // No checkpoint but those at the start, at the end and of a full file.
        let bounds = Bounds { checkpoint_secs: 3_600, ..Bounds::default() };
        let clock = Clock::manual(UnixMillis(2_000));
        let config = AuditConfig { bounds, clock, ..AuditConfig::new(&self.path()) };
        let (log, writer) = AuditLog::open_with(config).unwrap();
        for n in 0..events {
            log.record(Record::new(UnixMillis(n), "connected").with("identity", format!("spiffe://td/{n}")));
        }
        let opened = log.status();
        drop(writer);
        opened
    }

    fn verify(&self) -> Report {
        verify_log(&self.path(), &self.key(), vec![own_key(&self.key()).unwrap()]).unwrap()
    }

    fn kinds(&self) -> Vec<FindingKind> {
        self.verify().findings.iter().map(|found| found.kind).collect()
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn lines(&self) -> Vec<Line> {
        self.text().lines().map(|line| Line::parse(line.as_bytes()).unwrap()).collect()
    }

    /// Notes a line as the last checkpoint, as whoever can write the file does.
    fn note(&self, head: &Head) {
        let mut noted: serde_json::Value = serde_json::from_slice(&fs::read(self.head()).unwrap()).unwrap();
        noted["seq"] = head.seq.into();
        noted["hash"] = head.hash.to_string().into();
        midge_pki::write_private(self.head(), &serde_json::to_vec(&noted).unwrap()).unwrap();
    }

    /// Puts these lines there, chained anew by somebody without the key; returns where they end.
    fn forge(&self, keep: impl Fn(&Line) -> bool) -> Head {
        let (mut out, mut head) = (String::new(), Head { log: self.log(), ..Head::default() });
        for line in self.text().lines().filter(|line| keep(&Line::parse(line.as_bytes()).unwrap())) {
            let rest = line.split_once("\",\"at\":").unwrap().1.replace("spiffe://td/3\"", "spiffe://td/x\"");
            let line = format!("{{\"seq\":{},\"prev\":\"{}\",\"at\":{rest}", head.seq + 1, head.hash);
            (head.seq, head.hash) = (head.seq + 1, Hash::of(line.as_bytes()));
            out.push_str(&line);
            out.push('\n');
        }
        fs::write(self.path(), out).unwrap();
        head
    }

    fn log(&self) -> String {
        signed_head(&self.key()).unwrap().0.log
    }

    /// Leaves what a kill leaves that comes so many lines after the last checkpoint.
    fn killed_after(&self, events: usize) {
        let before = self.lines().len();
        self.runs(events as u64);
        let text = self.text();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        // The lines of the start, which end with a checkpoint, and the events.
        let signed = before + 2;
        fs::write(self.path(), lines[..signed + events].concat()).unwrap();
        let hash = Hash::of(lines[signed - 1].trim_end().as_bytes());
        self.note(&Head { log: self.log(), seq: signed as u64, hash });
    }
}

#[test]
fn a_history_that_nobody_has_signed_is_not_signed_by_a_start() {
    type Noted = fn(&Head, &[Line]) -> Head;
    let at_its_end: Noted = |end, _| end.clone();
    let before_all: Noted = |end, _| Head { log: end.log.clone(), ..Head::default() };
    for (what, noted) in [("its end", at_its_end), ("nothing", before_all)] {
        let place = Place::new();
        place.runs(9);
        let end = place.forge(|line| line.event != event::CHECKPOINT && line.seq != 5);
        place.note(&noted(&end, &place.lines()));
        let told = place.runs(0).found.unwrap_or_default();
        assert!(told.contains("may be anybody's"), "{what}: {told}");
        for _ in 0..2 {
            assert!(place.kinds().contains(&FindingKind::HeadInvalid), "{what}: {:?}", place.verify());
            assert_eq!(place.runs(1).found, None);
        }
    }
}

#[test]
fn lines_put_behind_the_last_checkpoint_are_not_taken_for_signed() {
    // The note is moved to the last of them, or is what it was.
    for is_moved in [true, false] {
        let place = Place::new();
        place.runs(3);
        let signed = signed_head(&place.key()).unwrap().0;
        let line = format!(
            "{{\"seq\":{},\"prev\":\"{}\",\"at\":7,\"event\":\"connected\"}}",
            signed.seq + 1,
            signed.hash
        );
        fs::write(place.path(), place.text() + &line + "\n").unwrap();
        if is_moved {
            place.note(&Head { seq: signed.seq + 1, hash: Hash::of(line.as_bytes()), ..signed });
        }
        let told = place.runs(0).found;
        let report = place.verify();
        assert_eq!((told.is_some(), report.unproven), (is_moved, 1), "{report:?}");
        let expected = if is_moved { vec![FindingKind::HeadInvalid] } else { vec![] };
        assert_eq!(place.kinds(), expected, "{report:?}");
        let resumed = place.lines().into_iter().rfind(|line| line.event == event::RESUMED).unwrap();
        assert_eq!(resumed.number("signed"), Some(signed.seq));
    }
}

#[test]
fn a_kill_between_line_and_checkpoint_is_told_as_what_it_is() {
    let place = Place::new();
    place.runs(3);
    for events in [1, 4, 0] {
        let unproven = place.verify().unproven;
        place.killed_after(events);
        let report = place.verify();
        assert_eq!((report.findings.len(), report.unsigned), (0, events as u64), "{report:?}");
        assert_eq!(place.runs(0).found, None);
        let report = place.verify();
        assert_eq!((report.findings.len(), report.unsigned), (0, 0), "{report:?}");
        assert_eq!(report.unproven, unproven + events as u64);
    }
}

#[test]
fn a_kill_between_checkpoint_and_note_is_nothing() {
    let place = Place::new();
    place.runs(3);
    let early = signed_head(&place.key()).unwrap().0;
    place.runs(3);
    place.note(&early);
    assert_eq!(place.runs(0).found, None);
    let report = place.verify();
    assert_eq!((report.findings.len(), report.unproven), (0, 0), "{report:?}");
}

#[test]
fn a_first_start_that_was_killed_again_and_again_is_no_finding() {
    let place = Place::new();
    place.runs(0);
    let none = Head { log: place.log(), ..Head::default() };
    for lines in [1, 2, 3, 4, 5, 6] {
        let text = place.text();
        let kept: String = text.split_inclusive('\n').take(lines).collect();
        fs::write(place.path(), kept).unwrap();
        place.note(&none);
        assert_eq!(place.runs(0).found, None, "{lines}: {}", place.text());
        assert_eq!(place.kinds(), [], "{lines}");
    }
}

#[test]
fn a_replaced_key_is_told_at_the_start() {
    let place = Place::new();
    place.runs(2);
    assert_eq!(place.runs(0).found, None);
    fs::remove_file(place.key()).unwrap();
    let told = place.runs(2).found.unwrap_or_default();
    assert!(told.contains("another key signs"), "{told}");
    assert_eq!(place.runs(0).found, None);
}

#[test]
fn so_many_lines_get_a_checkpoint_whatever_the_time() {
    let place = Place::new();
    place.runs(3 * midge_audit::UNSIGNED_LINES_MAX / 2);
    let mut since = 0;
    for line in place.lines() {
        since = if line.event == event::CHECKPOINT { 0 } else { since + 1 };
        assert!(since <= midge_audit::UNSIGNED_LINES_MAX, "line {}", line.seq);
    }
}
