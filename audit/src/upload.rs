//! Reading a log for somebody who takes it over: what follows the line they have, in portions, and only what is
//! signed and on stable storage. What is not may be gone after a loss of power, and its numbers given to other lines.

use crate::error::AuditError;
use crate::files::files;
use crate::read::LINE_BYTES_MAX;
use crate::signed::claims;
use audit_core::{Hash, Head, event};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::PathBuf;

/// Bytes of one portion, and how many lines: what a slow link carries within a second or two.
pub(crate) const PORTION_BYTES: usize = 64 * 1024;
pub(crate) const PORTION_LINES: usize = 512;

/// Reads a log from any of its lines on. Keeps its place, so that a portion costs what it is long.
#[derive(Debug)]
pub struct Source {
    active: PathBuf,
    place: Option<Place>,
}

/// Behind a line.
#[derive(Debug)]
struct Place {
    last: Head,
    /// Lines that were read for a portion and kept for the next one.
    ahead: VecDeque<Numbered>,
    reader: BufReader<File>,
}

#[derive(Debug)]
struct Numbered {
    seq: u64,
    bytes: Vec<u8>,
}

impl Source {
    /// Returns a source of the log whose newest file is `active`.
    pub fn new(active: PathBuf) -> Self {
        Self { active, place: None }
    }

    /// Returns the next lines after `after`, up to `signed`: none when there are no more. When `after` is none of
    /// the log's lines, or is deleted, they begin with the oldest.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn after(&mut self, after: Option<&Head>, signed: &Head) -> Result<Vec<Vec<u8>>, AuditError> {
        if signed.seq == 0 || after == Some(signed) {
            return Ok(Vec::new());
        }
        let active = self.active.clone();
        self.read(after, signed).map_err(AuditError::io(active))
    }

    fn read(&mut self, after: Option<&Head>, signed: &Head) -> io::Result<Vec<Vec<u8>>> {
        let is_there =
            |place: &Place, after: &Head| (&place.last.log, place.last.hash) == (&after.log, after.hash);
        let kept = self.place.take().filter(|place| after.is_some_and(|after| is_there(place, after)));
        let place = match (kept, after) {
            (Some(place), _) => Some(place),
            (None, Some(after)) if after.log == signed.log && after.seq <= signed.seq => self.find(after)?,
            (None, _) => None,
        };
        let (mut reader, mut last, mut ahead) = match place {
            Some(Place { reader, last, ahead }) => (reader, last, ahead),
            None => match self.open_after(0)? {
                Some(reader) => {
                    (reader, Head { log: signed.log.clone(), ..Head::default() }, VecDeque::new())
                }
                None => return Ok(Vec::new()),
            },
        };
        let (mut lines, mut bytes, mut reached) = (Vec::<Numbered>::new(), 0, last.seq);
        while reached < signed.seq && bytes < PORTION_BYTES && lines.len() < PORTION_LINES {
            let next = match ahead.pop_front() {
                Some(line) => Some(line),
                None => next_line(&mut reader, lines.last().map_or(last.seq, |line| line.seq))?,
            };
            let Some(line) = next else {
                // The rest is in the next file, or that is missing.
                let Some(next) = self.open_after(reached)? else { break };
                reader = next;
                continue;
            };
            if line.seq > signed.seq {
                return Ok(lines.into_iter().map(|line| line.bytes).collect());
            }
            // Numbers that go back, where somebody has changed the file, must not lead back to it.
            reached = reached.max(line.seq);
            bytes += line.bytes.len();
            lines.push(line);
        }
        // A portion ends with a checkpoint if it has one: who takes it need not wait for the next to know what is signed.
        let end = lines.iter().rposition(|line| claims(&line.bytes, event::CHECKPOINT));
        let rest = lines.split_off(end.map_or(lines.len(), |end| end + 1));
        rest.into_iter().rev().for_each(|line| ahead.push_front(line));
        if let Some(line) = lines.last() {
            last = Head { log: last.log, seq: line.seq, hash: Hash::of(&line.bytes) };
        }
        self.place = Some(Place { last, ahead, reader });
        Ok(lines.into_iter().map(|line| line.bytes).collect())
    }

    /// Returns the place behind a line, if the log has it as it is.
    fn find(&self, wanted: &Head) -> io::Result<Option<Place>> {
        let Some(mut reader) = self.open(wanted.seq)? else { return Ok(None) };
        let mut before = 0;
        while let Some(line) = next_line(&mut reader, before)? {
            if line.seq >= wanted.seq {
                let is_it = line.seq == wanted.seq && Hash::of(&line.bytes) == wanted.hash;
                return Ok(is_it.then(|| Place { last: wanted.clone(), ahead: VecDeque::new(), reader }));
            }
            before = line.seq;
        }
        Ok(None)
    }

    /// Opens the file that has a line.
    fn open(&self, seq: u64) -> io::Result<Option<BufReader<File>>> {
        let mut found = None;
        self.each(|first, reader| {
            if first <= seq {
                found = Some(reader);
            }
            first <= seq
        })?;
        Ok(found)
    }

    /// Opens the first file that begins after a line.
    fn open_after(&self, seq: u64) -> io::Result<Option<BufReader<File>>> {
        let mut found = None;
        self.each(|first, reader| {
            if first > seq {
                found = Some(reader);
            }
            first <= seq
        })?;
        Ok(found)
    }

    /// Shows the files, oldest first, each with the number of its first line, as long as `look` wants more.
    fn each(&self, mut look: impl FnMut(u64, BufReader<File>) -> bool) -> io::Result<()> {
        for path in files(&self.active)? {
            // One that is deleted for the bound meanwhile is not there any more.
            let Ok(file) = File::open(&path) else { continue };
            let mut reader = BufReader::with_capacity(PORTION_BYTES, file);
            let Some(first) = first_number(&mut reader)? else { continue };
            if !look(first, reader) {
                break;
            }
        }
        Ok(())
    }
}

/// Returns the number of the first line, which is not taken from the reader.
fn first_number(reader: &mut BufReader<File>) -> io::Result<Option<u64>> {
    let start = reader.fill_buf()?;
    Ok(number(start))
}

/// Returns the next whole line. One without a number has that after the last one: whoever gets it will see.
fn next_line(reader: &mut BufReader<File>, last: u64) -> io::Result<Option<Numbered>> {
    let mut bytes = Vec::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
    if bytes.pop_if(|byte| *byte == b'\n').is_none() {
        return Ok(None);
    }
    Ok(Some(Numbered { seq: number(&bytes).unwrap_or(last.saturating_add(1)), bytes }))
}

fn number(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}
