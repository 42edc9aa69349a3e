//! The log of another process, taken over as it arrives: a directory with a file for each of its files. What
//! contradicts what is there begins a branch, a directory of its own, and what is there stays as it is.

use crate::error::AuditError;
use crate::files::{Names, append};
use crate::read::LINE_BYTES_MAX;
use crate::upload::{PORTION_BYTES, PORTION_LINES};
use audit_core::{Finding, FindingKind, Head, Intake, Judged, Line, event};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use midge_identity::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Branches of one log: each is a restored backup, a box made anew, or an attack. More are refused, so that nobody
/// washes out what is there by making them.
const BRANCHES_MAX: u32 = 32;
/// Findings that are kept; others are counted.
const FINDINGS_MAX: usize = 100;
/// A file is followed by another after so many bytes, though the other process has not begun one.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Lines judged at once when a copy is opened.
const OPEN_LINES: usize = 1_024;

const STATE: &str = "state.json";

/// What is known of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CopyState {
    /// The branch that is written, from 1; 0 before the first line.
    pub branch: u32,
    /// The last line that was taken.
    pub head: Option<Head>,
    /// The last line of each branch before it, by its number.
    pub ended: BTreeMap<u32, Head>,
    /// Number of the last line that is vouched for by a checkpoint.
    pub signed: u64,
    /// Fingerprint of the first key that signed: others are findings.
    pub key: Option<String>,
    /// What was wrong as lines arrived.
    pub findings: Vec<Arrived>,
    /// Findings beyond the limit of the list.
    pub more_findings: u64,
    /// How many findings somebody has taken note of.
    pub accepted: u64,
    /// Files deleted for the bound.
    pub deleted_files: u64,
    /// Public key of the branch, in Base64.
    public_key: Option<String>,
    /// The last line that a checkpoint covers, or that is before what has arrived.
    covered: u64,
    /// The file that is written, and how much of it this state speaks of.
    file: Option<String>,
    bytes: u64,
}

/// Something wrong with lines when they arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Arrived {
    /// When they arrived.
    pub at: UnixMillis,
    /// The branch they are in.
    pub branch: u32,
    /// What, in words.
    pub text: String,
}

/// The files of one branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its number, from 1.
    pub number: u32,
    /// Its files, oldest first.
    pub files: Vec<PathBuf>,
}

impl CopyState {
    /// Returns how many findings nobody has taken note of, and the newest that is kept; `None` when there are none.
    pub fn unaccepted(&self) -> Option<(u64, &str)> {
        let newest = self.findings.last()?;
        let count = self.found().checked_sub(self.accepted).filter(|count| *count > 0)?;
        Some((count, &newest.text))
    }

    /// Returns the last line of a branch, if it is known.
    pub fn end_of(&self, branch: u32) -> Option<&Head> {
        if branch == self.branch { self.head.as_ref() } else { self.ended.get(&branch) }
    }

    fn found(&self) -> u64 {
        u64::try_from(self.findings.len()).unwrap_or(u64::MAX).saturating_add(self.more_findings)
    }
}

/// A copy that is written. It holds no file open: a cloud has one for each of its nodes.
#[derive(Debug)]
pub struct Copy {
    dir: PathBuf,
    bytes_max: u64,
    state: CopyState,
    intake: Intake,
}

impl Copy {
    /// Opens the copy in a directory, or begins it there. All its files together stay below `bytes_max`.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn open(dir: &Path, bytes_max: u64, now: UnixMillis) -> Result<Self, AuditError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(AuditError::io(dir))?;
        let state = copy_state(dir)?.unwrap_or_default();
        let mut copy = Self { dir: dir.to_owned(), bytes_max, state, intake: Intake::default() };
        copy.recover(now).map_err(AuditError::io(dir))?;
        copy.store(false)?;
        Ok(copy)
    }

    /// Returns what is known of it.
    pub fn state(&self) -> &CopyState {
        &self.state
    }

    /// Returns the last line that was taken.
    pub fn head(&self) -> Option<&Head> {
        self.intake.head.as_ref()
    }

    /// Takes lines of `log` that follow `after`; when that is not the last line any more, nothing. Once this
    /// returns they are on stable storage. What is wrong with them is noted and no reason not to take them. After an error it has to
    /// be opened again.
    ///
    /// # Errors
    /// They cannot be written, or would begin one branch too many.
    pub fn append(
        &mut self,
        after: Option<&Head>,
        log: &str,
        lines: &[&[u8]],
        now: UnixMillis,
    ) -> Result<(), AuditError> {
        if after != self.head() || lines.is_empty() {
            return Ok(());
        }
        let judged = self.intake.judge(log, lines, self.state.key.as_deref(), midge_pki::verify_message);
        let told = self.state.found();
        if judged.branches {
            if self.state.branch >= BRANCHES_MAX {
                return Err(AuditError::Branches { dir: self.dir.clone(), max: BRANCHES_MAX });
            }
            self.branch().map_err(AuditError::io(&self.dir))?;
        }
        self.note(&judged.findings, now);
        self.note(unsigned_end(lines, &judged).as_slice(), now);
        if judged.branches || told != self.state.found() {
            // Before the lines: what is wrong with them must not be forgotten by a crash.
            self.store(true)?;
        }
        let begun = self.write(lines).map_err(AuditError::io(&self.dir))?;
        self.take(judged.intake, judged.signed);
        if begun {
            self.trim().map_err(AuditError::io(&self.dir))?;
        }
        self.store(false)
    }

    /// Takes note of everything that was found wrong so far.
    ///
    /// # Errors
    /// That cannot be stored.
    pub fn accept(&mut self) -> Result<(), AuditError> {
        self.state.accepted = self.state.found();
        self.store(true)
    }

    fn take(&mut self, intake: Intake, signed: Option<u64>) {
        self.intake = intake;
        self.state.head.clone_from(&self.intake.head);
        self.state.public_key = self.intake.key.as_ref().map(|key| STANDARD.encode(key));
        self.state.signed = signed.unwrap_or(self.state.signed);
        self.state.covered = self.intake.signed;
        if self.state.key.is_none() {
            self.state.key = self.intake.key_name();
        }
    }

    fn note(&mut self, findings: &[Finding], at: UnixMillis) {
        let branch = self.state.branch;
        for Finding { text, .. } in findings {
            let is_known =
                self.state.findings.iter().any(|known| known.branch == branch && known.text == *text);
            if is_known {
                continue;
            }
            if self.state.findings.len() < FINDINGS_MAX {
                self.state.findings.push(Arrived { at, branch, text: text.clone() });
            } else {
                self.state.more_findings = self.state.more_findings.saturating_add(1);
            }
        }
    }

    fn branch(&mut self) -> io::Result<()> {
        if let Some(head) = self.state.head.take() {
            self.state.ended.insert(self.state.branch, head);
        }
        let number = self.state.branch.saturating_add(1);
        DirBuilder::new().recursive(true).mode(0o700).create(branch_dir(&self.dir, number))?;
        File::open(&self.dir)?.sync_all()?;
        self.state.branch = number;
        (self.state.file, self.state.bytes) = (None, 0);
        (self.state.head, self.state.signed, self.state.public_key) = (None, 0, None);
        self.state.covered = 0;
        Ok(())
    }

    /// Writes whole lines, in as many files as the other process has for them; tells whether one was begun.
    fn write(&mut self, lines: &[&[u8]]) -> io::Result<bool> {
        let names = self.names();
        let mut seq = self.intake.head.as_ref().map_or(0, |head| head.seq);
        let (mut pending, mut begun) = (Vec::new(), false);
        let dir = branch_dir(&self.dir, self.state.branch);
        let mut file = self.state.file.as_ref().map(|name| append(&dir.join(name))).transpose()?;
        for line in lines {
            let parsed = Line::parse(line).ok();
            seq = parsed.as_ref().map_or(seq.saturating_add(1), |line| line.seq);
            let is_first = parsed.is_some_and(|line| [event::CREATED, event::OPENED].contains(&&*line.event));
            if file.is_none() || is_first || self.state.bytes > FILE_BYTES_MAX {
                self.flush(file.as_mut(), &mut pending)?;
                let path = names.rotated(seq);
                file = Some(append(&path)?);
                self.state.bytes = std::fs::metadata(&path)?.len();
                self.state.file = path.file_name().map(|name| name.to_string_lossy().into_owned());
                begun = true;
            }
            pending.extend_from_slice(line);
            pending.push(b'\n');
        }
        self.flush(file.as_mut(), &mut pending)?;
        if begun {
            names.sync_dir()?;
        }
        Ok(begun)
    }

    fn flush(&mut self, file: Option<&mut File>, pending: &mut Vec<u8>) -> io::Result<()> {
        let Some(file) = file.filter(|_| !pending.is_empty()) else { return Ok(()) };
        file.write_all(pending)?;
        file.sync_data()?;
        self.state.bytes = self.state.bytes.saturating_add(u64::try_from(pending.len()).unwrap_or(u64::MAX));
        pending.clear();
        Ok(())
    }

    /// Deletes the oldest files that do not fit any more.
    fn trim(&mut self) -> io::Result<()> {
        let current =
            self.state.file.as_ref().map(|name| branch_dir(&self.dir, self.state.branch).join(name));
        let files: Vec<PathBuf> = branches(&self.dir)?.into_iter().flat_map(|branch| branch.files).collect();
        let bytes = |path: &PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut total: u64 = files.iter().map(bytes).sum();
        for path in files.iter().filter(|path| Some(*path) != current.as_ref()) {
            if total <= self.bytes_max {
                break;
            }
            total = total.saturating_sub(bytes(path));
            std::fs::remove_file(path)?;
            self.state.deleted_files = self.state.deleted_files.saturating_add(1);
        }
        Ok(())
    }

    /// Takes what is on disk beyond the state, and cuts off what a crash has torn.
    fn recover(&mut self, now: UnixMillis) -> io::Result<()> {
        let existing = branches(&self.dir)?;
        self.state.branch = existing.last().map_or(0, |last| last.number).max(self.state.branch);
        let Some(branch) = existing.into_iter().find(|branch| branch.number == self.state.branch) else {
            return Ok(());
        };
        let noted = self.state.file.as_ref().map(|name| branch_dir(&self.dir, branch.number).join(name));
        let place = branch.files.iter().position(|path| Some(path) == noted.as_ref());
        let mut offset = 0;
        if place.is_some() && self.state.head.is_some() {
            let key = self.state.public_key.as_ref().and_then(|text| STANDARD.decode(text).ok());
            self.intake = Intake { head: self.state.head.clone(), key, signed: self.state.covered };
            offset = self.state.bytes;
        }
        let from = place.unwrap_or(branch.files.len().saturating_sub(1));
        for path in branch.files.iter().skip(from) {
            self.reread(path, offset, now)?;
            offset = 0;
        }
        Ok(())
    }

    fn reread(&mut self, path: &Path, mut offset: u64, now: UnixMillis) -> io::Result<()> {
        let file = append(path)?;
        let mut reader = BufReader::new(File::open(path)?);
        reader.seek(SeekFrom::Start(offset))?;
        loop {
            let mut lines = Vec::new();
            while lines.len() < OPEN_LINES {
                let mut line = Vec::new();
                reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
                let read = u64::try_from(line.len()).unwrap_or(u64::MAX);
                if line.pop_if(|byte| *byte == b'\n').is_none() {
                    file.set_len(offset)?;
                    break;
                }
                offset = offset.saturating_add(read);
                lines.push(line);
            }
            if lines.is_empty() {
                break;
            }
            self.rejudge(&lines, now);
        }
        self.state.file = path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.state.bytes = offset;
        Ok(())
    }

    fn rejudge(&mut self, lines: &[Vec<u8>], now: UnixMillis) {
        let parsed = lines.first().and_then(|line| Line::parse(line).ok());
        let named = parsed.as_ref().and_then(|line| line.text("log")).map(str::to_owned);
        let known = self.intake.head.as_ref().map(|head| head.log.clone());
        let log = known.or(named).unwrap_or_default();
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let judged = self.intake.judge(&log, &lines, self.state.key.as_deref(), midge_pki::verify_message);
        self.note(&judged.findings, now);
        self.take(judged.intake, judged.signed);
    }

    /// Stores the state; what is only how far the files go need not survive a loss of power.
    fn store(&self, is_durable: bool) -> Result<(), AuditError> {
        let (path, text) = (self.dir.join(STATE), serde_json::to_vec(&self.state).unwrap_or_default());
        if is_durable {
            return Ok(midge_pki::write_private(&path, &text)?);
        }
        let beside = self.dir.join("state.new");
        let written = || -> io::Result<()> {
            let mut file = crate::files::create(&beside)?;
            file.write_all(&text)?;
            std::fs::rename(&beside, &path)
        };
        written().map_err(AuditError::io(path))
    }

    fn names(&self) -> Names {
        Names::of(&branch_dir(&self.dir, self.state.branch).join("audit.jsonl"))
    }
}

/// Finds a portion that ends with lines which no checkpoint covers: of what is sent only the last line of a stretch between
/// two checkpoints that is longer than a portion need not be one.
fn unsigned_end(lines: &[&[u8]], judged: &Judged) -> Option<Finding> {
    let last = judged.intake.head.as_ref()?.seq;
    let is_full =
        lines.len() >= PORTION_LINES || lines.iter().map(|line| line.len()).sum::<usize>() >= PORTION_BYTES;
    let is_ordinary = judged.intake.signed >= last || (judged.signed.is_none() && is_full);
    (!is_ordinary).then(|| Finding {
        file: String::new(),
        line: 0,
        seq: Some(last),
        kind: FindingKind::Unsigned,
        text: format!(
            "lines {} to {last} arrived and no checkpoint that holds covers them",
            judged.intake.signed + 1
        ),
    })
}

fn branch_dir(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:03}"))
}

/// Returns what is known of the copy in a directory, if there is one. A state that cannot be read counts as none: the files
/// have all but what was wrong with them.
///
/// # Errors
/// The file is there and cannot be read.
pub fn copy_state(dir: &Path) -> Result<Option<CopyState>, AuditError> {
    let path = dir.join(STATE);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let state = serde_json::from_slice(&bytes);
            Ok(state
                .inspect_err(
                    |error| tracing::warn!(path = %path.display(), %error, "state of a copied audit log"),
                )
                .ok())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AuditError::io(path)(error)),
    }
}

/// Returns the branches of the copy in a directory, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn branches(dir: &Path) -> io::Result<Vec<Branch>> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir)? {
        let item = item?;
        let number = item.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|_| item.path().is_dir()) {
            found.push(Branch { number, files: crate::files::files(&item.path().join("audit.jsonl"))? });
        }
    }
    found.sort_by_key(|branch| branch.number);
    Ok(found)
}
