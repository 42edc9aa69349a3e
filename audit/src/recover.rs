//! Finding the end of a log at a start: after a crash the last line may be torn.

use crate::error::AuditError;
use crate::files::{Names, Rotated};
use audit_core::{Hash, Head, Line, event};
use midge_identity::UnixMillis;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Bytes read at a time from the end of a file; a line is rarely longer.
const STEP: u64 = 64 * 1024;

/// What is on disk.
#[derive(Debug)]
pub(crate) struct Found {
    /// The last whole line.
    pub(crate) head: Head,
    /// Bytes that were cut off behind it.
    pub(crate) removed: u64,
    /// Name under which a file was kept that is none of an audit log.
    pub(crate) set_aside: Option<String>,
    /// The file that is written has lines.
    pub(crate) active: Option<Active>,
}

#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) first: u64,
    pub(crate) opened: UnixMillis,
    pub(crate) bytes: u64,
    /// The key that its first line names, in Base64.
    pub(crate) key: String,
}

/// Cuts off what is no whole line, and returns where the log ends; `None` when there is none.
pub(crate) fn find(names: &Names) -> Result<Option<Found>, AuditError> {
    let rotated = names.list().map_err(AuditError::io(names.dir()))?;
    let path = names.active();
    let (mut removed, mut set_aside) = (0, None);
    if path.exists() && is_foreign(path).map_err(AuditError::io(path))? {
        let kept = names.aside();
        std::fs::rename(path, &kept).map_err(AuditError::io(path))?;
        set_aside = kept.file_name().map(|name| name.to_string_lossy().into_owned());
    }
    if path.exists() {
        let (end, cut) = repair(path).map_err(AuditError::io(path))?;
        removed = cut;
        let header = first_line(path).map_err(AuditError::io(path))?;
        if let (Some((seq, hash)), Some(header)) = (end, header) {
            let log = header.text("log").unwrap_or_default().to_owned();
            let bytes = std::fs::metadata(path).map_err(AuditError::io(path))?.len();
            let key = header.text("public-key").unwrap_or_default().to_owned();
            let active = Active { first: header.seq, opened: header.at, bytes, key };
            let head = Head { log, seq, hash };
            return Ok(Some(Found { head, removed, set_aside, active: Some(active) }));
        }
        if let Some((seq, hash)) = end {
            // Its first line is none of ours: the file is kept as it is, and the log goes on in another.
            std::fs::rename(path, names.rotated(seq)).map_err(AuditError::io(path))?;
            let head = Head { log: String::new(), seq, hash };
            return Ok(Some(Found { head, removed, set_aside, active: None }));
        }
    }
    let Some(Rotated { path, .. }) = rotated.last() else {
        let is_worth_telling = removed > 0 || set_aside.is_some();
        let found = Found { head: Head::default(), removed, set_aside, active: None };
        return Ok(is_worth_telling.then_some(found));
    };
    let (end, cut) = repair(path).map_err(AuditError::io(path))?;
    let header = first_line(path).map_err(AuditError::io(path))?;
    let log = header.and_then(|header| header.text("log").map(str::to_owned)).unwrap_or_default();
    let (seq, hash) = end.unwrap_or_default();
    Ok(Some(Found { head: Head { log, seq, hash }, removed: removed + cut, set_aside, active: None }))
}

/// Tells whether a file has JSON in it that is none of an audit log, such as the plain lines that an earlier version
/// wrote: it is not ours to cut.
fn is_foreign(path: &Path) -> io::Result<bool> {
    let mut bytes = Vec::new();
    BufReader::new(File::open(path)?).take(crate::LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
    let is_json = serde_json::from_slice::<serde_json::Map<_, _>>(&bytes).is_ok();
    Ok(is_json && bytes.ends_with(b"\n") && Line::parse(&bytes).is_err())
}

/// Returns the first line of a file, if it is one of a log.
pub(crate) fn first_line(path: &Path) -> io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    BufReader::new(File::open(path)?).take(crate::LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
    let line = bytes.strip_suffix(b"\n").and_then(|line| Line::parse(line).ok());
    Ok(line.filter(|line| matches!(line.event.as_str(), event::CREATED | event::OPENED)))
}

/// Number and hash of a line.
type Place = (u64, Hash);

/// Cuts the file after its last whole line; returns that line and how many bytes were cut.
fn repair(path: &Path) -> io::Result<(Option<Place>, u64)> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = length;
    loop {
        let Some((start, line)) = last_line(&mut file, end)? else {
            end = 0;
            break;
        };
        if let Some(line) = line
            && let Ok(parsed) = Line::parse(&line)
        {
            truncate(&file, end, length)?;
            return Ok((Some((parsed.seq, Hash::of(&line))), length - end));
        }
        end = start;
    }
    truncate(&file, end, length)?;
    Ok((None, length - end))
}

fn truncate(file: &File, end: u64, length: u64) -> io::Result<()> {
    if end < length {
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Returns where the last line before `end` starts, and the line if it ends with a newline.
fn last_line(file: &mut File, end: u64) -> io::Result<Option<(u64, Option<Vec<u8>>)>> {
    if end == 0 {
        return Ok(None);
    }
    let mut tail: Vec<u8> = Vec::new();
    let mut start = end;
    loop {
        let from = start.saturating_sub(STEP);
        let mut step = vec![0; usize::try_from(start - from).unwrap_or_default()];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut step)?;
        step.append(&mut tail);
        (tail, start) = (step, from);
        let before_last = tail.len().saturating_sub(1);
        let newline = tail.get(..before_last).and_then(|bytes| bytes.iter().rposition(|byte| *byte == b'\n'));
        let at = match newline {
            Some(newline) => newline + 1,
            None if start == 0 => 0,
            None => continue,
        };
        let line = tail.get(at..).and_then(|line| line.strip_suffix(b"\n")).map(<[u8]>::to_vec);
        return Ok(Some((start + u64::try_from(at).unwrap_or_default(), line)));
    }
}
