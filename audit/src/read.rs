//! Reading a log back: whole, for verification, or as it grows.

use crate::error::AuditError;
use crate::files::{Names, Rotated, files};
use crate::head::signed_head;
use audit_core::{Expected, Report, Verifier};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest line that is read as one, in bytes; the writer makes none that comes near.
pub const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How often a file is asked for again whose last line is not whole: it may be being written.
const RETRIES: u32 = 20;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Verifies files in the order given; a file that is being written may be among them.
///
/// # Errors
/// A file cannot be read.
pub fn verify(files: &[PathBuf], expected: Expected) -> Result<Report, AuditError> {
    // All are opened before the first is read: what is renamed or deleted meanwhile is still read.
    let mut opened = Vec::with_capacity(files.len());
    for path in files {
        opened.push((path, File::open(path).map_err(AuditError::io(path))?));
    }
    let mut verifier = Verifier::new(midge_pki::verify_message, expected);
    for (path, file) in opened {
        verifier.file(&path.display().to_string());
        let torn = lines(file, |line| verifier.line(line)).map_err(AuditError::io(path))?;
        if torn > 0 {
            verifier.torn(torn);
        }
    }
    Ok(verifier.finish())
}

/// Hands every line of these files to `take`, in their order.
///
/// # Errors
/// A file cannot be read.
pub fn each_line(files: &[PathBuf], mut take: impl FnMut(&[u8])) -> Result<(), AuditError> {
    for path in files {
        let file = File::open(path).map_err(AuditError::io(path))?;
        lines(file, &mut take).map_err(AuditError::io(path))?;
    }
    Ok(())
}

/// Reads lines; returns how many bytes at the end are none.
fn lines(file: File, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut line = Vec::new();
    let mut retries = 0;
    loop {
        let room = LINE_BYTES_MAX.saturating_sub(line.len() as u64);
        let read = reader.by_ref().take(room).read_until(b'\n', &mut line)?;
        if let Some(whole) = line.strip_suffix(b"\n") {
            take(whole);
            line.clear();
            retries = 0;
        } else if read == 0 && room > 0 {
            if line.is_empty() || retries == RETRIES {
                return Ok(line.len());
            }
            retries += 1;
            std::thread::sleep(RETRY_AFTER);
        } else if room == 0 {
            take(&line);
            line.clear();
        }
    }
}

/// Reads a log as it grows, across rotations: each line of each file once, in their order. Files that were deleted before
/// they were looked at are passed over.
#[derive(Debug)]
pub struct Follower {
    names: Names,
    file: Option<File>,
    inode: u64,
    /// First line of the last file before this one, or of this one once that is its name.
    passed: Option<u64>,
    rest: Vec<u8>,
}

impl Follower {
    /// Follows from the oldest line on that is kept.
    pub fn from_start(active: &Path) -> Self {
        Self { names: Names::of(active), file: None, inode: 0, passed: None, rest: Vec::new() }
    }

    /// Follows from the present end of the log on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn from_end(active: &Path) -> Result<Self, AuditError> {
        let mut follower = Self::from_start(active);
        let to_end = |follower: &mut Self| {
            let now = open(active)?;
            follower.passed = follower.before(now.as_ref())?.last().map(|old| old.first);
            let Some((mut file, inode)) = now else { return Ok(()) };
            file.seek(SeekFrom::End(0))?;
            (follower.file, follower.inode) = (Some(file), inode);
            Ok(())
        };
        to_end(&mut follower).map_err(AuditError::io(active))?;
        Ok(follower)
    }

    /// Hands every line that was written since to `take`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn poll(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), AuditError> {
        loop {
            let active = self.names.active().to_owned();
            // Asked before reading: what is in the old file when the new one is there is all it will have.
            let is_replaced = std::fs::metadata(&active).is_ok_and(|now| now.ino() != self.inode);
            self.read(&mut take).map_err(AuditError::io(&active))?;
            if !is_replaced {
                return Ok(());
            }
            self.advance(&mut take).map_err(AuditError::io(&active))?;
        }
    }

    /// Reads the files that came and went since, and goes on with the one that is written now.
    fn advance(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let Some(now) = open(self.names.active())? else { return Ok(()) };
        for old in self.before(Some(&now))? {
            if let Some((file, inode)) = open(&old.path)?
                && inode != self.inode
            {
                (self.file, self.inode) = (Some(file), inode);
                self.read(take)?;
            }
            self.passed = Some(old.first);
        }
        (self.file, self.inode) = (Some(now.0), now.1);
        Ok(())
    }

    /// Returns older files that were not passed yet: those before this one, which may have become one of them by now.
    fn before(&self, now: Option<&(File, u64)>) -> io::Result<Vec<Rotated>> {
        let is_now = |old: &Rotated| {
            let inode = std::fs::metadata(&old.path).map(|old| old.ino());
            now.is_some_and(|(_, now)| inode.is_ok_and(|inode| inode == *now))
        };
        let mut files = self.names.list()?;
        files.retain(|old| Some(old.first) > self.passed);
        let at = files.iter().position(is_now).unwrap_or(files.len());
        files.truncate(at);
        Ok(files)
    }

    fn read(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut reader = BufReader::new(file);
        loop {
            if reader.read_until(b'\n', &mut self.rest)? == 0 {
                return Ok(());
            }
            if let Some(whole) = self.rest.strip_suffix(b"\n") {
                take(whole);
                self.rest.clear();
            }
        }
    }
}

/// Opens a file and tells which it is, whatever its name becomes; `None` when there is none.
fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    match File::open(path) {
        Ok(file) => {
            let inode = file.metadata()?.ino();
            Ok(Some((file, inode)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Verifies the whole log whose newest file is `active`, with the last checkpoint that is kept beside its key;
/// `keys` are fingerprints of keys that may have signed it, or none if only the log's own word is to be had.
///
/// # Errors
/// A file cannot be read.
pub fn verify_log(active: &Path, key: &Path, keys: Vec<String>) -> Result<Report, AuditError> {
    // The checkpoint first: a log that grows meanwhile has it in any case.
    let head = signed_head(key).map(|(head, _)| head);
    let list = files(active).map_err(AuditError::io(active))?;
    verify(&list, Expected { keys, head, is_whole: true, may_grow: true })
}
