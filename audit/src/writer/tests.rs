//! What cannot be written: each event is a line, or counted in a line.

use super::*;
use crate::log::Status;
use crate::{Line, each_line, files, verify_log};
use audit_core::Limiter;
use midge_identity::UnixMillis;
use parking_lot::Mutex;
use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use tempfile::TempDir;

struct Place {
    dir: TempDir,
    bounds: Bounds,
}

impl Place {
    fn new(bounds: Bounds) -> Self {
        Self { dir: TempDir::new().unwrap(), bounds }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    fn writer(&self) -> Writer {
        let shared = Arc::new(Shared {
            limiter: Mutex::new(Limiter::new(Duration::from_secs(60), self.bounds.total_bytes_max)),
            status: Mutex::new(Status::default()),
            queued: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            sink: OnceLock::new(),
        });
        let clock = Clock::manual(UnixMillis(2_000));
        let config = AuditConfig { bounds: self.bounds, clock, ..AuditConfig::new(&self.path()) };
        Writer::open(config, shared).unwrap()
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        each_line(&files(&self.path()).unwrap(), |line| lines.push(Line::parse(line).unwrap())).unwrap();
        lines
    }

    /// Returns how many events are lines, and how many are told to be lost.
    fn told(&self) -> (u64, u64) {
        let lines = self.lines();
        let written = lines.iter().filter(|line| line.event == "subscribed").count();
        let gaps = lines.iter().filter(|line| line.event == event::GAP);
        (size(written), gaps.filter_map(|line| line.number("lost")).sum())
    }

    fn is_intact(&self) -> bool {
        let report = verify_log(&self.path(), &self.path().with_extension("key"), Vec::new()).unwrap();
        assert_eq!(report.findings, []);
        report.is_intact()
    }
}

fn bounds() -> Bounds {
    Bounds { file_bytes_max: 8 * 1024, checkpoint_secs: 3_600, ..Bounds::default() }
}

fn batch(count: usize) -> Vec<Item> {
    let record = || Record::new(UnixMillis(1), "subscribed").with("filter", "a/#").into();
    std::iter::repeat_with(record).take(count).collect()
}

/// Stands where a file should be put, so that nothing can.
fn block(path: &Path) {
    fs::create_dir_all(path.join("in-the-way")).unwrap();
}

#[test]
fn on_a_full_disk_what_is_not_written_is_counted_whatever_was_tried_first() {
    // The file is too old, or full, so that a checkpoint of the old one comes first; or neither.
    let old = Bounds { file_age_max_secs: 0, ..bounds() };
    let roomy = Bounds { file_bytes_max: 1024 * 1024, ..bounds() };
    for bounds in [old, bounds(), roomy] {
        let place = Place::new(bounds);
        let mut writer = place.writer();
        writer.step(batch(20), false).unwrap();
        // A file that takes nothing: not even half a line can be cut off.
        let full = File::open(place.path()).unwrap();
        let file = std::mem::replace(&mut writer.file, full);
        for _ in 0..10 {
            let stepped = writer.step(batch(30), false);
            writer.tell(&stepped);
            assert!(stepped.is_err());
        }
        assert_eq!(writer.shared.lost.load(Ordering::Relaxed), 300);
        assert!(writer.shared.status.lock().failing.is_some());
        writer.file = file;
        let stepped = writer.step(batch(7), true);
        writer.tell(&stepped);
        assert_eq!(place.told(), (27, 300));
        assert_eq!(writer.shared.status.lock().failing, None);
        assert!(place.is_intact());
    }
}

#[test]
fn a_count_that_cannot_be_written_is_lost_as_all_that_it_counts() {
    let place = Place::new(bounds());
    let mut writer = place.writer();
    let file = std::mem::replace(&mut writer.file, File::open(place.path()).unwrap());
    let repeated = Record::new(UnixMillis(1), event::REPEATED).with("count", 41);
    writer.step(vec![repeated.into()], false).unwrap_err();
    writer.step(batch(1), false).unwrap_err();
    writer.file = file;
    writer.step(batch(1), true).unwrap();
    assert_eq!(place.told(), (1, 42));
}

#[test]
fn where_no_file_can_be_begun_the_log_goes_on_in_the_old_one() {
    let place = Place::new(bounds());
    let mut writer = place.writer();
    let next = writer.names.rotated(1);
    block(&next);
    for _ in 0..20 {
        let stepped = writer.step(batch(30), false);
        writer.tell(&stepped);
        assert!(stepped.is_ok());
    }
    let failing = writer.shared.status.lock().failing.clone().unwrap_or_default();
    assert!(failing.contains("cannot use the audit log"), "{failing}");
    fs::remove_dir_all(&next).unwrap();
    for _ in 0..2 {
        let stepped = writer.step(batch(30), false);
        writer.tell(&stepped);
    }
    writer.step(batch(30), true).unwrap();
    assert_eq!((place.told(), writer.shared.lost.load(Ordering::Relaxed)), ((690, 0), 0));
    assert!(writer.first > 600 && fs::metadata(next).unwrap().len() > 64 * 1024);
    assert_eq!(writer.shared.status.lock().failing, None);
    assert!(place.is_intact());
}

#[test]
fn a_checkpoint_that_cannot_be_noted_costs_no_line_and_keeps_old_files() {
    let place = Place::new(Bounds { total_bytes_max: 64 * 1024, ..bounds() });
    let mut writer = place.writer();
    let head = place.path().with_extension("head");
    let noted = fs::read(&head).unwrap();
    fs::remove_file(&head).unwrap();
    block(&head);
    let mut asked = 0;
    // Up to the bound everything is written, in as many files as it needs.
    while writer.shared.lost.load(Ordering::Relaxed) == 0 {
        let stepped = writer.step(batch(10), false);
        asked += 10;
        writer.tell(&stepped);
        assert!(asked < 1_000, "the bound does not hold");
    }
    assert!(asked > 200 && writer.shared.status.lock().failing.is_some());
    for _ in 0..10 {
        writer.step(batch(10), false).unwrap_err();
        asked += 10;
    }
    let total: u64 = files(&place.path()).unwrap().iter().map(|file| bytes_of(file)).sum();
    assert!((56 * 1024..=64 * 1024 + 4 * 1024).contains(&total), "{total}");
    assert!(place.lines().iter().all(|line| line.event != event::TRIMMED));

    fs::remove_dir_all(&head).unwrap();
    fs::write(&head, noted).unwrap();
    writer.step(batch(10), true).unwrap();
    let lost = writer.shared.lost.load(Ordering::Relaxed);
    let lines = place.lines();
    assert!(lines.iter().any(|line| line.event == event::TRIMMED));
    let gap: u64 = lines.iter().filter_map(|line| line.number("lost")).sum();
    assert!(gap == lost && lost >= 100 && lost < asked, "{gap} {lost} {asked}");
    drop(writer);
    assert!(place.is_intact());
}

#[test]
fn half_a_line_is_cut_off_before_the_next_one() {
    let place = Place::new(bounds());
    let mut writer = place.writer();
    writer.step(batch(2), false).unwrap();
    fs::OpenOptions::new().append(true).open(place.path()).unwrap().write_all(b"{\"seq\":7,\"pr").unwrap();
    writer.is_torn = true;
    writer.step(batch(2), true).unwrap();
    assert_eq!(place.told(), (4, 0));
    assert!(place.is_intact());
}
