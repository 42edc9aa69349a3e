//! Reading a log back: whole, for verification, or as it grows.

use crate::error::AuditError;
use crate::files::files;
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

/// Reads a log as it grows, across rotations.
#[derive(Debug)]
pub struct Follower {
    active: PathBuf,
    file: Option<File>,
    inode: u64,
    rest: Vec<u8>,
}

impl Follower {
    /// Follows from the present end of the log on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn from_end(active: &Path) -> Result<Self, AuditError> {
        let mut follower = Self { active: active.to_owned(), file: None, inode: 0, rest: Vec::new() };
        follower.open().map_err(AuditError::io(active))?;
        if let Some(file) = &mut follower.file {
            file.seek(SeekFrom::End(0)).map_err(AuditError::io(active))?;
        }
        Ok(follower)
    }

    /// Returns the lines that were written since.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn poll(&mut self) -> Result<Vec<Vec<u8>>, AuditError> {
        let mut found = Vec::new();
        loop {
            // Asked before reading: what is in the old file when the new one is there is all it will have.
            let is_replaced = std::fs::metadata(&self.active).is_ok_and(|now| now.ino() != self.inode);
            self.read(&mut found).map_err(AuditError::io(&self.active))?;
            if !is_replaced {
                return Ok(found);
            }
            self.open().map_err(AuditError::io(&self.active))?;
        }
    }

    fn open(&mut self) -> io::Result<()> {
        match File::open(&self.active) {
            Ok(file) => {
                self.inode = file.metadata()?.ino();
                self.file = Some(file);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, found: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut bytes = std::mem::take(&mut self.rest);
        file.read_to_end(&mut bytes)?;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(whole) => found.push(whole.to_vec()),
                None => self.rest = line.to_vec(),
            }
        }
        Ok(())
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
    verify(&list, Expected { keys, head, is_whole: true })
}
