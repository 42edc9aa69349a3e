//! A process's executable: where it is, and its SHA-256.

use super::process::FileId;
use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
};
use std::{
    collections::{HashMap, VecDeque},
    ffi::OsString,
    fs::{File, Metadata},
    io::Read,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
};

const CACHED_DIGESTS_MAX: usize = 1024;
const READ_BYTES: usize = 64 * 1024;

/// Digests of executables, each computed once while its file stays the same.
#[derive(Debug, Default)]
pub(super) struct Digests {
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    by_file: HashMap<Version, String>,
    oldest_first: VecDeque<Version>,
}

/// One content of one file. The change time is in it because a file's owner can set the
/// modification time back, but not that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Version {
    file: FileId,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Returns the executable's path if, seen from here, that very file is there.
///
/// What `/proc/<pid>/exe` points to is a name in the mount namespace of the process, which any
/// user may arrange at will with a user namespace of his own: the name alone proves nothing. A
/// deleted or replaced executable has no path either.
pub(super) fn path(directory: &OwnedFd, executable: FileId) -> Option<String> {
    let link = rustix::fs::readlinkat(directory, "exe", Vec::new()).ok()?.into_bytes();
    let path = OsString::from_vec(link);
    let metadata = std::fs::metadata(&path).ok()?;
    (FileId::of(&metadata) == executable).then(|| path.into_string().ok()).flatten()
}

impl Digests {
    /// Returns the SHA-256 of the executable in lower-case hex; `None` when it cannot be read, is
    /// larger than `bytes_max`, or changed under the reader.
    pub(super) fn sha256(&self, directory: &OwnedFd, executable: FileId, bytes_max: u64) -> Option<String> {
        let fd =
            rustix::fs::openat(directory, "exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let file = File::from(fd);
        let version = Version::of(&file)?;
        if version.file != executable || version.bytes > bytes_max {
            return None;
        }
        if let Some(known) = self.cached.lock().by_file.get(&version) {
            return Some(known.clone());
        }
        let digest = digest(&file, version.bytes)?;
        if Version::of(&file) != Some(version) {
            return None;
        }
        self.remember(version, digest.clone());
        Some(digest)
    }

    fn remember(&self, version: Version, digest: String) {
        let mut cached = self.cached.lock();
        if cached.by_file.insert(version, digest).is_none() {
            cached.oldest_first.push_back(version);
        }
        if cached.oldest_first.len() > CACHED_DIGESTS_MAX
            && let Some(oldest) = cached.oldest_first.pop_front()
        {
            cached.by_file.remove(&oldest);
        }
    }
}

fn digest(mut file: &File, bytes: u64) -> Option<String> {
    let mut hasher = Context::new(&SHA256);
    let mut buffer = vec![0; READ_BYTES];
    let mut read = 0_u64;
    loop {
        let count = file.read(&mut buffer).ok()?;
        if count == 0 {
            break;
        }
        read = read.checked_add(u64::try_from(count).ok()?)?;
        if read > bytes {
            return None;
        }
        hasher.update(buffer.get(..count)?);
    }
    (read == bytes).then(|| hex::encode(hasher.finish()))
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl Version {
    fn of(file: &File) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        metadata.is_file().then(|| Self {
            file: FileId::of(&metadata),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::io::Write;

    /// A directory with a file `exe`, as `/proc/<pid>` has.
    fn directory(content: &[u8]) -> (tempfile::TempDir, OwnedFd, FileId) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("exe"), content).unwrap();
        let fd = rustix::fs::open(folder.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let id = FileId::of(&std::fs::metadata(folder.path().join("exe")).unwrap());
        (folder, fd, id)
    }

    #[test]
    fn the_digest_is_that_of_the_content_and_follows_it() {
        let (folder, fd, id) = directory(b"abc");
        let digests = Digests::default();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digests.sha256(&fd, id, 1024).as_deref(), Some(abc));
        assert_eq!(digests.sha256(&fd, id, 1024).as_deref(), Some(abc));
        assert_eq!(digests.cached.lock().by_file.len(), 1);
        let mut file = File::options().append(true).open(folder.path().join("exe")).unwrap();
        file.write_all(b"d").unwrap();
        let abcd = digests.sha256(&fd, id, 1024).unwrap();
        assert_eq!(abcd, hex::encode(Sha256::digest(b"abcd")));
    }

    #[test]
    fn too_large_and_other_files_have_no_digest() {
        let (_folder, fd, id) = directory(&[0; 2048]);
        assert_eq!(Digests::default().sha256(&fd, id, 2047), None);
        assert!(Digests::default().sha256(&fd, id, 2048).is_some());
        let other = FileId { inode: id.inode ^ 1, ..id };
        assert_eq!(Digests::default().sha256(&fd, other, 4096), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let digests = Digests::default();
        for inode in 0..(2 * CACHED_DIGESTS_MAX as u64) {
            let file = FileId { device: 1, inode };
            digests.remember(Version { file, bytes: 0, modified: (0, 0), changed: (0, 0) }, String::new());
        }
        assert_eq!(digests.cached.lock().by_file.len(), CACHED_DIGESTS_MAX);
    }
}
