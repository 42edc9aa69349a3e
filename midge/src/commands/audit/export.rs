//! `midge audit export`: a part of the log that can be verified elsewhere, with `midge audit verify FILE`.

use super::filter::point_in_time;
use super::{Place, unreadable};
use crate::exit::{self, WithCode as _, failure};
use anyhow::Context as _;
use midge_audit::{Line, each_line, event};
use midge_identity::UnixMillis;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Writes whole lines: from the first line, which names the key, of the file in which the time begins, to the first
/// checkpoint after its end.
pub(super) fn run(
    place: &Place,
    since: Option<&str>,
    until: Option<&str>,
    to: Option<&Path>,
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
    each_line(&files, |bytes| {
        if is_done || written.is_err() {
            return;
        }
        written = out.write_all(bytes).and_then(|()| out.write_all(b"\n"));
        if let (Some(until), Ok(line)) = (until, Line::parse(bytes)) {
            is_done = line.at > until && line.event == event::CHECKPOINT;
        }
    })
    .map_err(|error| unreadable(&error))?;
    match written.and_then(|()| out.flush()) {
        // The reader has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| failure(exit::IO, format!("cannot write the export: {error}"))),
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
