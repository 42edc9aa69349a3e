//! Policy files: which there are, what is in them, and whether they have changed.

use super::state::Fault;
use midge_policy::Sources;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The policy files of a directory.
#[derive(Debug)]
pub(super) struct Files {
    dir: Option<PathBuf>,
    builtin: bool,
    /// As last taken over, and as last looked at.
    taken: Marks,
    seen: Marks,
}

/// What tells whether policy files have changed without reading them; unset where they cannot be listed.
type Marks = Option<Vec<(PathBuf, Option<SystemTime>, u64)>>;

impl Files {
    /// Returns files of which nothing is known before they are taken over.
    pub(super) fn new(dir: Option<&Path>, builtin: bool) -> Self {
        Self { dir: dir.map(Path::to_owned), builtin, taken: None, seen: None }
    }

    /// Tells whether there is a file at all.
    pub(super) fn are_there(&self) -> bool {
        self.marks().is_some_and(|marks| !marks.is_empty())
    }

    /// Takes note that there is nothing to take over.
    pub(super) fn forget(&mut self) {
        self.taken = self.marks();
    }

    fn marks(&self) -> Marks {
        let files = self.dir.as_deref().map(policy_files).transpose().ok()?.unwrap_or_default();
        let mark = |file: PathBuf| {
            let metadata = std::fs::metadata(&file).ok();
            let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
            (file, modified, metadata.map_or(0, |metadata| metadata.len()))
        };
        Some(files.into_iter().map(mark).collect())
    }

    /// Looks whether there is something to take over. That is so once two looks find the same: who writes the
    /// files may be in the middle of it, and half a policy could be valid.
    pub(super) fn look(&mut self) -> bool {
        let now = self.marks();
        let has_changed = now == self.seen && now != self.taken;
        self.seen = now;
        has_changed
    }

    /// Reads the files and puts their rules in place of those before; what is faulty changes nothing.
    pub(super) fn take(&mut self, sources: &mut Sources) -> Result<(), Vec<Fault>> {
        self.taken = self.marks();
        let mut files = Vec::new();
        if let Some(dir) = &self.dir {
            let unlisted = |error| {
                vec![Fault::new(
                    dir.display(),
                    format!("cannot read the policy directory (policy.dir): {error}"),
                )]
            };
            for file in policy_files(dir).map_err(unlisted)? {
                let unread = |error| vec![Fault::new(file.display(), format!("cannot read: {error}"))];
                let text = std::fs::read_to_string(&file).map_err(unread)?;
                files.push((file.display().to_string(), text));
            }
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
        sources.set_files(&files, self.builtin).map_err(|errors| errors.iter().map(Fault::from).collect())
    }
}

/// Returns the policy files of a directory in the order in which they are read.
pub(crate) fn policy_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in std::fs::read_dir(dir)? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
