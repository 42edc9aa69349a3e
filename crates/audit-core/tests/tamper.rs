//! Whatever is done to the lines of a log is found.

#![expect(clippy::unwrap_used, reason = "tests")]

use audit_core::{
    Chain, Expected, FindingKind, Hash, Head, Line, Record, Report, UNSIGNED_LINES_MAX, Verifier, event,
    fingerprint,
};
use midge_identity::UnixMillis;
use proptest::prelude::*;
use serde_json::json;
use std::convert::Infallible;

const KEY: &[u8] = b"a public key";

/// Stands for a signature: whoever does not know the secret cannot make it.
fn sign(message: &[u8]) -> Vec<u8> {
    Hash::of(&[b"secret", message].concat()).to_string().into_bytes()
}

fn holds(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    key == KEY && signature == sign(message)
}

/// A log of several files, each with its lines.
#[derive(Clone, Debug)]
struct Log {
    files: Vec<Vec<Vec<u8>>>,
    head: Head,
}

struct Writer {
    chain: Chain,
    files: Vec<Vec<Vec<u8>>>,
    signed: Head,
}

impl Writer {
    fn new() -> Self {
        let mut chain = Chain::new("log-1");
        let mut line = Vec::new();
        chain.append(&header(event::CREATED), &mut line);
        let signed = chain.head().clone();
        Self { chain, files: vec![vec![trimmed(line)]], signed }
    }

    fn append(&mut self, record: &Record) {
        let mut line = Vec::new();
        self.chain.append(record, &mut line);
        self.files.last_mut().unwrap().push(trimmed(line));
    }

    fn checkpoint(&mut self) {
        let mut line = Vec::new();
        let at = UnixMillis(self.chain.head().seq);
        self.chain
            .checkpoint(at, &fingerprint(KEY), |message| Ok::<_, Infallible>(sign(message)), &mut line)
            .unwrap();
        self.files.last_mut().unwrap().push(trimmed(line));
        self.signed = self.chain.head().clone();
    }

    fn rotate(&mut self) {
        self.checkpoint();
        self.files.push(Vec::new());
        self.append(&header(event::OPENED));
    }

    fn log(self) -> Log {
        Log { files: self.files, head: self.signed }
    }
}

fn header(event: &'static str) -> Record {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode(KEY);
    Record::new(UnixMillis(7), event).with("log", "log-1").with("public-key", key)
}

fn trimmed(mut line: Vec<u8>) -> Vec<u8> {
    assert_eq!(line.pop(), Some(b'\n'));
    line
}

/// A log whose last line is a checkpoint: `events` lines, a checkpoint every few, a new file now and then.
fn written(events: u64) -> Log {
    let mut writer = Writer::new();
    for n in 0..events {
        writer.append(&Record::new(UnixMillis(n), "connected").with("identity", format!("spiffe://td/{n}")));
        if n % 4 == 3 {
            writer.checkpoint();
        }
        if n % 9 == 8 {
            writer.rotate();
        }
    }
    writer.checkpoint();
    writer.log()
}

fn verify_with(log: &Log, expected: Expected) -> Report {
    let mut verifier = Verifier::new(holds, expected);
    for (number, lines) in log.files.iter().enumerate() {
        verifier.file(&format!("file-{number}"));
        lines.iter().for_each(|line| verifier.line(line));
    }
    verifier.finish()
}

fn expected(log: &Log) -> Expected {
    Expected { keys: vec![fingerprint(KEY)], head: Some(log.head.clone()), is_whole: true, may_grow: true }
}

fn verify(log: &Log) -> Report {
    verify_with(log, expected(log))
}

/// File and place in it of the nth line.
fn place(log: &Log, n: usize) -> (usize, usize) {
    let mut places =
        log.files.iter().enumerate().flat_map(|(file, lines)| (0..lines.len()).map(move |at| (file, at)));
    places.nth(n).unwrap()
}

fn lines(log: &Log) -> usize {
    log.files.iter().map(Vec::len).sum()
}

#[test]
fn an_untouched_log_is_intact() {
    let log = written(50);
    let report = verify(&log);
    assert_eq!(report.findings, []);
    assert_eq!((report.lines, report.unsigned), (u64::try_from(lines(&log)).unwrap(), 0));
    assert_eq!(report.signed.unwrap().hash, log.head.hash);
    assert!(!report.key_is_own_word);
    assert!(verify_with(&log, Expected::default()).key_is_own_word);
}

#[test]
fn every_single_removal_change_swap_and_truncation_is_found() {
    let log = written(40);
    for n in 0..lines(&log) {
        let (file, at) = place(&log, n);
        let mut removed = log.clone();
        removed.files[file].remove(at);
        assert!(!verify(&removed).is_intact(), "line {} removed", n + 1);

        let mut repeated = log.clone();
        let line = repeated.files[file][at].clone();
        repeated.files[file].insert(at, line);
        assert!(!verify(&repeated).is_intact(), "line {} repeated", n + 1);

        let mut cut = log.clone();
        cut.files.truncate(file + 1);
        cut.files[file].truncate(at);
        assert!(!verify(&cut).is_intact(), "cut before line {}", n + 1);

        if n + 1 < lines(&log) {
            let mut swapped = log.clone();
            let next = place(&log, n + 1);
            let other = std::mem::take(&mut swapped.files[next.0][next.1]);
            let this = std::mem::replace(&mut swapped.files[file][at], other);
            swapped.files[next.0][next.1] = this;
            assert!(!verify(&swapped).is_intact(), "line {} swapped with the next", n + 1);
        }
    }
}

#[test]
fn a_change_is_told_with_its_place() {
    let mut log = written(20);
    let text = String::from_utf8(log.files[0][3].clone()).unwrap();
    log.files[0][3] = text.replace("spiffe://td/2", "spiffe://td/x").into_bytes();
    let report = verify(&log);
    let found: Vec<_> = report.findings.iter().map(|f| (f.file.as_str(), f.line, f.seq, f.kind)).collect();
    assert_eq!(found, [("file-0", 4, Some(4), FindingKind::Changed)]);
}

#[test]
fn a_missing_file_is_found_wherever_it_was() {
    let log = written(40);
    assert!(log.files.len() > 3);
    for file in 0..log.files.len() {
        let mut missing = log.clone();
        missing.files.remove(file);
        let report = verify(&missing);
        let kind = if file + 1 == log.files.len() { FindingKind::Truncated } else { FindingKind::Missing };
        assert!(report.findings.iter().any(|finding| finding.kind == kind), "{file}: {report:?}");
    }
}

#[test]
fn a_whole_log_without_its_last_checkpoint_is_not_taken_for_intact() {
    let mut log = written(20);
    let unknown = || Expected { head: None, ..expected(&written(20)) };
    let kinds = |report: Report| kinds(&report);
    assert_eq!(kinds(verify_with(&log, unknown())), [FindingKind::HeadMissing]);
    log.files.truncate(1);
    log.files[0].truncate(6);
    assert_eq!(kinds(verify_with(&log, unknown())), [FindingKind::HeadMissing]);
    // Of a part nobody knows where it ends, and where there is nothing, nothing is proven.
    log.files[0].truncate(1);
    let first = Log { files: written(5).files, head: Head::default() };
    let part = Expected { is_whole: false, may_grow: false, ..unknown() };
    assert_eq!(kinds(verify_with(&first, part.clone())), []);
    assert_eq!(kinds(verify_with(&log, part)), [FindingKind::Unsigned]);
    let none = Log { files: Vec::new(), head: log.head };
    assert_eq!(kinds(verify_with(&none, unknown())), [FindingKind::Unsigned]);

    let mut writer = Writer::new();
    writer.append(&Record::new(UnixMillis(1), event::HEAD_MISSING).with("found", 1));
    writer.checkpoint();
    let report = verify(&writer.log());
    assert!(report.findings[0].text.contains("lines after 1 may"), "{report:?}");
    assert_eq!(kinds(report), [FindingKind::HeadMissing]);
}

#[test]
fn a_rewritten_chain_fails_at_its_first_checkpoint() {
    let log = written(20);
    // As somebody does who knows the format and has no key: change a line, then hash all anew.
    let mut writer = Chain::new("log-1");
    let mut forged = log.clone();
    for file in &mut forged.files {
        for bytes in file {
            let line = Line::parse(bytes).unwrap();
            let mut text = String::from_utf8(bytes.clone()).unwrap();
            text = text.replace(&line.prev.to_string(), &writer.head().hash.to_string());
            text = text.replace("spiffe://td/3\"", "spiffe://td/innocent\"");
            *bytes = text.into_bytes();
            writer = Chain::resume(Head { log: "log-1".into(), seq: line.seq, hash: Hash::of(bytes) });
        }
    }
    let report = verify(&forged);
    let expected = [FindingKind::Signature, FindingKind::Changed, FindingKind::Unsigned];
    assert!(report.findings.iter().all(|found| expected.contains(&found.kind)), "{report:?}");
    assert_eq!(report.findings[0].kind, FindingKind::Signature);
    // The start of the file stands; nothing after the forged line is vouched for.
    assert!(report.signed.is_none(), "{report:?}");
}

#[test]
fn only_a_signed_record_excuses_what_is_missing_at_the_start() {
    let mut writer = Writer::new();
    (0..10).for_each(|n| writer.append(&Record::new(UnixMillis(n), "connected")));
    writer.rotate();
    let first = Line::parse(&writer.files[1][0]).unwrap();
    let record = Record::new(UnixMillis(9), event::TRIMMED)
        .with("through", first.seq - 1)
        .with("hash", first.prev.to_string());
    let mut unsigned = Writer { chain: writer.chain.clone(), files: writer.files.clone(), ..Writer::new() };
    unsigned.signed = writer.signed.clone();
    writer.append(&record);
    writer.checkpoint();
    let mut log = writer.log();
    log.files.remove(0);
    assert_eq!(verify(&log).findings, []);
    let partial = Expected { is_whole: false, ..expected(&log) };
    assert_eq!(verify_with(&log, partial).findings, []);

    // Put at the end by somebody without the key, and taken over by an honest restart.
    unsigned.append(&record);
    let mut forged = Log { files: unsigned.files.clone(), head: unsigned.signed.clone() };
    forged.files.remove(0);
    assert_eq!(verify(&forged).findings[0].kind, FindingKind::Missing);
    let resumed = Record::new(UnixMillis(9), event::RESUMED).with("signed", unsigned.signed.seq);
    unsigned.append(&resumed);
    unsigned.checkpoint();
    let mut forged = unsigned.log();
    forged.files.remove(0);
    assert_eq!(verify(&forged).findings[0].kind, FindingKind::Missing);
}

#[test]
fn another_key_or_log_is_not_taken_for_this_one() {
    let log = written(5);
    let foreign = Expected { keys: vec![fingerprint(b"another")], ..expected(&log) };
    assert_eq!(verify_with(&log, foreign).findings[0].kind, FindingKind::Foreign);
    let other = Head { log: "log-2".into(), ..log.head.clone() };
    let expected = Expected { head: Some(other), ..expected(&log) };
    assert_eq!(verify_with(&log, expected).findings[0].kind, FindingKind::Foreign);

    let mut writer = Writer::new();
    writer.append(&Record::new(UnixMillis(1), event::KEY_CHANGED).with("public-key", "YW5vdGhlcg=="));
    let changed = writer.log();
    assert_eq!(verify(&changed).findings[0].kind, FindingKind::Foreign);
}

#[test]
fn what_follows_the_last_checkpoint_is_counted_as_unsigned() {
    let mut writer = Writer::new();
    writer.checkpoint();
    (0..3).for_each(|n| writer.append(&Record::new(UnixMillis(n), "connected")));
    let log = writer.log();
    let report = verify(&log);
    assert_eq!((report.unsigned, report.findings.len()), (3, 0));
    // Cutting these is what a chain cannot tell; the bound is the last checkpoint.
    let mut cut = log.clone();
    cut.files[0].truncate(2);
    assert!(verify(&cut).is_intact());
    cut.files[0].truncate(1);
    assert_eq!(verify(&cut).findings[0].kind, FindingKind::Truncated);
}

#[test]
fn lines_are_plain_json_with_the_chain_first() {
    let mut writer = Writer::new();
    let record =
        Record::new(UnixMillis(5), "x").with("identity", "a\"b\n").with("proof", json!({"kind": "local"}));
    writer.append(&record);
    let text = String::from_utf8(writer.files[0][1].clone()).unwrap();
    let prev = Hash::of(&writer.files[0][0]);
    let expected = format!(
        r#"{{"seq":2,"prev":"{prev}","at":5,"event":"x","identity":"a\"b\n","proof":{{"kind":"local"}}}}"#
    );
    assert_eq!(text, expected);
    let line = Line::parse(text.as_bytes()).unwrap();
    assert_eq!((line.seq, line.event.as_str(), line.text("identity")), (2, "x", Some("a\"b\n")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changed_byte_is_found(events in 1u64..60, at in any::<prop::sample::Index>(), byte: u8) {
        let mut log = written(events);
        let n = at.index(lines(&log));
        let (file, line) = place(&log, n);
        let bytes = &mut log.files[file][line];
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        prop_assert!(!verify(&log).is_intact(), "line {} byte {at}", n + 1);
    }

    #[test]
    fn any_other_order_or_choice_of_lines_is_found(
        events in 1u64..30,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
    ) {
        let log = written(events);
        let all: Vec<Vec<u8>> = log.files.concat();
        let picked: Vec<Vec<u8>> = picks.iter().map(|pick| all[pick.index(all.len())].clone()).collect();
        prop_assume!(picked != all);
        let forged = Log { files: vec![picked], head: log.head.clone() };
        prop_assert!(!verify(&forged).is_intact());
    }
}

/// What somebody writes who knows the format and not the key: the lines that `keep` lets pass, chained anew.
fn forged(lines: &[Vec<u8>], keep: impl Fn(&Line) -> bool) -> Vec<Vec<u8>> {
    let (mut forged, mut seq, mut prev) = (Vec::new(), 0, Hash::default());
    for bytes in lines {
        let line = Line::parse(bytes).unwrap();
        if !keep(&line) {
            continue;
        }
        seq += 1;
        let rest = String::from_utf8(bytes.clone()).unwrap();
        let rest =
            rest.split_once("\",\"at\":").unwrap().1.replace("spiffe://td/3\"", "spiffe://td/innocent\"");
        let line = format!("{{\"seq\":{seq},\"prev\":\"{prev}\",\"at\":{rest}").into_bytes();
        prev = Hash::of(&line);
        forged.push(line);
    }
    forged
}

fn kinds(report: &Report) -> Vec<FindingKind> {
    report.findings.iter().map(|found| found.kind).collect()
}

#[test]
fn what_no_checkpoint_covers_is_not_taken_for_intact() {
    let keys = || vec![fingerprint(KEY)];
    let log = written(40);
    let all = log.files.concat();
    let without = forged(&all, |line| line.event != event::CHECKPOINT && line.seq != 4);
    let head =
        Head { log: "log-1".into(), seq: without.len() as u64, hash: Hash::of(without.last().unwrap()) };
    let forged_log = Log { files: vec![without.clone()], head: head.clone() };
    // As an export, and in a data directory whose note was set to its last line, or to none.
    let part = Expected { keys: keys(), ..Expected::default() };
    let report = verify_with(&forged_log, part.clone());
    assert!(kinds(&report).contains(&FindingKind::Unsigned) && report.signed.is_none(), "{report:?}");
    assert!(!verify(&forged_log).is_intact());
    let at_none = Head { log: "log-1".into(), ..Head::default() };
    assert!(!verify(&Log { head: at_none, ..forged_log }).is_intact());
    // Nothing at all.
    assert_eq!(
        kinds(&verify_with(&Log { files: vec![vec![]], head }, part.clone())),
        [FindingKind::Unsigned]
    );

    // A true beginning, up to a checkpoint, and a tail that nobody has signed.
    let at = all.iter().position(|line| Line::parse(line).unwrap().event == event::CHECKPOINT).unwrap();
    let beginning = Log { files: vec![all[..=at].to_vec()], head: Head::default() };
    assert_eq!(kinds(&verify_with(&beginning, part.clone())), []);
    let mut chain = Chain::resume(Head { log: "log-1".into(), seq: at as u64 + 1, hash: Hash::of(&all[at]) });
    let mut tail = Vec::new();
    chain.append(&Record::new(UnixMillis(9), "connected"), &mut tail);
    let mut longer = beginning.clone();
    longer.files[0].push(trimmed(tail));
    let report = verify_with(&longer, part);
    assert_eq!((kinds(&report), report.unsigned), (vec![FindingKind::Unsigned], 1), "{report:?}");
}

#[test]
fn the_note_of_the_last_checkpoint_must_name_one_that_holds() {
    let mut writer = Writer::new();
    writer.append(&Record::new(UnixMillis(1), "connected"));
    writer.checkpoint();
    let signed = writer.signed.clone();
    writer.append(&Record::new(UnixMillis(2), "connected"));
    let last = writer.chain.head().clone();
    let log = writer.log();
    let growing =
        |head: &Head| Expected { may_grow: true, ..expected(&Log { head: head.clone(), ..log.clone() }) };
    assert_eq!(kinds(&verify_with(&log, growing(&signed))), []);
    assert_eq!(kinds(&verify_with(&log, growing(&last))), [FindingKind::Unsigned]);
}

/// A log whose process ended with `count` lines after its last checkpoint, one every `apart` ms, and went on.
fn resumed(count: u64, apart: u64, says_signed: impl Fn(u64) -> u64) -> Report {
    let mut writer = Writer::new();
    writer.append(&Record::new(UnixMillis(1), event::RESUMED).with("found", 0).with("checkpoint-secs", 10));
    writer.checkpoint();
    let signed = writer.signed.seq;
    for n in 0..count {
        writer.append(&Record::new(UnixMillis(1_000 + n * apart), "connected"));
    }
    let found = writer.chain.head().seq;
    let resumed = Record::new(UnixMillis(9_000), event::RESUMED).with("signed", says_signed(signed));
    writer.append(&resumed.with("found", found).with("is-clean", false));
    writer.checkpoint();
    verify(&writer.log())
}

#[test]
fn lines_that_a_start_found_unsigned_stay_unproven_and_are_bounded() {
    let report = resumed(5, 1_000, |signed| signed);
    assert_eq!((kinds(&report), report.unproven, report.unsigned), (vec![], 5, 0), "{report:?}");
    assert!(report.notes.iter().any(|note| note.text.contains("lines 4 to 8")), "{report:?}");
    // More, or over a longer time, than there can be between two checkpoints.
    let report = resumed(200, 10_000, |signed| signed);
    assert_eq!(kinds(&report), [FindingKind::Unsigned], "{:?}", report.findings);
    let report = resumed(UNSIGNED_LINES_MAX + 1, 0, |signed| signed);
    assert_eq!(kinds(&report), [FindingKind::Unsigned], "{:?}", report.findings);
    // A clock that was set in between is nothing.
    let report = resumed(2, 1 << 40, |signed| signed);
    assert_eq!(kinds(&report), [], "{:?}", report.findings);
    // A start that took the word of a note for it.
    let report = resumed(5, 1_000, |signed| signed + 5);
    assert_eq!(kinds(&report), [FindingKind::Unsigned], "{:?}", report.findings);
}

#[test]
fn a_file_that_does_not_end_with_a_checkpoint_is_a_finding() {
    let mut writer = Writer::new();
    writer.checkpoint();
    writer.append(&Record::new(UnixMillis(1), "connected"));
    writer.files.push(Vec::new());
    writer.append(&header(event::OPENED));
    writer.checkpoint();
    assert_eq!(kinds(&verify(&writer.log())), [FindingKind::Unsigned]);
}
