//! Processes under test: started in a directory of their own, waited for, and killed when dropped.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for anything that should come soon, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const BOX: &str = "spiffe://plant.example/edge/box-1";

/// The program under test.
pub(crate) fn midge() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_midge"))
}

/// Whether a test that cannot run has passed: not where what it needs is promised (`MIDGE_INTEROP=required`, as in CI)
/// and ought to be there.
fn judge_skipped(why: &str, is_due: bool, is_promised: bool) -> Result<String, String> {
    if is_due && is_promised {
        return Err(format!("{why}, and MIDGE_INTEROP=required"));
    }
    Ok(format!("skipped: {why}"))
}

/// Says that a test does not run here, past what holds back the words of tests that pass; or fails it, if what it needs
/// `is_due` and promised.
#[track_caller]
pub(crate) fn skip(why: &str, is_due: bool) {
    let is_promised = std::env::var_os("MIDGE_INTEROP").is_some_and(|value| value == "required");
    match judge_skipped(why, is_due, is_promised) {
        Ok(told) => std::io::stderr().write_all(format!("{told}\n").as_bytes()).unwrap(),
        Err(failed) => panic!("{failed}"),
    }
}

#[test]
fn what_is_promised_and_missing_fails_and_the_rest_is_told() {
    assert!(judge_skipped("no cc", true, true).unwrap_err().contains("no cc"));
    for (is_due, is_promised) in [(true, false), (false, true), (false, false)] {
        assert_eq!(judge_skipped("no cc", is_due, is_promised).unwrap(), "skipped: no cc");
    }
}

/// Asks until there is an answer; the last refusal is told when there is none in time.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let since = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(refusal) => assert!(since.elapsed() < SOON, "not {what} within {SOON:?}: {refusal}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// Asserts the exit code and that standard error says all of this, with no panic.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        for text in says {
            assert!(self.stderr.contains(text), "not told: {text}\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    let mut program = Program::start(command);
    let code = program.ended().code();
    let stderr = program.log().join("\n");
    let stdout = program.printed().join("\n");
    Ended { code, stdout, stderr }
}

/// Runs a program with these variables to its end.
pub(crate) fn run_with(command: &mut Command, variables: &[(&str, &str)]) -> Ended {
    // The variables of this process that would matter are taken away in the start.
    let mut shell = Command::new("env");
    shell.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
    run(shell.arg(command.get_program()).args(command.get_args()))
}

/// Runs `midge` with these arguments to its end.
pub(crate) fn run_midge(arguments: &[&str]) -> Ended {
    run(Command::new(midge()).args(arguments))
}

/// A running program.
pub(crate) struct Program {
    child: Child,
    outputs: [Output; 2],
}

type Output = (Arc<Mutex<Vec<String>>>, Option<std::thread::JoinHandle<()>>);

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("MIDGE_SOCKET");
        let mut child = command.spawn().unwrap();
        let outputs = [keep_lines(child.stdout.take().unwrap()), keep_lines(child.stderr.take().unwrap())];
        Self { child, outputs }
    }

    /// Lines on standard output so far.
    pub(crate) fn printed(&self) -> Vec<String> {
        self.outputs[0].0.lock().unwrap().clone()
    }

    /// Lines on standard error so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.outputs[1].0.lock().unwrap().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end and for all of its output.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let since = Instant::now();
        while self.child.try_wait().unwrap().is_none() && since.elapsed() < Duration::from_secs(100) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = self.child.try_wait().unwrap();
        let status = status.unwrap_or_else(|| panic!("it goes on:\n{}", self.log().join("\n")));
        for (_, thread) in &mut self.outputs {
            thread.take().map(std::thread::JoinHandle::join).transpose().unwrap();
        }
        status
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for a line of JSON on standard output.
    pub(crate) fn event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let lines = self.printed();
            let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            events.into_iter().find(&wanted).ok_or_else(|| format!("{lines:#?}\n{:#?}", self.log()))
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn keep_lines(stream: impl std::io::Read + Send + 'static) -> Output {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    let thread = std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            kept.lock().unwrap().push(line);
        }
    });
    (lines, Some(thread))
}

/// A directory with configuration and data; other users may look into it.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes the configuration of an edge whose data directory is `name`, on free ports.
    pub(crate) fn edge(&self, name: &str, top: &str, mqtt: &str, rest: &str) -> String {
        let data = self.text(name);
        let mqtt = if mqtt.is_empty() { "tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"" } else { mqtt };
        let text = format!(
            "trust-domain = \"plant.example\"\nnode = \"box-1\"\ndata-dir = \"{data}\"\n{top}\n[mqtt]\n{mqtt}\n{rest}\n"
        );
        self.write(&format!("{name}.toml"), &text)
    }

    /// Writes the configuration of a cloud whose data directory is `name`, on free ports.
    pub(crate) fn cloud(&self, name: &str, trust_domain: &str) -> String {
        let data = self.text(name);
        let text = format!(
            "trust-domain = \"{trust_domain}\"\ndata-dir = \"{data}\"\nbootstrap = \"127.0.0.1:0\"\nchannel = \"127.0.0.1:0\"\n"
        );
        self.write(&format!("{name}.toml"), &text)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    pub(crate) fn write_private(&self, name: &str, text: &str) -> String {
        midge_pki::write_private(self.path(name), text.as_bytes()).unwrap();
        self.text(name)
    }

    /// The program under a name of its own, for `unix:path` selectors.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        if std::fs::hard_link(midge(), &path).is_err() {
            std::fs::copy(midge(), &path).unwrap();
        }
        path.canonicalize().unwrap()
    }
}

/// A running edge or cloud.
pub(crate) struct Server {
    pub(crate) program: Program,
    pub(crate) socket: String,
}

impl Server {
    /// Starts `midge edge` or `midge cloud` and waits until it answers.
    pub(crate) fn start(role: &str, config: &str, socket: &Path) -> Self {
        Self::start_with(Command::new(midge()).args([role, "-c", config]), socket)
    }

    pub(crate) fn start_with(command: &mut Command, socket: &Path) -> Self {
        let mut server = Self { program: Program::start(command), socket: socket.display().to_string() };
        eventually("serving", || {
            assert!(server.program.runs(), "it ended: {}", server.program.log().join("\n"));
            let ended = server.run(&["status"]);
            if matches!(ended.code, Some(0 | 1)) { Ok(()) } else { Err(ended.stderr) }
        });
        server
    }

    /// Runs an operator's command.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        run(Command::new(midge()).args(arguments).args(["--output", "json", "--socketPath", &self.socket]))
    }

    pub(crate) fn status(&self) -> Value {
        self.run(&["status"]).json()
    }

    /// Address of a listener, by its kind.
    pub(crate) fn address(&self, kind: &str) -> String {
        let status = self.status();
        let listeners = status["listeners"].as_array().unwrap();
        let listener = listeners.iter().find(|listener| listener["kind"] == kind);
        listener.unwrap_or_else(|| panic!("no {kind} in {status}"))["address"].as_str().unwrap().to_owned()
    }

    /// Creates an entry of the box for the identity `/app/<name>` with further flags.
    pub(crate) fn entry(&self, name: &str, selector: &str, more: &[&str]) {
        let id = format!("{BOX}/app/{name}");
        let mut arguments =
            vec!["entry", "create", "-newEntryID", name, "-spiffeID", &id, "-selector", selector];
        arguments.extend(more);
        self.run(&arguments).ok();
    }

    pub(crate) fn entries(&self) -> u64 {
        self.status()["entries"].as_u64().unwrap()
    }

    /// Stops it as a service manager does, and expects that it ends well.
    pub(crate) fn stop(&mut self) {
        self.program.terminate();
        assert!(self.program.ended().success(), "{}", self.program.log().join("\n"));
    }
}

/// Selector of the user that runs this test.
pub(crate) fn own_uid() -> String {
    format!("unix:uid:{}", rustix::process::getuid().as_raw())
}
