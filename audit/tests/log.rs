//! The log on disk: what is written is read back and verified, whatever happened in between.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_audit::{
    Alike, AuditConfig, AuditLog, Bounds, Expected, FindingKind, Follower, Line, Peer, Record, Report, Sort,
    each_line, event, files, own_key, signed_head, verify, verify_log,
};
use midge_identity::UnixMillis;
use midge_runtime::Clock;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Place {
    dir: TempDir,
    bounds: Bounds,
}

impl Place {
    fn new() -> Self {
        // No checkpoint but those at the start, at the end and of a full file.
        let bounds = Bounds { checkpoint_secs: 3_600, ..Bounds::default() };
        Self { dir: TempDir::new().unwrap(), bounds }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("keys/audit.key")
    }

    fn config(&self) -> AuditConfig {
        fs::create_dir_all(self.dir.path().join("keys")).unwrap();
        let clock = Clock::manual(UnixMillis(2_000));
        AuditConfig { key: self.key(), bounds: self.bounds, clock, ..AuditConfig::new(&self.path()) }
    }

    fn write(&self, events: u64) {
        let (log, writer) = AuditLog::open_with(self.config()).unwrap();
        (0..events).for_each(|n| log.record(numbered(n)));
        drop(writer);
    }

    fn verify(&self) -> Report {
        verify_log(&self.path(), &self.key(), vec![own_key(&self.key()).unwrap()]).unwrap()
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        each_line(&files(&self.path()).unwrap(), |line| lines.push(Line::parse(line).unwrap())).unwrap();
        lines
    }

    fn events(&self) -> Vec<String> {
        self.lines().into_iter().map(|line| line.event).collect()
    }

    fn numbers(&self) -> Vec<u64> {
        self.lines().iter().filter_map(|line| line.number("n")).collect()
    }
}

fn numbered(n: u64) -> Record {
    Record::new(UnixMillis(n), "connected").with("n", n).with("identity", "spiffe://td/app/a")
}

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn append(path: &Path, bytes: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn what_is_taken_is_a_verified_line_once_the_writer_is_dropped() {
    let place = Place::new();
    place.write(100);
    assert_eq!(place.numbers(), (0..100).collect::<Vec<_>>());
    let report = place.verify();
    assert_eq!(report.findings, []);
    assert_eq!(report.unsigned, 0);
    assert!(!report.key_is_own_word);
    use std::os::unix::fs::PermissionsExt as _;
    for private in [place.path(), place.key()] {
        assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_stopped_log_goes_on_in_the_same_chain() {
    let place = Place::new();
    place.write(3);
    place.write(3);
    let expected =
        ["log-created", "checkpoint", "connected", "connected", "connected", "checkpoint", "log-resumed"];
    assert_eq!(place.events()[..7], expected);
    assert!(place.verify().is_intact());
    assert_eq!(place.lines()[6].details["is-clean"], true);
}

#[test]
fn files_rotate_and_all_together_stay_within_the_bound() {
    let mut place = Place::new();
    place.bounds.file_bytes_max = 16 * 1024;
    place.bounds.total_bytes_max = 64 * 1024;
    for _ in 0..4 {
        place.write(300);
        let total: u64 =
            files(&place.path()).unwrap().iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert!(total <= 64 * 1024, "{total}");
    }
    let list = files(&place.path()).unwrap();
    assert!((3..=5).contains(&list.len()), "{list:?}");
    let report = place.verify();
    assert_eq!(report.findings, []);
    assert!(report.first > 100 && report.notes.iter().any(|note| note.text.contains("to stay within")));
    // The same without the oldest file is no deletion for the bound.
    fs::remove_file(&list[0]).unwrap();
    assert_eq!(place.verify().findings[0].kind, FindingKind::Missing);
}

#[test]
fn a_file_too_old_is_followed_by_the_next() {
    let mut place = Place::new();
    place.write(2);
    place.bounds.file_age_max_secs = 0;
    place.write(1);
    assert!(files(&place.path()).unwrap().len() >= 2);
    assert!(place.verify().is_intact());
    assert_eq!(place.numbers(), [0, 1, 0]);
}

#[test]
fn a_missing_file_in_between_is_found() {
    let mut place = Place::new();
    place.bounds.file_bytes_max = 8 * 1024;
    place.write(400);
    let list = files(&place.path()).unwrap();
    assert!(list.len() > 4);
    for missing in &list {
        let others: Vec<PathBuf> = list.iter().filter(|file| *file != missing).cloned().collect();
        let head = signed_head(&place.key()).map(|(head, _)| head);
        let report =
            verify(&others, Expected { keys: Vec::new(), head, is_whole: true, may_grow: true }).unwrap();
        assert!(!report.is_intact(), "{missing:?}");
    }
}

#[test]
fn a_line_torn_by_a_crash_is_cut_off_and_recorded() {
    let place = Place::new();
    for torn in [&b"{\"seq\":9,\"pre"[..], b"{", b"\0\0\0\0", b"\0\0\n\0garbage\n"] {
        place.write(2);
        append(&place.path(), torn);
        let report = place.verify();
        assert!(!report.is_intact(), "{report:?}");
        place.write(0);
        let repaired = place.lines().into_iter().rfind(|line| line.event == event::REPAIRED).unwrap();
        assert_eq!(repaired.number("removed-bytes"), Some(torn.len() as u64));
        assert_eq!(place.verify().findings, []);
    }
}

#[test]
fn a_crash_at_any_byte_leaves_a_log_that_goes_on() {
    let place = Place::new();
    place.write(3);
    let whole = fs::read(place.path()).unwrap();
    // A crash loses what came after the last checkpoint: here all but the first two lines.
    let signed = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0 + 1;
    let head = fs::read(place.dir.path().join("keys/audit.head")).unwrap();
    let line = |n: usize| whole.split(|byte| *byte == b'\n').nth(n).unwrap();
    let first_signed = midge_audit::Hash::of(line(1)).to_string();
    let head = String::from_utf8(head).unwrap();
    let last_signed = midge_audit::Hash::of(line(5)).to_string();
    let head = head.replace("\"seq\":6", "\"seq\":2").replace(&last_signed, &first_signed);
    for end in (signed..whole.len()).step_by(37) {
        fs::write(place.path(), &whole[..end]).unwrap();
        midge_pki::write_private(place.dir.path().join("keys/audit.head"), head.as_bytes()).unwrap();
        place.write(1);
        let report = place.verify();
        assert_eq!(report.findings, [], "cut at {end}");
    }
}

#[test]
fn a_log_that_was_cut_while_stopped_says_so_for_ever() {
    let place = Place::new();
    place.write(5);
    let text = fs::read_to_string(place.path()).unwrap();
    let kept: Vec<&str> = text.lines().take(4).collect();
    fs::write(place.path(), kept.join("\n") + "\n").unwrap();
    assert_eq!(place.verify().findings[0].kind, FindingKind::Truncated);

    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    assert!(log.status().found.unwrap().contains("lines 5 to 8 of the audit log are missing"));
    drop(writer);
    let report = place.verify();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].kind, FindingKind::Truncated);
    assert!(report.findings[0].text.contains("lines 5 to 8"));

    // And one that was deleted as a whole.
    let place = Place::new();
    place.write(5);
    fs::remove_file(place.path()).unwrap();
    place.write(1);
    assert_eq!(place.verify().findings[0].kind, FindingKind::Truncated);
}

#[test]
fn a_log_whose_last_checkpoint_was_removed_says_so_for_ever() {
    let (removed, garbage) = (None, Some("{\"log\":"));
    for (head, kept) in [(removed, 2), (removed, 4), (removed, 8), (removed, 0), (garbage, 4)] {
        let place = Place::new();
        place.write(5);
        let text = fs::read_to_string(place.path()).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').take(kept).collect();
        fs::write(place.path(), lines.concat()).unwrap();
        let path = place.dir.path().join("keys/audit.head");
        match head {
            None => fs::remove_file(&path).unwrap(),
            Some(text) => midge_pki::write_private(&path, text.as_bytes()).unwrap(),
        }
        let found = |report: &Report| report.findings.iter().map(|found| found.kind).collect::<Vec<_>>();
        // Without a line there is nothing to read, but the key is there.
        let expected = if kept == 0 { FindingKind::Unsigned } else { FindingKind::HeadMissing };
        let expected = vec![expected];
        assert_eq!(found(&place.verify()), expected, "{kept} lines");

        let (log, writer) = AuditLog::open_with(place.config()).unwrap();
        let told = log.status().found.unwrap();
        assert!(told.contains(&format!("audit.head is missing or cannot be read: lines after {kept} may")));
        drop(writer);
        place.write(1);
        let report = place.verify();
        assert_eq!(found(&report), [FindingKind::HeadMissing], "{kept} lines: {report:?}");
        assert!(report.findings[0].text.contains(&format!("lines after {kept} may")), "{report:?}");
    }
}

#[test]
fn a_first_start_that_was_cut_short_is_no_finding() {
    // The note comes first, then the key, then the first line.
    for steps in 0..3 {
        let place = Place::new();
        place.write(0);
        fs::remove_file(place.path()).unwrap();
        let head = signed_head(&place.key()).unwrap().0;
        let path = place.dir.path().join("keys/audit.head");
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("\"seq\":2", "\"seq\":0").replace(&head.hash.to_string(), &"0".repeat(64));
        midge_pki::write_private(&path, text.as_bytes()).unwrap();
        if steps < 2 {
            fs::remove_file(place.key()).unwrap();
        }
        if steps < 1 {
            fs::remove_file(&path).unwrap();
        }
        let (log, writer) = AuditLog::open_with(place.config()).unwrap();
        assert_eq!(log.status().found, None, "{steps}");
        drop(writer);
        assert_eq!(place.verify().findings, [], "{steps}");
        assert_eq!(place.events()[..2], ["log-created", "checkpoint"]);
    }
}

#[test]
fn a_file_whose_first_line_was_damaged_is_kept_as_evidence() {
    let place = Place::new();
    place.write(5);
    let text = fs::read_to_string(place.path()).unwrap();
    fs::write(place.path(), text.replace("log-created", "log-crEated")).unwrap();
    place.write(1);
    assert_eq!(place.numbers(), [0, 1, 2, 3, 4, 0]);
    assert!(!place.verify().is_intact());
}

#[test]
fn the_plain_log_of_an_earlier_version_is_kept() {
    let place = Place::new();
    fs::write(place.path(), "{\"at\":1,\"event\":\"connected\"}\n").unwrap();
    place.write(2);
    let kept = fs::read_to_string(place.dir.path().join("audit.aside-1.jsonl")).unwrap();
    assert!(kept.contains("connected"));
    assert_eq!(place.numbers(), [0, 1]);
    let report = place.verify();
    assert_eq!((report.findings.len(), report.notes.len()), (0, 1), "{report:?}");
}

#[test]
fn a_new_key_is_found_unless_it_is_vouched_for() {
    let place = Place::new();
    place.write(2);
    let old = own_key(&place.key()).unwrap();
    fs::remove_file(place.key()).unwrap();
    place.write(2);
    let new = own_key(&place.key()).unwrap();
    let verified = |keys| verify_log(&place.path(), &place.key(), keys).unwrap();
    assert!(!verified(vec![old.clone()]).is_intact());
    assert!(!verified(vec![new.clone()]).is_intact());
    assert_eq!(verified(vec![old, new]).findings, []);
}

#[test]
fn what_does_not_fit_into_the_queue_is_a_gap() {
    let place = Place::new();
    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    log.put(move || {
        held.recv().unwrap_or_default();
        numbered(0)
    });
    for n in 1..20_000 {
        log.record(numbered(n));
    }
    let lost = log.lost();
    assert!(lost > 0, "nothing was lost, and nothing waited");
    hold.send(()).unwrap();
    drop(writer);
    let gaps: u64 =
        place.lines().iter().filter(|line| line.event == event::GAP).filter_map(|g| g.number("lost")).sum();
    assert_eq!((gaps, place.numbers().len() as u64), (lost, 20_000 - lost));
    assert!(place.verify().notes.iter().any(|note| note.text.contains("were lost")));
}

#[test]
fn denials_leave_room_for_what_was_permitted() {
    let place = Place::new();
    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    log.put(move || {
        held.recv().unwrap_or_default();
        numbered(0)
    });
    let classes: Vec<String> = (0..20_000).map(|n| format!("class {n}")).collect();
    for (n, class) in classes.iter().enumerate() {
        let identity = format!("peer {}", n / 30);
        put(&log, &denial(&identity, class), || numbered(1));
    }
    let lost = log.lost();
    assert!(lost > 0);
    log.record(numbered(77));
    assert_eq!(log.lost(), lost);
    hold.send(()).unwrap();
    drop(writer);
    assert!(place.numbers().contains(&77));
}

fn denial<'a>(identity: &'a str, class: &'a str) -> Alike<'a> {
    let (peer, event, sort, at) =
        (Peer::Identity(identity), "publish-denied", Sort::Denial, UnixMillis(1_000));
    Alike { peer, event, class, burst: 5, count: 1, sort, at }
}

fn put(log: &AuditLog, alike: &Alike<'_>, make: impl FnOnce() -> Record + Send + 'static) {
    if let Some(admitted) = log.admit(alike) {
        admitted.put(make);
    }
}

#[test]
fn events_that_are_alike_are_counted() {
    let place = Place::new();
    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    for _ in 0..10_000 {
        put(&log, &denial("spiffe://td/app/a", "x/"), || {
            Record::new(UnixMillis(1_000), "publish-denied").with("identity", "spiffe://td/app/a")
        });
    }
    drop(writer);
    assert_eq!(log.lost(), 0);
    let lines = place.lines();
    assert_eq!(lines.iter().filter(|line| line.event == "publish-denied").count(), 5);
    let repeated = lines.iter().find(|line| line.event == event::REPEATED).unwrap();
    assert_eq!((repeated.number("count"), repeated.text("of")), (Some(9_995), Some("publish-denied")));
}

/// Connects as fast as the writer takes it, with the longest texts that it writes.
fn connect_in_a_loop(log: &AuditLog, identity: &'static str, times: u64) {
    for n in 0..times {
        let peer = Peer::Identity(identity);
        let routine =
            Alike { peer, event: "connected", burst: 100_000, sort: Sort::Routine, ..denial("", "") };
        put(log, &routine, move || numbered(n).with("identity", identity).with("filter", "f".repeat(2_000)));
        while log.queued() > 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn one_identity_cannot_push_the_lines_of_others_out() {
    let mut place = Place::new();
    (place.bounds.file_bytes_max, place.bounds.total_bytes_max) = (64 * 1024, 1024 * 1024);
    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    put(&log, &denial("spiffe://td/app/quiet", "x/"), || {
        Record::new(UnixMillis(1_000), "publish-denied").with("identity", "spiffe://td/app/quiet")
    });
    connect_in_a_loop(&log, "spiffe://td/app/loud", 1_000);
    // Nor does it hide with that what it is refused.
    put(&log, &denial("spiffe://td/app/loud", "x/"), || {
        Record::new(UnixMillis(1_000), "publish-denied").with("identity", "spiffe://td/app/loud")
    });
    drop(writer);
    let lines = place.lines();
    let of = |event: &str, who: &str| {
        let is_one =
            |line: &&Line| line.event == event && line.text("identity").is_some_and(|id| id.ends_with(who));
        lines.iter().filter(is_one).count()
    };
    assert_eq!((of("publish-denied", "quiet"), of("publish-denied", "loud")), (1, 1));
    // The least share, 16 KiB, is eight such lines.
    let written = of("connected", "loud");
    assert!((8..=9).contains(&written), "{written}");
    let counted: u64 = lines.iter().filter_map(|line| line.number("count")).sum();
    assert_eq!((written as u64 + counted, log.lost()), (1_000, 0));
}

#[test]
fn a_log_is_followed_across_rotations() {
    let mut place = Place::new();
    place.bounds.file_bytes_max = 8 * 1024;
    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    let mut follower = Follower::from_end(&place.path()).unwrap();
    let mut numbers = Vec::new();
    for n in 0..300 {
        log.record(numbered(n));
        if n % 20 == 19 {
            eventually("followed", || {
                poll(&mut follower, &mut numbers);
                (numbers.last() == Some(&n)).then_some(())
            });
        }
    }
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    assert!(files(&place.path()).unwrap().len() > 3);
    drop(writer);
}

fn poll(follower: &mut Follower, numbers: &mut Vec<u64>) {
    follower.poll(|line| numbers.extend(Line::parse(line).unwrap().number("n"))).unwrap();
}

#[test]
fn files_that_come_and_go_between_two_looks_are_followed() {
    let mut place = Place::new();
    place.bounds.file_bytes_max = 8 * 1024;
    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    let mut numbers = Vec::new();
    log.record(numbered(0));
    let mut late = Follower::from_start(&place.path());
    eventually("the first line", || {
        poll(&mut late, &mut numbers);
        (numbers == [0]).then_some(())
    });
    let mut early = Follower::from_end(&place.path()).unwrap();
    (1..300).for_each(|n| log.record(numbered(n)));
    drop(writer);
    assert!(files(&place.path()).unwrap().len() > 3);
    poll(&mut late, &mut numbers);
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    for (follower, first) in [(&mut early, 1), (&mut Follower::from_start(&place.path()), 0)] {
        let mut numbers = Vec::new();
        poll(follower, &mut numbers);
        assert_eq!(numbers, (first..300).collect::<Vec<_>>());
        poll(follower, &mut numbers);
        assert_eq!(numbers.len(), 300 - usize::try_from(first).unwrap(), "nothing twice");
    }
    let mut none = Vec::new();
    poll(&mut Follower::from_end(&place.path()).unwrap(), &mut none);
    assert_eq!(none, [0; 0], "what was before the end");
}

#[test]
fn each_line_is_streamed_once_it_is_in_the_file() {
    let place = Place::new();
    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    log.stream_to(move |event, line| sender.send((event, line.to_vec())).unwrap_or_default());
    for n in 0..3 {
        log.record(numbered(n));
    }
    for n in 0..3 {
        let (event, line) = lines.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((event, Line::parse(&line).unwrap().number("n")), ("connected", Some(n)));
    }
    drop(writer);
}

/// With a number of events, in release and with `--nocapture`, it is the measurement of the log.
#[test]
fn many_events_are_recorded_and_verified_without_loss() {
    let mut place = Place::new();
    place.bounds = Bounds::default();
    let (log, writer) = AuditLog::open_with(place.config()).unwrap();
    let events = std::env::var("MIDGE_AUDIT_EVENTS").map_or(20_000_u64, |events| events.parse().unwrap());
    let since = Instant::now();
    let mut producing = Duration::ZERO;
    for n in 0..events {
        let before = Instant::now();
        log.record(
            numbered(n)
                .with("client-id", "a-client")
                .with("filter", "$hw/events/device/+/twin/+")
                .with("rule", "a rule"),
        );
        producing += before.elapsed();
        if n % 4_096 == 4_095 {
            let lost = log.lost();
            assert_eq!(lost, 0);
            while log.queued() > 2_048 {
                std::thread::yield_now();
            }
        }
    }
    drop(writer);
    let secs = since.elapsed().as_secs_f64();
    println!(
        "{:.0} events/s, {} ns each for whoever records",
        events as f64 / secs,
        producing.as_nanos() / u128::from(events)
    );
    let since = Instant::now();
    let report = place.verify();
    println!("verified {} lines in {:?}: {:?}", report.lines, since.elapsed(), report.findings);
    assert!(report.lines >= events);
}
