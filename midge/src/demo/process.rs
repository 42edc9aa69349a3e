//! Child processes of the demo, killed when dropped; their output is kept and can be waited for.

use anyhow::{Context as _, bail};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Lines kept of each process.
const LINES_MAX: usize = 20_000;

/// A running program.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    lines: watch::Receiver<Arc<Vec<Line>>>,
}

/// One line of output, with when it came.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

impl Line {
    /// The line as JSON; null when it is not.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
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
    pub(crate) fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// What it printed, in one line.
    pub(crate) fn said(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
    }

    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {}{}", self.stdout, self.stderr))
    }
}

/// Runs a program to its end, at most `limit`.
pub(crate) async fn run_to_end<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    limit: Duration,
) -> anyhow::Result<Ended> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("{} did not end within {limit:?}", program.display()))?
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Process {
    /// Starts a program in the background.
    pub(crate) fn start<S: AsRef<OsStr>>(
        name: &'static str,
        program: &Path,
        arguments: &[S],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let (sender, lines) = watch::channel(Arc::new(Vec::new()));
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            tokio::spawn(keep_lines(stdout, sender.clone()));
            tokio::spawn(keep_lines(stderr, sender));
        }
        Ok(Self { name, child, lines })
    }

    /// Returns the lines printed so far.
    pub(crate) fn lines(&self) -> Arc<Vec<Line>> {
        Arc::clone(&self.lines.borrow())
    }

    /// Waits for a line that `wanted` accepts, old ones from index `from` on included.
    pub(crate) async fn line(
        &mut self,
        from: usize,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Line) -> bool,
    ) -> anyhow::Result<Line> {
        let found = tokio::time::timeout(limit, async {
            loop {
                let lines = Arc::clone(&self.lines.borrow_and_update());
                if let Some(line) = lines.iter().skip(from).find(|line| wanted(line)) {
                    return Some(line.clone());
                }
                if self.lines.changed().await.is_err() {
                    return None;
                }
            }
        });
        match found.await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => bail!("{} ended before {what}\n{}", self.name, self.tail()),
            Err(_) => bail!("{}: no {what} within {limit:?}\n{}", self.name, self.tail()),
        }
    }

    /// Returns the last lines, for a person.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines();
        let skip = lines.len().saturating_sub(15);
        lines.iter().skip(skip).map(|line| format!("{}: {}\n", self.name, line.text)).collect()
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it without warning and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// Tells whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

async fn keep_lines(stream: impl AsyncRead + Unpin, sender: watch::Sender<Arc<Vec<Line>>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        sender.send_modify(|kept| {
            let kept = Arc::make_mut(kept);
            if kept.len() < LINES_MAX {
                kept.push(Line { at: Instant::now(), text });
            }
        });
    }
}
