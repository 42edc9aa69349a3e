//! Lines of another process's log, judged as they arrive in portions.

use audit_core::{Chain, FindingKind, Hash, Head, Intake, Judged, Record, event, fingerprint};
use midge_identity::UnixMillis;
use proptest::prelude::*;
use std::convert::Infallible;

const KEY: &[u8] = b"a public key";

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    Hash::of(&[key, b"secret", message].concat()).to_string().into_bytes()
}

fn holds(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    signature == sign(key, message)
}

fn header(log: &str, key: &[u8]) -> Record {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode(key);
    Record::new(UnixMillis(7), event::CREATED).with("log", log).with("public-key", key)
}

/// A log with a checkpoint after every third line; `what` is in its events.
fn written(log: &str, key: &[u8], what: &str, events: u64) -> Vec<Vec<u8>> {
    let (mut chain, mut bytes) = (Chain::new(log), Vec::new());
    chain.append(&header(log, key), &mut bytes);
    for n in 0..events {
        chain.append(&Record::new(UnixMillis(n), "connected").with("what", what), &mut bytes);
        if n % 3 == 2 {
            let signed = |message: &[u8]| Ok::<_, Infallible>(sign(key, message));
            chain.checkpoint(UnixMillis(n), &fingerprint(key), signed, &mut bytes).unwrap();
        }
    }
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

fn judge(intake: &Intake, log: &str, lines: &[Vec<u8>]) -> Judged {
    let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
    intake.judge(log, &lines, intake.key_name().as_deref(), holds)
}

fn taken(log: &str, lines: &[Vec<u8>]) -> Intake {
    judge(&Intake::default(), log, lines).intake
}

fn kinds(judged: &Judged) -> Vec<FindingKind> {
    judged.findings.iter().map(|finding| finding.kind).collect()
}

proptest! {
    #[test]
    fn a_log_in_portions_is_as_good_as_whole(sizes in prop::collection::vec(1_usize..9, 1..30)) {
        let lines = written("log-1", KEY, "a", 60);
        let (mut intake, mut rest, mut first) = (Intake::default(), &lines[..], true);
        for size in sizes.into_iter().chain([usize::MAX]) {
            let (portion, later) = rest.split_at(size.min(rest.len()));
            if portion.is_empty() {
                break;
            }
            let judged = judge(&intake, "log-1", portion);
            prop_assert_eq!((kinds(&judged), judged.branches), (Vec::new(), first));
            (intake, rest, first) = (judged.intake, later, false);
        }
        let last = Head { log: "log-1".into(), seq: lines.len() as u64, hash: Hash::of(lines.last().unwrap()) };
        prop_assert_eq!(intake.head, Some(last));
        prop_assert_eq!(intake.key.as_deref(), Some(KEY));
    }

    #[test]
    fn a_portion_with_a_changed_removed_or_doubled_line_is_told(
        at in 4_usize..30, portion in 1_usize..12, how in 0..3,
    ) {
        let mut lines = written("log-1", KEY, "a", 30);
        let mut changed = lines[at].clone();
        let last = changed.len() - 2;
        changed[last] ^= 1;
        match how {
            0 => lines[at] = changed,
            1 => drop(lines.remove(at)),
            _ => lines.insert(at, lines[at].clone()),
        }
        let (mut intake, mut found) = (Intake::default(), Vec::new());
        for lines in lines.chunks(portion) {
            let judged = judge(&intake, "log-1", lines);
            found.extend(kinds(&judged));
            intake = judged.intake;
        }
        prop_assert!(!found.is_empty());
    }
}

#[test]
fn lines_that_are_missing_are_told_and_what_follows_is_taken() {
    let lines = written("log-1", KEY, "a", 30);
    let judged = judge(&taken("log-1", &lines[..10]), "log-1", &lines[12..20]);
    assert_eq!((kinds(&judged), judged.branches), (vec![FindingKind::Missing], false));
    assert!(judged.findings[0].text.contains("lines 11 to 12"), "{:?}", judged.findings);
    assert_eq!(judged.intake.head.unwrap().seq, 20);
    // Its twin: nothing is missing.
    let judged = judge(&taken("log-1", &lines[..10]), "log-1", &lines[10..20]);
    assert_eq!((kinds(&judged), judged.signed), (vec![], Some(17)));
}

#[test]
fn another_history_of_the_same_log_begins_a_branch() {
    let (lines, other) = (written("log-1", KEY, "a", 30), written("log-1", KEY, "b", 30));
    let before = taken("log-1", &lines[..10]);
    for start in [10, 0, 5] {
        let judged = judge(&before, "log-1", &other[start..]);
        assert!(judged.branches && judged.findings[0].kind == FindingKind::Changed, "{judged:?}");
        assert!(judged.findings[0].text.contains("another history"), "{judged:?}");
        assert_eq!(judged.intake.head.unwrap().seq, other.len() as u64);
    }
    assert!(judge(&before, "log-1", &lines[10..]).findings.is_empty());
}

#[test]
fn another_log_and_another_key_are_told() {
    let before = taken("log-1", &written("log-1", KEY, "a", 30));
    let judged = judge(&before, "log-2", &written("log-2", KEY, "a", 9));
    assert_eq!((kinds(&judged), judged.branches), (vec![FindingKind::Foreign], true));
    let judged = judge(&before, "log-2", &written("log-2", b"another key", "a", 9));
    assert_eq!(kinds(&judged), [FindingKind::Foreign, FindingKind::Foreign]);
    assert!(judged.findings[1].text.contains("is signed with key"), "{judged:?}");
}
