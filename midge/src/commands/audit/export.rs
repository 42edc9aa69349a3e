//! `midge audit export`: a part of the log that can be verified elsewhere, with `midge audit verify FILE`.

use super::filter::point_in_time;
use super::{Place, unreadable};
use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use anyhow::Context as _;
use midge_audit::{Hash, Line, UNSIGNED_LINES_MAX, each_line, event};
use midge_identity::UnixMillis;
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Writes whole lines: from the first line, which names the key, of the file in which the time begins, to the first
/// checkpoint after its end, or the last there is: lines that nobody has signed yet prove nothing elsewhere.
#[expect(clippy::print_stderr, reason = "what is left out, apart from the lines")]
pub(super) fn run(
    place: &Place,
    since: Option<&str>,
    until: Option<&str>,
    to: Option<&Path>,
    output: Output,
) -> anyhow::Result<()> {
    let since = since.map(point_in_time).transpose()?;
    let until = until.map(point_in_time).transpose()?;
    let files = from(place.files()?, since)?;
    let mut out: Box<dyn Write> = match to {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => {
            let file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
            let context = || format!("cannot make {}; a file that exists is not replaced", path.display());
            Box::new(std::io::BufWriter::new(file.with_context(context).code(exit::IO)?))
        }
    };
    let mut is_done = false;
    let mut written = Ok(());
    let (mut unsigned, mut exported) = (Unsigned::default(), Exported::default());
    each_line(&files, |bytes| {
        if is_done || written.is_err() {
            return;
        }
        let line = Line::parse(bytes).ok();
        unsigned.push(bytes);
        exported.push(line.as_ref(), bytes);
        let is_checkpoint = line.as_ref().is_some_and(|line| line.event == event::CHECKPOINT);
        // More than there can be: whoever verifies it will see.
        if is_checkpoint || unsigned.lines > UNSIGNED_LINES_MAX {
            written = out.write_all(&std::mem::take(&mut unsigned).bytes);
            exported.last = exported.read;
        }
        if let (Some(until), Some(line)) = (until, line) {
            is_done = line.at > until && is_checkpoint;
        }
    })
    .map_err(|error| unreadable(&error))?;
    if unsigned.lines > 0 {
        eprintln!(
            "midge: left out: {} lines after the last checkpoint, which nobody has signed yet",
            unsigned.lines
        );
    }
    match written.and_then(|()| out.flush()) {
        // The reader has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        result => result.map_err(|error| failure(exit::IO, format!("cannot write the export: {error}")))?,
    }
    to.map_or(Ok(()), |path| exported.tell(path, output))
}

/// Which lines were written.
#[derive(Default)]
struct Exported {
    first: u64,
    last: u64,
    /// The last that was read, which may be left out.
    read: u64,
    checkpoint: Option<(u64, String)>,
}

impl Exported {
    fn push(&mut self, line: Option<&Line>, bytes: &[u8]) {
        let Some(line) = line else { return };
        (self.first, self.read) = (if self.first == 0 { line.seq } else { self.first }, line.seq);
        if line.event == event::CHECKPOINT {
            self.checkpoint = Some((line.seq, Hash::of(bytes).to_string()));
        }
    }

    /// Who notes the last checkpoint elsewhere can later tell whether this is still that log.
    fn tell(self, path: &Path, output: Output) -> anyhow::Result<()> {
        let Self { first, last, checkpoint, .. } = self;
        if output == Output::Json {
            let checkpoint = checkpoint.map(|(seq, hash)| json!({ "seq": seq, "hash": hash }));
            return output::json(
                &json!({ "file": path, "first": first, "last": last, "checkpoint": checkpoint }),
            );
        }
        let checkpoint = checkpoint.map_or_else(
            || "without a checkpoint yet".to_owned(),
            |(seq, hash)| format!("last checkpoint: line {seq}, {hash}"),
        );
        output::line(format_args!("Wrote {}: lines {first} to {last}; {checkpoint}", path.display()));
        Ok(())
    }
}

/// Lines after a checkpoint, until the next.
#[derive(Default)]
struct Unsigned {
    bytes: Vec<u8>,
    lines: u64,
}

impl Unsigned {
    fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.lines += 1;
    }
}

/// Leaves out files that end before the time.
fn from(files: Vec<PathBuf>, since: Option<UnixMillis>) -> anyhow::Result<Vec<PathBuf>> {
    let Some(since) = since else { return Ok(files) };
    let count = files.len();
    for (at, file) in files.iter().enumerate() {
        let mut last = UnixMillis::default();
        each_line(std::slice::from_ref(file), |bytes| {
            if let Ok(line) = Line::parse(bytes) {
                last = last.max(line.at);
            }
        })
        .map_err(|error| unreadable(&error))?;
        if last >= since || at + 1 == count {
            return Ok(files.into_iter().skip(at).collect());
        }
    }
    Ok(files)
}
