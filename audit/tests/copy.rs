//! A log that is taken over by another process, in portions, over restarts of both.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use midge_audit::{
    AuditConfig, AuditLog, Bounds, Copy, Expected, Head, Record, Source, branches, copy_state, verify,
};
use midge_identity::UnixMillis;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const ROOM: u64 = 1 << 30;

struct Box {
    dir: TempDir,
    bounds: Bounds,
}

impl Box {
    fn new() -> Self {
        let bounds = Bounds { file_bytes_max: 4_096, ..Bounds::default() };
        Self { dir: tempfile::tempdir().unwrap(), bounds }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    /// Runs the box: so many events; all are signed at its end.
    fn runs(&self, events: usize) -> Head {
        let config = AuditConfig { bounds: self.bounds, ..AuditConfig::new(&self.path()) };
        let (log, writer) = AuditLog::open_with(config).unwrap();
        for n in 0..events {
            log.record(Record::new(NOW, "connected").with("identity", format!("spiffe://td/app/{n}")));
        }
        drop(writer);
        log.status().signed
    }

    /// Everything that is signed, as it is in the files.
    fn text(&self) -> Vec<u8> {
        text(&midge_audit::files(&self.path()).unwrap())
    }
}

fn text(files: &[PathBuf]) -> Vec<u8> {
    files.iter().flat_map(|path| std::fs::read(path).unwrap()).collect()
}

fn copied(dir: &Path, branch: usize) -> Vec<u8> {
    text(&branches(dir).unwrap()[branch].files)
}

/// Uploads until there is no more, with a source and a copy that are opened anew now and then.
fn upload(from: &Box, signed: &Head, to: &Path, reopened_every: usize) -> Copy {
    let (mut source, mut copy) = (Source::new(from.path()), Copy::open(to, ROOM, NOW).unwrap());
    for round in 1.. {
        let after = copy.head().cloned();
        let lines = source.after(after.as_ref(), signed).unwrap();
        if lines.is_empty() {
            return copy;
        }
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        copy.append(after.as_ref(), &signed.log, &lines, NOW).unwrap();
        // A late copy of it changes nothing.
        copy.append(after.as_ref(), &signed.log, &lines, NOW).unwrap();
        if round % reopened_every == 0 {
            source = Source::new(from.path());
            copy = Copy::open(to, ROOM, NOW).unwrap();
        }
        assert!(round < 1_000, "it does not end");
    }
    copy
}

fn intact(dir: &Path, branch: usize) -> bool {
    let state = copy_state(dir).unwrap().unwrap();
    let files = &branches(dir).unwrap()[branch].files;
    let keys = state.key.into_iter().collect();
    let expected = Expected { keys, head: state.head, is_whole: true, may_grow: false };
    verify(files, expected).unwrap().is_intact()
}

#[test]
fn a_copy_is_the_log_byte_by_byte_over_rotations_and_restarts() {
    let (from, to) = (Box::new(), tempfile::tempdir().unwrap());
    for events in [0, 3, 500, 1, 2_000] {
        let signed = from.runs(events);
        let copy = upload(&from, &signed, to.path(), 2);
        assert_eq!(copy.head(), Some(&signed));
        assert_eq!(copied(to.path(), 0), from.text());
    }
    let state = copy_state(to.path()).unwrap().unwrap();
    assert_eq!((state.branch, state.findings), (1, vec![]));
    assert!(branches(to.path()).unwrap()[0].files.len() > 3 && intact(to.path(), 0));
}

#[test]
fn what_is_not_signed_stays_at_home() {
    let (from, to) = (Box::new(), tempfile::tempdir().unwrap());
    let signed = from.runs(10);
    from.runs(10);
    let copy = upload(&from, &signed, to.path(), 9);
    assert_eq!(copy.head(), Some(&signed));
}

#[test]
fn a_crash_of_the_copying_process_loses_no_whole_line_and_leaves_no_torn_one() {
    let (from, to) = (Box::new(), tempfile::tempdir().unwrap());
    let early = from.runs(5);
    upload(&from, &early, to.path(), 9);
    let state = std::fs::read(to.path().join("state.json")).unwrap();
    let signed = from.runs(300);
    upload(&from, &signed, to.path(), 9);
    let newest = branches(to.path()).unwrap()[0].files.last().unwrap().clone();
    let whole = std::fs::read(&newest).unwrap();
    for cut in [whole.len() - 1, whole.len() / 2, 0] {
        // The files are ahead of the state, and the last line is torn.
        std::fs::write(&newest, &whole[..cut]).unwrap();
        std::fs::write(to.path().join("state.json"), &state).unwrap();
        let copy = upload(&from, &signed, to.path(), 9);
        assert_eq!((copy.head(), copy.state().findings.len()), (Some(&signed), 0));
        assert_eq!(copied(to.path(), 0), from.text());
    }
    // Without a state the files are enough.
    std::fs::remove_file(to.path().join("state.json")).unwrap();
    let copy = upload(&from, &signed, to.path(), 9);
    assert_eq!((copy.head(), copied(to.path(), 0)), (Some(&signed), from.text()));
}

#[test]
fn lines_that_were_deleted_for_the_bound_before_they_were_taken_are_a_finding() {
    let (mut from, to) = (Box::new(), tempfile::tempdir().unwrap());
    let early = from.runs(3);
    upload(&from, &early, to.path(), 9);
    from.bounds.total_bytes_max = 16_384;
    let signed = from.runs(1_000);
    let copy = upload(&from, &signed, to.path(), 9);
    assert_eq!((copy.head(), copy.state().branch), (Some(&signed), 1));
    let [finding] = &copy.state().findings[..] else { panic!("{:?}", copy.state()) };
    assert!(finding.text.contains("are missing before this one"), "{finding:?}");
    assert!(!intact(to.path(), 0));
}

#[test]
fn a_log_that_was_set_back_begins_a_branch_and_what_was_taken_stays() {
    let (from, to) = (Box::new(), tempfile::tempdir().unwrap());
    from.runs(5);
    let backup = tempfile::tempdir().unwrap();
    for name in ["audit.jsonl", "audit.key", "audit.head"] {
        std::fs::copy(from.dir.path().join(name), backup.path().join(name)).unwrap();
    }
    let lost = from.runs(4);
    upload(&from, &lost, to.path(), 9);
    let before = copied(to.path(), 0);
    for name in ["audit.jsonl", "audit.key", "audit.head"] {
        std::fs::copy(backup.path().join(name), from.dir.path().join(name)).unwrap();
    }
    let signed = from.runs(6);
    let copy = upload(&from, &signed, to.path(), 1);
    assert_eq!((copy.head(), copy.state().branch), (Some(&signed), 2));
    assert!(copy.state().findings[0].text.contains("another history"), "{:?}", copy.state());
    assert_eq!((copied(to.path(), 0), copied(to.path(), 1)), (before, from.text()));
    assert!(intact(to.path(), 1));
}

#[test]
fn a_line_that_was_changed_at_the_box_is_a_finding_at_once() {
    let (from, to) = (Box::new(), tempfile::tempdir().unwrap());
    let signed = from.runs(9);
    let text = String::from_utf8(from.text()).unwrap();
    std::fs::write(from.path(), text.replace("app/4", "app/5")).unwrap();
    let copy = upload(&from, &signed, to.path(), 9);
    assert!(copy.state().findings[0].text.contains("the line was changed"), "{:?}", copy.state());
    assert_eq!(copy_state(to.path()).unwrap().as_ref(), Some(copy.state()));
}

#[test]
fn a_copy_stays_within_its_bound_and_branches_are_limited() {
    let (from, to) = (Box::new(), tempfile::tempdir().unwrap());
    let signed = from.runs(2_000);
    upload(&from, &signed, to.path(), 3);
    let bytes = |to: &Path| copied(to, 0).len();
    let before = bytes(to.path());
    let bound = u64::try_from(before / 2).unwrap();
    let signed = from.runs(100);
    let mut copy = Copy::open(to.path(), bound, NOW).unwrap();
    let (after, mut source) = (copy.head().cloned(), Source::new(from.path()));
    let lines = source.after(after.as_ref(), &signed).unwrap();
    let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
    copy.append(after.as_ref(), &signed.log, &lines, NOW).unwrap();
    assert!(bytes(to.path()) < before / 2 + 8_192 && copy.state().deleted_files > 0);

    let refused = (0..100).find_map(|n| {
        let after = copy.head().cloned();
        copy.append(after.as_ref(), &format!("log-{n}"), &[b"{}".as_slice()], NOW).err()
    });
    assert!(refused.unwrap().to_string().contains("32 branches"));
}

#[test]
fn portions_end_with_a_checkpoint_and_lines_that_none_covers_are_a_finding() {
    let (mut from, to) = (Box::new(), tempfile::tempdir().unwrap());
    from.bounds.file_bytes_max = 1 << 20;
    let signed = from.runs(1_000);
    let mut source = Source::new(from.path());
    let mut copy = Copy::open(to.path(), ROOM, NOW).unwrap();
    let (mut after, mut ends) = (None, Vec::new());
    loop {
        let lines = source.after(after.as_ref(), &signed).unwrap();
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let Some(last) = lines.last() else { break };
        ends.push((lines.len(), String::from_utf8_lossy(last).contains("\"event\":\"checkpoint\"")));
        copy.append(after.as_ref(), &signed.log, &lines, NOW).unwrap();
        after = copy.head().cloned();
    }
    // The first ends with the start's; what is longer than a portion without one is not.
    assert_eq!((ends[0], ends.last().unwrap().1, copy.head()), ((2, true), true, Some(&signed)));
    assert!(ends.iter().any(|end| !end.1) && copied(to.path(), 0) == from.text());
    assert_eq!(copy.state().findings, []);

    // A box, or somebody who has its identity, that sends a line which nobody has signed.
    let line = format!(
        "{{\"seq\":{},\"prev\":\"{}\",\"at\":7,\"event\":\"connected\"}}",
        signed.seq + 1,
        signed.hash
    );
    copy.append(Some(&signed), &signed.log, &[line.as_bytes()], NOW).unwrap();
    let [finding] = &copy.state().findings[..] else { panic!("{:?}", copy.state()) };
    assert!(finding.text.contains("no checkpoint that holds covers them"), "{finding:?}");
}

#[test]
fn the_end_of_a_branch_is_known_when_another_has_begun() {
    let (from, other, to) = (Box::new(), Box::new(), tempfile::tempdir().unwrap());
    let (first, second) = (from.runs(9), other.runs(9));
    upload(&from, &first, to.path(), 9);
    upload(&other, &second, to.path(), 9);
    let state = copy_state(to.path()).unwrap().unwrap();
    assert_eq!((state.end_of(1), state.end_of(2), state.end_of(3)), (Some(&first), Some(&second), None));
    let files = branches(to.path()).unwrap()[0].files.clone();
    let report = |head| {
        let keys = vec![state.key.clone().unwrap()];
        verify(&files, Expected { keys, head, ..Expected::default() }).unwrap()
    };
    assert!(report(state.end_of(1).cloned()).is_intact());
    // Cut to its first checkpoint.
    let cut: Vec<u8> =
        copied(to.path(), 0).split_inclusive(|byte| *byte == b'\n').take(2).flatten().copied().collect();
    std::fs::write(&files[0], cut).unwrap();
    assert!(!report(state.end_of(1).cloned()).is_intact());
}
