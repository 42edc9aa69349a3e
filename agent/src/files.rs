//! SVIDs as files, for programs that only read files.
//!
//! Owns the layout of the directory and its atomic change, and the loop that follows the Workload
//! API. The certificate, its key and the bundle change together, as kubelet changes mounted
//! secrets: `svid.pem`, `svid.key` and `bundle.pem` are links into `..data`, itself a link to a
//! directory that is written once and swapped by one rename. A reader that opens all three below
//! the directory `..data` points to never gets a key of another certificate.

use crate::client::{ClientError, WorkloadClient, X509Context, X509Svid};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::stream::StreamExt;
use midge_runtime::{Backoff, CancellationToken};
use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    process::Command,
    task,
    time::{self, Instant},
};
use zeroize::Zeroizing;

const DATA: &str = "..data";
const SVID: &str = "svid.pem";
const KEY: &str = "svid.key";
const BUNDLE: &str = "bundle.pem";
const VERSION_PREFIX: &str = "..v";
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// What is written.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// SPIFFE ID or hint of the SVID; the default identity if unset.
    pub wanted: Option<String>,
    /// Whether the roots of federated trust domains go into the bundle file too.
    pub federated: bool,
}

/// What has been written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// SPIFFE ID of the SVID.
    pub spiffe_id: String,
    /// Certificate chain, PEM.
    pub svid: PathBuf,
    /// Private key, PEM, readable for the owner alone.
    pub key: PathBuf,
    /// Roots, PEM.
    pub bundle: PathBuf,
}

/// Why no SVID is on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A file or directory cannot be written.
    #[error("cannot {action} {}: {error}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The caller has no such identity.
    #[error("none of the svids has the spiffe id or hint '{0}'")]
    NoSuchSvid(String),
    /// The Workload API gave nothing.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The command has failed.
    #[error("the command '{command}' {outcome}")]
    Command {
        /// Command line.
        command: String,
        /// How it ended.
        outcome: String,
    },
    /// Stopped before an SVID was there.
    #[error("stopped before an svid was written")]
    Stopped,
}

/// Writes an SVID, its key and its bundle as `svid.pem`, `svid.key` (mode 0600) and `bundle.pem`
/// below `directory`, all three at once.
///
/// # Errors
/// When there is no such SVID or a step fails; what was there stays.
pub fn write_svid(
    directory: &Path,
    context: &X509Context,
    options: &FileOptions,
) -> Result<Written, WriteError> {
    let svid = context
        .svid(options.wanted.as_deref())
        .ok_or_else(|| WriteError::NoSuchSvid(options.wanted.clone().unwrap_or_default()))?;
    fs::create_dir_all(directory).map_err(failed("create", directory))?;
    let former = fs::read_link(directory.join(DATA)).ok();
    let version = write_version(directory, svid, &bundle_pem(svid, context, options))?;
    if let Err(error) = publish(directory, &version) {
        // The error that matters is the first one.
        drop(fs::remove_dir_all(directory.join(&version)));
        return Err(error);
    }
    remove_versions(directory, &[Some(version), former]);
    Ok(Written {
        spiffe_id: svid.spiffe_id.clone(),
        svid: directory.join(SVID),
        key: directory.join(KEY),
        bundle: directory.join(BUNDLE),
    })
}

fn bundle_pem(svid: &X509Svid, context: &X509Context, options: &FileOptions) -> String {
    let federated = context.federated.values().flatten().filter(|_| options.federated);
    midge_pki::pem_encode_certs(svid.bundle.iter().chain(federated))
}

fn write_version(directory: &Path, svid: &X509Svid, bundle: &str) -> Result<PathBuf, WriteError> {
    let (name, path) = new_version(directory)?;
    write_file(&path.join(SVID), 0o644, midge_pki::pem_encode_certs(&svid.chain).as_bytes())?;
    write_file(&path.join(KEY), 0o600, key_pem(&svid.key).as_bytes())?;
    write_file(&path.join(BUNDLE), 0o644, bundle.as_bytes())?;
    sync_directory(&path)?;
    Ok(name)
}

/// Makes a directory with a name of its own: were one used again, a reader could find the key of
/// a later version in it.
fn new_version(directory: &Path) -> Result<(PathBuf, PathBuf), WriteError> {
    let items = fs::read_dir(directory).map_err(failed("read", directory))?;
    let mut number = items.flatten().filter_map(|item| version_number(&item.file_name())).max().unwrap_or(0);
    loop {
        number = number.saturating_add(1);
        let name = PathBuf::from(format!("{VERSION_PREFIX}{number}"));
        let path = directory.join(&name);
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => return Ok((name, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < u64::MAX => {}
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
}

fn version_number(name: &OsStr) -> Option<u64> {
    name.to_str()?.strip_prefix(VERSION_PREFIX)?.parse().ok()
}

fn publish(directory: &Path, version: &Path) -> Result<(), WriteError> {
    replace_link(directory, version, DATA)?;
    for name in [SVID, KEY, BUNDLE] {
        let target = Path::new(DATA).join(name);
        if fs::read_link(directory.join(name)).ok().as_deref() != Some(&target) {
            replace_link(directory, &target, name)?;
        }
    }
    sync_directory(directory)
}

fn replace_link(directory: &Path, target: &Path, name: &str) -> Result<(), WriteError> {
    let link = directory.join(name);
    let fresh = directory.join(format!("..new.{name}.{}", std::process::id()));
    if let Err(error) = fs::remove_file(&fresh)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed("remove", &fresh)(error));
    }
    symlink(target, &fresh).map_err(failed("link", &fresh))?;
    fs::rename(&fresh, &link).map_err(failed("replace", &link))
}

/// Removes all versions but these. The former one stays for readers that are just opening it.
fn remove_versions(directory: &Path, keep: &[Option<PathBuf>]) {
    let Ok(items) = fs::read_dir(directory) else { return };
    for item in items.flatten() {
        let name = PathBuf::from(item.file_name());
        if version_number(name.as_os_str()).is_some()
            && !keep.iter().flatten().any(|kept| *kept == name)
            && let Err(error) = fs::remove_dir_all(item.path())
        {
            tracing::debug!(path = %item.path().display(), %error, "cannot remove a former svid");
        }
    }
}

fn write_file(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), WriteError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

fn sync_directory(path: &Path) -> Result<(), WriteError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError + use<> {
    let path = path.to_owned();
    move |error| WriteError::File { action, path, error }
}

fn key_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    // Room for everything at once: growing would leave copies of the secret behind.
    let mut pem = Zeroizing::new(String::with_capacity(pkcs8.len() * 2 + 128));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    // 48 bytes make a line of 64 characters.
    for line in pkcs8.chunks(48) {
        STANDARD.encode_string(line, &mut pem);
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

/// How SVIDs are followed.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The agent's socket.
    pub socket: PathBuf,
    /// Where the files go.
    pub directory: PathBuf,
    /// What is written.
    pub files: FileOptions,
    /// Run with `sh -c` after each renewal, with `MIDGE_SVID_DIR` and `MIDGE_SPIFFE_ID` set.
    pub on_renew: Option<String>,
    /// Whether to wait for the agent and an identity at the start, instead of failing.
    pub wait: bool,
}

/// Fetches once, writes the files and runs the command.
///
/// # Errors
/// When any of it fails, or `token` is cancelled first.
pub async fn fetch_and_write(
    options: &WatchOptions,
    token: &CancellationToken,
) -> Result<Written, WriteError> {
    let mut session = Session::new(options, token);
    loop {
        match token.run_until_cancelled(session.fetch()).await {
            Some(Ok(context)) => {
                let written = session.write(context).await?;
                session.run_command(&written).await?;
                return Ok(written);
            }
            Some(Err(error)) => session.pause(error).await?,
            None => return Err(WriteError::Stopped),
        }
    }
}

/// Writes every SVID as it is renewed and runs the command after it, until `token` is cancelled.
///
/// After the first SVID nothing ends it: while the agent is away or the identity is withdrawn, the
/// files stay as they are and the agent is asked again.
///
/// # Errors
/// When there is no first SVID and the options do not say to wait, or no such SVID is among them.
pub async fn watch_and_write(options: &WatchOptions, token: &CancellationToken) -> Result<(), WriteError> {
    let mut session = Session::new(options, token);
    while !token.is_cancelled() {
        match session.follow().await {
            Ok(()) | Err(WriteError::Stopped) => return Ok(()),
            Err(WriteError::Client(error)) => match session.pause(error).await {
                Err(WriteError::Stopped) => return Ok(()),
                paused => paused?,
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Session<'a> {
    options: &'a WatchOptions,
    token: &'a CancellationToken,
    backoff: Backoff,
    /// An SVID has been written: nothing is given up from here on.
    established: bool,
}

/// What is left to do with the newest SVID.
enum Step {
    Write(X509Context),
    Command(Written),
}

impl<'a> Session<'a> {
    fn new(options: &'a WatchOptions, token: &'a CancellationToken) -> Self {
        Self { options, token, backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST), established: false }
    }

    async fn fetch(&self) -> Result<X509Context, ClientError> {
        let client = WorkloadClient::connect(&self.options.socket).await?;
        let mut contexts = std::pin::pin!(client.watch_x509().await?);
        loop {
            let context = contexts.next().await.unwrap_or(Err(ClientError::Ended))?;
            let there = context.svid(self.options.files.wanted.as_deref()).is_some();
            if there || !self.options.wait {
                return Ok(context);
            }
        }
    }

    async fn follow(&mut self) -> Result<(), WriteError> {
        let client = WorkloadClient::connect(&self.options.socket).await?;
        let mut contexts = std::pin::pin!(client.watch_x509().await?);
        let mut step = None;
        let mut retry_at = Instant::now();
        loop {
            tokio::select! {
                () = self.token.cancelled() => return Ok(()),
                context = contexts.next() => {
                    step = Some(Step::Write(context.unwrap_or(Err(ClientError::Ended))?));
                    self.backoff.reset();
                }
                () = time::sleep_until(retry_at), if step.is_some() => {}
            }
            while let Some(due) = step.take() {
                match self.advance(due).await {
                    Ok(next) => step = next,
                    // It may be among the next ones.
                    Err((_, error @ WriteError::NoSuchSvid(_))) if self.established || self.options.wait => {
                        tracing::warn!(%error, "waiting for the wanted identity");
                    }
                    // What was written stays, and nothing is tried again.
                    Err(_) if self.token.is_cancelled() => break,
                    Err((due, error)) if self.established || !is_final(&error) => {
                        let delay = self.backoff.next_delay();
                        tracing::warn!(%error, retry_ms = delay.as_millis(), "cannot finish a renewal, trying again");
                        step = Some(due);
                        retry_at = Instant::now() + delay;
                        break;
                    }
                    Err((_, error)) => return Err(error),
                }
            }
        }
    }

    async fn advance(&mut self, step: Step) -> Result<Option<Step>, (Step, WriteError)> {
        match step {
            Step::Write(context) => match self.write(context.clone()).await {
                Ok(written) => {
                    tracing::info!(spiffe_id = %written.spiffe_id, directory = %self.options.directory.display(), "svid written");
                    self.established = true;
                    Ok(Some(Step::Command(written)))
                }
                Err(error) => Err((Step::Write(context), error)),
            },
            Step::Command(written) => match self.run_command(&written).await {
                Ok(()) => Ok(None),
                Err(error) => Err((Step::Command(written), error)),
            },
        }
    }

    async fn write(&self, context: X509Context) -> Result<Written, WriteError> {
        let (directory, files) = (self.options.directory.clone(), self.options.files.clone());
        let writing = task::spawn_blocking(move || write_svid(&directory, &context, &files));
        match writing.await {
            Ok(written) => written,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => Err(WriteError::Stopped),
            },
        }
    }

    async fn run_command(&self, written: &Written) -> Result<(), WriteError> {
        let Some(command) = &self.options.on_renew else { return Ok(()) };
        let failed = |outcome: String| WriteError::Command { command: command.clone(), outcome };
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(command)
            .env("MIDGE_SVID_DIR", &self.options.directory)
            .env("MIDGE_SPIFFE_ID", &written.spiffe_id)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let status = tokio::select! {
            () = self.token.cancelled() => return Err(WriteError::Stopped),
            ended = time::timeout(COMMAND_TIMEOUT, child.wait()) => ended
                .map_err(|_elapsed| failed(format!("was killed after {} s", COMMAND_TIMEOUT.as_secs())))?
                .map_err(|error| failed(format!("cannot be waited for: {error}")))?,
        };
        if status.success() { Ok(()) } else { Err(failed(format!("ended with {status}"))) }
    }

    /// Waits for a better moment; gives the error back when there is nothing to wait for.
    async fn pause(&mut self, error: ClientError) -> Result<(), WriteError> {
        if !self.established && !self.options.wait {
            return Err(error.into());
        }
        if matches!(error, ClientError::NoIdentity) {
            tracing::info!("waiting for an identity");
            let waited = tokio::select! {
                () = self.token.cancelled() => return Err(WriteError::Stopped),
                waited = crate::client::await_identity(&self.options.socket) => waited,
            };
            if waited.is_ok() {
                self.backoff.reset();
                return Ok(());
            }
        } else {
            tracing::warn!(%error, "the agent does not answer, trying again");
        }
        if self.backoff.wait(self.token).await { Ok(()) } else { Err(WriteError::Stopped) }
    }
}

/// What will not pass by itself.
fn is_final(error: &WriteError) -> bool {
    matches!(error, WriteError::NoSuchSvid(_) | WriteError::File { .. } | WriteError::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, os::unix::fs::MetadataExt};

    fn context(tag: u8) -> X509Context {
        let svid = |name: &str| X509Svid {
            spiffe_id: format!("spiffe://t/{name}"),
            chain: vec![vec![0x30, 1, tag], vec![0x30, 1, 100]],
            key: Zeroizing::new(vec![tag; 100]),
            bundle: vec![vec![0x30, 1, 200]],
            hint: format!("hint-{name}"),
        };
        X509Context {
            svids: vec![svid("a"), svid("b")],
            federated: BTreeMap::from([("spiffe://u".to_owned(), vec![vec![0x30, 1, 201]])]),
        }
    }

    fn versions(directory: &Path) -> usize {
        fs::read_dir(directory)
            .unwrap()
            .filter(|item| version_number(&item.as_ref().unwrap().file_name()).is_some())
            .count()
    }

    #[test]
    fn the_three_files_are_written_with_their_modes() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("new/svid");
        let written = write_svid(&directory, &context(1), &FileOptions::default()).unwrap();
        assert_eq!(written.spiffe_id, "spiffe://t/a");
        assert_eq!(written.svid, directory.join("svid.pem"));
        let chain = midge_pki::pem_decode_certs(&fs::read(&written.svid).unwrap()).unwrap();
        assert_eq!(chain.iter().map(|der| der.to_vec()).collect::<Vec<_>>(), context(1).svids[0].chain);
        let roots = midge_pki::pem_decode_certs(&fs::read(&written.bundle).unwrap()).unwrap();
        assert_eq!(roots.len(), 1);
        assert_eq!(fs::metadata(&written.key).unwrap().mode() & 0o7777, 0o600);
        let key = fs::read_to_string(&written.key).unwrap();
        assert!(
            key.starts_with("-----BEGIN PRIVATE KEY-----\n") && key.ends_with("-----END PRIVATE KEY-----\n")
        );
        assert!(key.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn an_svid_is_chosen_by_id_or_hint_and_federated_roots_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        let options = FileOptions { wanted: Some("hint-b".to_owned()), federated: true };
        let written = write_svid(folder.path(), &context(1), &options).unwrap();
        assert_eq!(written.spiffe_id, "spiffe://t/b");
        let roots = midge_pki::pem_decode_certs(&fs::read(&written.bundle).unwrap()).unwrap();
        assert_eq!(roots.len(), 2);
        let options = FileOptions { wanted: Some("spiffe://t/c".to_owned()), federated: false };
        assert!(matches!(write_svid(folder.path(), &context(1), &options), Err(WriteError::NoSuchSvid(_))));
    }

    #[test]
    fn a_renewal_swaps_all_files_at_once_and_keeps_one_former_version() {
        let folder = tempfile::tempdir().unwrap();
        let options = FileOptions::default();
        let first = write_svid(folder.path(), &context(1), &options).unwrap();
        let data = folder.path().join(DATA);
        let before = fs::canonicalize(&data).unwrap();
        let former_key = fs::read(&first.key).unwrap();
        for tag in 2..6 {
            let here = fs::canonicalize(&data).unwrap();
            write_svid(folder.path(), &context(tag), &options).unwrap();
            assert_eq!(fs::read(here.join(KEY)).unwrap(), key_pem(&[tag - 1; 100]).as_bytes());
            let now = fs::canonicalize(&data).unwrap();
            assert_ne!(here, now);
            assert_eq!(fs::read(now.join(KEY)).unwrap(), key_pem(&[tag; 100]).as_bytes());
        }
        assert!(!before.exists());
        assert_eq!(versions(folder.path()), 2);
        assert_ne!(fs::read(&first.key).unwrap(), former_key);
    }

    #[test]
    fn files_of_another_tool_are_replaced_and_leftovers_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SVID), "old").unwrap();
        fs::create_dir(folder.path().join("..v7")).unwrap();
        fs::write(folder.path().join("..v7/svid.key"), "half").unwrap();
        let written = write_svid(folder.path(), &context(1), &FileOptions::default()).unwrap();
        assert_ne!(fs::read(&written.svid).unwrap(), b"old");
        assert_eq!(versions(folder.path()), 1);
    }

    #[test]
    fn readers_of_one_version_never_see_a_mixture() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().to_owned();
        write_svid(&directory, &context(0), &FileOptions::default()).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = std::collections::BTreeSet::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let Ok(version) = fs::canonicalize(directory.join(DATA)) else { continue };
                    let (Ok(chain), Ok(key)) = (fs::read(version.join(SVID)), fs::read(version.join(KEY)))
                    else {
                        continue;
                    };
                    let chain = midge_pki::pem_decode_certs(&chain).unwrap();
                    let tag = chain[0][2];
                    assert_eq!(key, key_pem(&[tag; 100]).as_bytes());
                    seen.insert(tag);
                }
                seen
            });
            for tag in 1..100 {
                write_svid(&directory, &context(tag), &FileOptions::default()).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(!reader.join().unwrap().is_empty());
        });
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write_svid(&file, &context(1), &FileOptions::default()).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
