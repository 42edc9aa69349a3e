//! One process, held so that it cannot be mistaken for a later one with the same pid.
//!
//! Owns the proof that what is read below `/proc/<pid>` belongs to the process the kernel named.
//! Leaves what it means (selectors) to the parent module.

use super::{AttestError, status::Status};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{fs::File, io::Read, path::PathBuf};

// Both files are a few KiB; a process may be in 65,536 groups of up to 10 digits each.
const PROC_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A running process, safe against pid reuse.
///
/// Everything read about it is read between two proofs that it has not ended, so that the pid
/// cannot have passed to another process in between.
#[derive(Debug)]
pub struct ProcessHandle {
    pid: u32,
    uid: u32,
    gid: u32,
    start_ticks: u64,
    executable: Option<FileId>,
    anchor: Anchor,
}

/// Device and inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// What ties the handle to the process.
#[derive(Debug)]
enum Anchor {
    /// Signals the end of the process.
    Pidfd(OwnedFd),
    /// `/proc/<pid>`, for kernels without pidfd: reads below it fail once the process has ended.
    ProcDirectory(OwnedFd),
}

/// What `/proc` says of a process at one moment, proven to be of that process.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) directory: OwnedFd,
    pub(super) status: Status,
}

impl ProcessHandle {
    /// Takes hold of the process whose pid and effective user and group the kernel has reported.
    ///
    /// # Errors
    /// When it has ended, `/proc` hides it, or it has changed its user or group since.
    pub fn open(pid: u32, uid: u32, gid: u32) -> Result<Self, AttestError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(AttestError::NoPid { pid })?;
        let anchor = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => Anchor::Pidfd(fd),
            Err(Errno::SRCH) => return Err(AttestError::Ended { pid }),
            // Kernels before 5.3, and sandboxes that forbid the call.
            Err(_) => Anchor::ProcDirectory(open_directory(pid)?),
        };
        let mut handle = Self { pid, uid, gid, start_ticks: 0, executable: None, anchor };
        let directory = handle.directory()?;
        handle.start_ticks = handle.read_start_ticks(&directory)?;
        handle.executable = executable_of(&directory);
        handle.snapshot()?;
        Ok(handle)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Effective user id when the kernel reported it.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Effective group id when the kernel reported it.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// When the process started, in clock ticks since boot.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Proves that the same process still runs the same executable as the same user and group.
    ///
    /// # Errors
    /// When it does not.
    pub fn verify(&self) -> Result<(), AttestError> {
        self.snapshot().map(drop)
    }

    pub(super) fn executable(&self) -> Option<FileId> {
        self.executable
    }

    /// Reads the process afresh.
    pub(super) fn snapshot(&self) -> Result<Snapshot, AttestError> {
        let directory = self.directory()?;
        let status = Status::parse(&self.read(&directory, "status")?)
            .map_err(|what| AttestError::Proc { pid: self.pid, what: what.to_owned() })?;
        let start_ticks = self.read_start_ticks(&directory)?;
        let executable = executable_of(&directory);
        self.prove_running()?;
        if start_ticks != self.start_ticks {
            return Err(AttestError::Ended { pid: self.pid });
        }
        if (status.uid, status.gid) != (self.uid, self.gid) {
            return Err(AttestError::CredentialsChanged {
                pid: self.pid,
                was: (self.uid, self.gid),
                is: (status.uid, status.gid),
            });
        }
        // A socket survives exec: without this, a program could connect, hand the socket on and
        // become the program whose identity it wants.
        if self.executable.is_some() && executable != self.executable {
            return Err(AttestError::ExecutableChanged { pid: self.pid });
        }
        Ok(Snapshot { directory, status })
    }

    /// Fails once the process has ended; until then its pid is nobody else's.
    pub(super) fn prove_running(&self) -> Result<(), AttestError> {
        match &self.anchor {
            Anchor::Pidfd(fd) => {
                let mut fds = [PollFd::new(fd, PollFlags::IN)];
                match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                    Ok(0) => Ok(()),
                    Ok(_) | Err(_) => Err(AttestError::Ended { pid: self.pid }),
                }
            }
            Anchor::ProcDirectory(fd) => self.read(fd, "stat").map(drop),
        }
    }

    fn directory(&self) -> Result<OwnedFd, AttestError> {
        match &self.anchor {
            Anchor::Pidfd(_) => open_directory(self.pid),
            Anchor::ProcDirectory(fd) => {
                fd.try_clone().map_err(|error| AttestError::Proc { pid: self.pid, what: error.to_string() })
            }
        }
    }

    fn read_start_ticks(&self, directory: &OwnedFd) -> Result<u64, AttestError> {
        super::status::start_ticks(&self.read(directory, "stat")?)
            .map_err(|what| AttestError::Proc { pid: self.pid, what: what.to_owned() })
    }

    fn read(&self, directory: &OwnedFd, name: &str) -> Result<String, AttestError> {
        read_text(directory, name).map_err(|error| failure(self.pid, &error))
    }
}

fn open_directory(pid: u32) -> Result<OwnedFd, AttestError> {
    let path = PathBuf::from(format!("/proc/{pid}"));
    rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failure(pid, &errno.into()))
}

fn read_text(directory: &OwnedFd, name: &str) -> std::io::Result<String> {
    let fd = rustix::fs::openat(directory.as_fd(), name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(4096);
    File::from(fd).take(PROC_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    // Process names are free bytes.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn failure(pid: u32, error: &std::io::Error) -> AttestError {
    match Errno::from_io_error(error) {
        Some(Errno::SRCH | Errno::NOENT) => AttestError::Ended { pid },
        _ => AttestError::Proc { pid, what: error.to_string() },
    }
}

fn executable_of(directory: &OwnedFd) -> Option<FileId> {
    let fd = rustix::fs::openat(directory, "exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Some(FileId::of(&File::from(fd).metadata().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap()
    }

    fn handle(child: &Child) -> Result<ProcessHandle, AttestError> {
        ProcessHandle::open(
            child.id(),
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        )
    }

    /// Waits until the child has become `sleep`: until then it is a copy of this test.
    fn settled(child: &Child) -> ProcessHandle {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
            if name.trim() == "sleep" {
                return handle(child).unwrap();
            }
            assert!(std::time::Instant::now() < deadline, "the child never became sleep");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_running_process_is_held_and_its_end_is_noticed() {
        let mut child = sleeper();
        let held = settled(&child);
        held.verify().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(held.verify(), Err(AttestError::Ended { .. })));
        assert!(matches!(handle(&child), Err(AttestError::Ended { .. })));
    }

    #[test]
    fn without_pidfd_the_proc_directory_notices_the_end() {
        let mut child = sleeper();
        let mut held = settled(&child);
        held.anchor = Anchor::ProcDirectory(open_directory(child.id()).unwrap());
        held.verify().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(held.verify(), Err(AttestError::Ended { .. })));
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let mut child = sleeper();
        let mut held = settled(&child);
        // What a handle of the pid's former owner would hold.
        held.start_ticks = held.start_ticks.wrapping_sub(1);
        assert!(matches!(held.verify(), Err(AttestError::Ended { .. })));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn another_user_is_refused() {
        let mut child = sleeper();
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let refused = ProcessHandle::open(child.id(), uid + 1, gid);
        assert!(matches!(refused, Err(AttestError::CredentialsChanged { .. })));
        let refused = ProcessHandle::open(child.id(), uid, gid + 1);
        assert!(matches!(refused, Err(AttestError::CredentialsChanged { .. })));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_changed_executable_is_refused() {
        let mut child = sleeper();
        let mut held = settled(&child);
        held.executable = held.executable.map(|file| FileId { inode: file.inode ^ 1, ..file });
        assert!(matches!(held.verify(), Err(AttestError::ExecutableChanged { .. })));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn pid_zero_is_no_process() {
        assert!(matches!(ProcessHandle::open(0, 0, 0), Err(AttestError::NoPid { pid: 0 })));
        assert!(matches!(ProcessHandle::open(u32::MAX, 0, 0), Err(AttestError::NoPid { .. })));
    }
}
