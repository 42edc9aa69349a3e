//! Workload attestation: which selectors the kernel vouches for.
//!
//! Owns SPIRE's `unix` selectors (`uid`, `user`, `gid`, `group`, `supplementary_gid`,
//! `supplementary_group`, `path`, `sha256`) and the finding of the process behind a socket. Leaves
//! the choice of registration entries to [`crate::AgentView`].
//!
//! What they are worth: user and groups separate users. Path and digest tell the programs of one
//! user apart only as far as that user wants: he may trace, preload into and feed his own processes.

mod diag;
mod executable;
mod loopback;
mod names;
mod pool;
mod process;
mod status;

pub use loopback::{LocalPeer, LoopbackError, owner_of_loopback, user_of_loopback};
pub use pool::{ATTESTATIONS_PER_UID_MAX, AttestPool};
pub use process::ProcessHandle;

use executable::Digests;
use issuer_core::{RegistrationEntry, Selector};
use process::Snapshot;

/// Type of the selectors made here.
pub const UNIX: &str = "unix";

/// Largest executable that is read for a `unix:sha256` selector, in bytes.
pub const EXECUTABLE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Why a process has not been attested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The kernel named no process.
    #[error(
        "the kernel names no process behind the socket (pid {pid}): it may live in another pid namespace"
    )]
    NoPid {
        /// Pid as reported.
        pid: u32,
    },
    /// The process is gone.
    #[error("process {pid} has ended, or /proc hides it (hidepid) from this user")]
    Ended {
        /// Pid as reported.
        pid: u32,
    },
    /// The process is not who it was.
    #[error("process {pid} has changed its user and group from {}:{} to {}:{}", was.0, was.1, is.0, is.1)]
    CredentialsChanged {
        /// Pid.
        pid: u32,
        /// User and group id that the kernel reported with the socket.
        was: (u32, u32),
        /// User and group id now.
        is: (u32, u32),
    },
    /// The process runs another program now.
    #[error("process {pid} has replaced its program since it connected")]
    ExecutableChanged {
        /// Pid.
        pid: u32,
    },
    /// `/proc` cannot be read.
    #[error("cannot read /proc/{pid}: {what}")]
    Proc {
        /// Pid.
        pid: u32,
        /// What went wrong.
        what: String,
    },
    /// Reading the process, its executable or the user database hangs.
    #[error("attestation of a process of user {uid} took too long")]
    TimedOut {
        /// User id.
        uid: u32,
    },
    /// Names of users and groups cannot be looked up.
    #[error("cannot look up the name of {kind} {id}: {what}")]
    Names {
        /// `user` or `group`.
        kind: &'static str,
        /// User or group id.
        id: u32,
        /// What went wrong.
        what: String,
    },
}

/// Which of the costlier selectors any entry asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// `unix:user`, `unix:group` and `unix:supplementary_group`.
    pub names: bool,
    /// `unix:path`.
    pub path: bool,
    /// `unix:sha256`.
    pub sha256: bool,
}

impl Needs {
    /// Every selector there is.
    pub const ALL: Self = Self { names: true, path: true, sha256: true };

    /// Returns what is needed to match against these entries.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a RegistrationEntry>) -> Self {
        let mut needs = Self::default();
        let selectors = entries.into_iter().flat_map(|entry| &entry.selectors);
        for selector in selectors.filter(|selector| selector.kind == UNIX) {
            match selector.value.split_once(':').map(|(name, _)| name) {
                Some("user" | "group" | "supplementary_group") => needs.names = true,
                Some("path") => needs.path = true,
                Some("sha256") => needs.sha256 = true,
                _ => {}
            }
        }
        needs
    }

    /// Returns whether selectors made for `self` serve where `other` is needed.
    pub fn cover(self, other: Self) -> bool {
        (self.names || !other.names) && (self.path || !other.path) && (self.sha256 || !other.sha256)
    }

    /// Returns what either needs.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            names: self.names || other.names,
            path: self.path || other.path,
            sha256: self.sha256 || other.sha256,
        }
    }
}

/// Makes selectors. Its calls block on `/proc`, executables and the user database: keep them off
/// the tasks that serve sockets.
#[derive(Debug)]
pub struct Attestor {
    digests: Digests,
    executable_bytes_max: u64,
}

impl Default for Attestor {
    fn default() -> Self {
        Self::new(EXECUTABLE_BYTES_MAX)
    }
}

impl Attestor {
    /// Returns an attestor that reads executables up to so many bytes for their digest.
    pub fn new(executable_bytes_max: u64) -> Self {
        Self { digests: Digests::default(), executable_bytes_max }
    }

    /// Returns the selectors of a process.
    ///
    /// What it may not read about the executable is left out, so that entries asking for it do
    /// not match.
    ///
    /// # Errors
    /// When the process is no longer the one that was taken hold of, or cannot be read.
    pub fn attest(&self, process: &ProcessHandle, needs: Needs) -> Result<Vec<Selector>, AttestError> {
        let Snapshot { directory, status } = process.snapshot()?;
        let mut found = Selectors::default();
        found.push("uid", &status.uid.to_string());
        found.push("gid", &status.gid.to_string());
        for group in &status.groups {
            found.push("supplementary_gid", &group.to_string());
        }
        if needs.names {
            found.push_name("user", names::user(status.uid)?);
            found.push_name("group", names::group(status.gid)?);
            for group in &status.groups {
                found.push_name("supplementary_group", names::group(*group)?);
            }
        }
        if let Some(executable) = process.executable() {
            if needs.path {
                found.push_name("path", executable::path(&directory, executable));
            }
            if needs.sha256 {
                let bytes_max = self.executable_bytes_max;
                found.push_name("sha256", self.digests.sha256(&directory, executable, bytes_max));
            }
        }
        // Reading the user database and a large executable takes time: all of it must have been
        // about this process.
        process.verify()?;
        Ok(found.sorted())
    }

    /// Returns the selectors of the process with this pid and these effective user and group.
    ///
    /// # Errors
    /// When there is no such process, or it cannot be read.
    pub fn attest_process(
        &self,
        pid: u32,
        uid: u32,
        gid: u32,
        needs: Needs,
    ) -> Result<Vec<Selector>, AttestError> {
        self.attest(&ProcessHandle::open(pid, uid, gid)?, needs)
    }

    /// Returns the selectors of the owner of a loopback socket: those of its process where that
    /// is known, else those of its user alone.
    ///
    /// # Errors
    /// When the process has ended, is not of the socket's user, or cannot be read.
    pub fn attest_local(&self, peer: &LocalPeer, needs: Needs) -> Result<Vec<Selector>, AttestError> {
        if let (Some(pid), Some(gid)) = (peer.pid, peer.gid) {
            let process = ProcessHandle::open(pid, peer.uid, gid)?;
            // The pid may have passed to another process since it was found.
            if peer.start_ticks.is_some_and(|start| start != process.start_ticks()) {
                return Err(AttestError::Ended { pid });
            }
            return self.attest(&process, needs);
        }
        let mut found = Selectors::default();
        found.push("uid", &peer.uid.to_string());
        if needs.names {
            found.push_name("user", names::user(peer.uid)?);
        }
        Ok(found.sorted())
    }
}

/// Returns all selectors of the process with this pid and these effective user and group.
///
/// # Errors
/// When there is no such process, or it cannot be read.
pub fn attest_process(pid: u32, uid: u32, gid: u32) -> Result<Vec<Selector>, AttestError> {
    Attestor::default().attest_process(pid, uid, gid, Needs::ALL)
}

#[derive(Default)]
struct Selectors(Vec<Selector>);

impl Selectors {
    fn push(&mut self, name: &str, value: &str) {
        self.0.push(Selector { kind: UNIX.to_owned(), value: format!("{name}:{value}") });
    }

    fn push_name(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.push(name, &value);
        }
    }

    fn sorted(mut self) -> Vec<Selector> {
        self.0.sort();
        self.0.dedup();
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        process::{Child, Command, Stdio},
        time::{Duration, Instant},
    };

    fn own_ids() -> (u32, u32) {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    fn values(selectors: &[Selector]) -> Vec<&str> {
        assert!(selectors.iter().all(|selector| selector.kind == UNIX));
        selectors.iter().map(|selector| selector.value.as_str()).collect()
    }

    /// Starts a program and waits until it runs.
    fn start(program: &std::path::Path) -> Child {
        let child = Command::new(program).arg("60").stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let exe = format!("/proc/{}/exe", child.id());
        while std::fs::read_link(&exe).ok().as_deref() != Some(program) {
            assert!(Instant::now() < deadline, "{} never ran", program.display());
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn a_child_is_known_by_the_path_and_digest_of_its_copied_binary() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().canonicalize().unwrap().join("worker");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = start(&program);
        let (uid, gid) = own_ids();
        let attestor = Attestor::default();
        let all = attestor.attest_process(child.id(), uid, gid, Needs::ALL).unwrap();
        let digest = {
            use sha2::Digest;
            hex::encode(sha2::Sha256::digest(std::fs::read(&program).unwrap()))
        };
        let all = values(&all);
        for expected in [
            format!("uid:{uid}"),
            format!("gid:{gid}"),
            format!("path:{}", program.display()),
            format!("sha256:{digest}"),
        ] {
            assert!(all.contains(&expected.as_str()), "{expected} not in {all:?}");
        }
        let key = |value: &str| value.split_once(':').unwrap().0.to_owned();
        assert!(
            all.iter().all(|value| issuer_core::UNIX_SELECTORS.contains(&key(value).as_str())),
            "{all:?}"
        );

        // Without the need, nothing costly is read.
        let few = attestor.attest_process(child.id(), uid, gid, Needs::default()).unwrap();
        assert!(values(&few).iter().all(|value| {
            ["uid:", "gid:", "supplementary_gid:"].iter().any(|name| value.starts_with(name))
        }));

        // Another file under the same name is not what runs.
        std::fs::remove_file(&program).unwrap();
        let gone = attestor.attest_process(child.id(), uid, gid, Needs::ALL).unwrap();
        assert!(!values(&gone).iter().any(|value| value.starts_with("path:")));
        std::fs::copy("/bin/sleep", &program).unwrap();
        let replaced = attestor.attest_process(child.id(), uid, gid, Needs::ALL).unwrap();
        assert!(!values(&replaced).iter().any(|value| value.starts_with("path:")));
        assert!(values(&replaced).contains(&format!("sha256:{digest}").as_str()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn executables_above_the_limit_have_no_digest() {
        let (uid, gid) = own_ids();
        let selectors = Attestor::new(16).attest_process(std::process::id(), uid, gid, Needs::ALL).unwrap();
        assert!(!values(&selectors).iter().any(|value| value.starts_with("sha256:")));
        assert!(values(&selectors).iter().any(|value| value.starts_with("path:")));
    }

    #[test]
    fn this_process_has_the_names_of_its_user_and_group() {
        let (uid, gid) = own_ids();
        let selectors = attest_process(std::process::id(), uid, gid).unwrap();
        if let Some(user) = names::user(uid).unwrap() {
            assert!(values(&selectors).contains(&format!("user:{user}").as_str()));
        }
        if let Some(group) = names::group(gid).unwrap() {
            assert!(values(&selectors).contains(&format!("group:{group}").as_str()));
        }
    }

    #[test]
    fn an_unknown_process_leaves_only_the_user() {
        let peer = LocalPeer { pid: None, uid: 4_000_000_000, gid: None, start_ticks: None };
        let selectors = Attestor::default().attest_local(&peer, Needs::ALL).unwrap();
        assert_eq!(values(&selectors), ["uid:4000000000"]);
    }

    #[test]
    fn a_socket_owner_found_under_a_reused_pid_is_refused() {
        let (uid, gid) = own_ids();
        let pid = std::process::id();
        let start = ProcessHandle::open(pid, uid, gid).unwrap().start_ticks();
        let mut peer = LocalPeer { pid: Some(pid), uid, gid: Some(gid), start_ticks: Some(start) };
        let attestor = Attestor::default();
        assert!(attestor.attest_local(&peer, Needs::default()).is_ok());
        peer.start_ticks = Some(start + 1);
        assert!(matches!(attestor.attest_local(&peer, Needs::default()), Err(AttestError::Ended { .. })));
    }

    fn entry(selectors: &[&str]) -> RegistrationEntry {
        crate::view::tests::entry("e", "spiffe://t/w", selectors)
    }

    #[test]
    fn needs_follow_the_entries() {
        assert_eq!(Needs::of(&[entry(&["unix:uid:1", "unix:gid:2"])]), Needs::default());
        assert!(Needs::of(&[entry(&["unix:user:a"])]).names);
        assert!(Needs::of(&[entry(&["unix:uid:0"]), entry(&["unix:supplementary_group:a"])]).names);
        assert_eq!(Needs::of(&[entry(&["unix:path:/a"])]), Needs { path: true, ..Needs::default() });
        assert_eq!(Needs::of(&[entry(&["unix:sha256:aa"])]), Needs { sha256: true, ..Needs::default() });
        assert_eq!(Needs::of(&[entry(&["docker:path:/a"])]), Needs::default());
        assert!(Needs::ALL.cover(Needs::default()) && !Needs::default().cover(Needs::ALL));
    }
}
