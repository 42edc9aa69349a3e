//! The files of a log: the one that is written, and older ones named after their first line.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Names of the files of one log.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    active: PathBuf,
    dir: PathBuf,
    stem: String,
    extension: String,
}

/// An older file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rotated {
    /// Number of its first line.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

impl Names {
    pub(crate) fn of(active: &Path) -> Self {
        let dir = match active.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = match text(active.extension()) {
            extension if extension.is_empty() => extension,
            extension => format!(".{extension}"),
        };
        Self { active: active.to_owned(), dir, stem: text(active.file_stem()), extension }
    }

    pub(crate) fn active(&self) -> &Path {
        &self.active
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the name of the file that begins with line `first`; names sort as the lines do.
    pub(crate) fn rotated(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{}-{first:012}{}", self.stem, self.extension))
    }

    /// Returns a free name for a file that is none of this log.
    pub(crate) fn aside(&self) -> PathBuf {
        let name = |n: u32| self.dir.join(format!("{}.aside-{n}{}", self.stem, self.extension));
        (1..u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
    }

    /// Returns the older files, oldest first.
    pub(crate) fn list(&self) -> io::Result<Vec<Rotated>> {
        let mut found = Vec::new();
        for item in std::fs::read_dir(&self.dir)? {
            let name = item?.file_name();
            let number = name
                .to_str()
                .and_then(|name| {
                    name.strip_prefix(&*self.stem)?.strip_prefix('-')?.strip_suffix(&*self.extension)
                })
                .filter(|number| number.len() >= 12 && number.bytes().all(|byte| byte.is_ascii_digit()));
            if let Some(first) = number.and_then(|number| number.parse().ok()) {
                found.push(Rotated { first, path: self.dir.join(name) });
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes renames and deletions survive a power cut.
    pub(crate) fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

/// Returns the files of the log whose newest is `active`, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn files(active: &Path) -> io::Result<Vec<PathBuf>> {
    let names = Names::of(active);
    let mut files: Vec<PathBuf> = names.list()?.into_iter().map(|rotated| rotated.path).collect();
    if active.exists() {
        files.push(active.to_owned());
    }
    Ok(files)
}

/// Opens the file that is written.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Makes a file anew.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
}
