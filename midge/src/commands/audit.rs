//! The audit log, read from its files: the edge need not run.

mod export;
mod filter;
mod verify;

use super::admin::Admin;
use super::signals::stop_on_signal;
use crate::cli::{AuditCommand, AuditFilter, AuditPlace};
use crate::exit::{self, failure};
use crate::output::{self, Output};
use crate::parts::data_dir::{audit_key, audit_log};
use crate::parts::node_audit::node_dir;
use filter::Filter;
use midge_api::midge::v1::{AcceptNodeAuditRequest, StatusRequest};
use midge_audit::{AuditError, Branch, Follower, Line, branches, each_line, event, files};
use midge_identity::UnixMillis;
use serde_json::Value;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Where an edge keeps its log unless told otherwise.
const DATA_DIR: &str = "/var/lib/midge";
/// Who may read a log.
const OWNER: &str = "run this as the user that midge runs as";

pub(crate) async fn run(admin: &Admin, command: AuditCommand, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Show { place, filter, last } => {
            let place = Place::find(admin, place).await?;
            show(&place, &Filter::new(&filter)?, last, output)?;
        }
        AuditCommand::Follow { place, filter } => {
            let place = Place::find(admin, place).await?;
            follow(&place, &filter, output).await?;
        }
        AuditCommand::Verify { keys, files, .. } if !files.is_empty() => {
            return verify::of_files(keys, &files, output);
        }
        AuditCommand::Verify { place, keys, .. } => {
            let place = Place::find(admin, place).await?;
            return verify::run(&place, keys, output);
        }
        AuditCommand::Accept { node } => {
            let accepted = admin.midge().await?.accept_node_audit(AcceptNodeAuditRequest { node }).await;
            let accepted = accepted.map_err(|status| admin.error(&status))?.into_inner();
            match output {
                Output::Json => output::json(&accepted)?,
                Output::Pretty => output::line(format_args!("{} findings accepted", accepted.findings)),
            }
        }
        AuditCommand::Export { place, since, until, to } => {
            let place = Place::find(admin, place).await?;
            export::run(&place, since.as_deref(), until.as_deref(), to.as_deref(), output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The log of one edge or cloud, or a cloud's copy of a node's.
struct Place {
    log: PathBuf,
    key: PathBuf,
    copy: Option<PathBuf>,
    branch: Option<u32>,
}

impl Place {
    /// The directory that was named, else that of the process on the admin socket.
    async fn find(admin: &Admin, place: AuditPlace) -> anyhow::Result<Self> {
        let dir = match place.dir {
            Some(dir) => dir,
            None => running(admin).await?,
        };
        let copy = match &place.node {
            Some(node) if node.is_empty() || node.starts_with('.') || node.contains('/') => {
                return Err(failure(exit::USAGE, format!("\"{node}\" is not the name of a node")));
            }
            node => node.as_ref().map(|node| node_dir(&dir, node)),
        };
        Ok(Self { log: audit_log(&dir), key: audit_key(&dir), copy, branch: place.branch })
    }

    /// Returns the branches of the copy that are asked for.
    fn branches(&self, copy: &Path) -> anyhow::Result<Vec<Branch>> {
        let mut all = branches(copy).map_err(|error| {
            let text = format!("no audit log of that node in {}: {error}", copy.display());
            failure(exit::IO, format!("{text}; name the data directory of its cloud with --dir"))
        })?;
        if let Some(wanted) = self.branch {
            let last = all.last().map_or(0, |last| last.number);
            all.retain(|branch| branch.number == wanted);
            if all.is_empty() {
                return Err(failure(exit::NO, format!("there is no branch {wanted}; the newest is {last}")));
            }
        }
        Ok(all)
    }

    /// Returns the files, oldest first: of a copy those of one branch, for each is a history of its own.
    #[expect(clippy::print_stderr, reason = "which branch is read, apart from its lines")]
    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        if let Some(copy) = &self.copy {
            let branches = self.branches(copy)?;
            let count = branches.len();
            let newest = branches.into_iter().next_back();
            if let Some(newest) = newest.as_ref().filter(|_| count > 1) {
                eprintln!(
                    "midge: this is branch {}, the newest of {count}; --branch names another",
                    newest.number
                );
            }
            return Ok(newest.map(|branch| branch.files).unwrap_or_default());
        }
        let dir = self.log.parent().unwrap_or(Path::new("."));
        let shown = dir.display();
        let none = |why: String| {
            failure(exit::IO, format!("no audit log in {shown}: {why}; name a data directory with --dir"))
        };
        let list = files(&self.log).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                failure(exit::PERMISSION, format!("cannot look into {shown}: {error}; {OWNER}"))
            }
            _ => none(error.to_string()),
        })?;
        if list.is_empty() {
            return Err(none("there is no audit.jsonl".into()));
        }
        Ok(list)
    }
}

/// The data directory of the process on the admin socket. An edge that is down has its log in the usual place, and this
/// says so; who named a socket meant that process and no other.
#[expect(clippy::print_stderr, reason = "which log is read, apart from its lines")]
async fn running(admin: &Admin) -> anyhow::Result<PathBuf> {
    match ask(admin).await {
        Err(error) if !admin.is_named() && exit::code_of(&error) == exit::UNAVAILABLE => {
            let socket = admin.socket().display();
            eprintln!("midge: no edge answers at {socket}; this is the log in {DATA_DIR}");
            Ok(DATA_DIR.into())
        }
        answer => answer,
    }
}

async fn ask(admin: &Admin) -> anyhow::Result<PathBuf> {
    let response = admin.midge().await?.status(StatusRequest {}).await;
    let status = response.map_err(|status| admin.error(&status))?.into_inner();
    let log = PathBuf::from(status.audit.map(|audit| audit.path).unwrap_or_default());
    let none = || failure(exit::NO, "the process on the admin socket tells of no audit log; name its --dir");
    log.parent().map(Path::to_owned).ok_or_else(none)
}

/// What an error of the files means to a person.
fn unreadable(error: &AuditError) -> anyhow::Error {
    match error {
        AuditError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            failure(exit::PERMISSION, format!("{error}; {OWNER}"))
        }
        _ => failure(exit::IO, error.to_string()),
    }
}

fn show(place: &Place, filter: &Filter, last: Option<usize>, output: Output) -> anyhow::Result<()> {
    let mut kept = VecDeque::new();
    each_line(&place.files()?, |bytes| {
        let Some(text) = shown(bytes, filter, output) else { return };
        match last {
            Some(last) => {
                kept.push_back(text);
                while kept.len() > last {
                    kept.pop_front();
                }
            }
            None => output::line(text),
        }
    })
    .map_err(|error| unreadable(&error))?;
    kept.into_iter().for_each(output::line);
    Ok(())
}

async fn follow(place: &Place, filter: &AuditFilter, output: Output) -> anyhow::Result<()> {
    if place.copy.is_some() {
        return Err(failure(exit::USAGE, "the log of a node is followed at the node"));
    }
    let stop = stop_on_signal()?;
    let is_older_wanted = filter.since.is_some();
    let filter = Filter::new(filter)?;
    place.files()?;
    let mut follower = if is_older_wanted {
        Follower::from_start(&place.log)
    } else {
        Follower::from_end(&place.log).map_err(|error| unreadable(&error))?
    };
    loop {
        let looked = follower.poll(|bytes| {
            if let Some(text) = shown(bytes, &filter, output) {
                output::line(text);
            }
        });
        looked.map_err(|error| unreadable(&error))?;
        if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return Ok(());
        }
    }
}

/// Writes a line for people, or leaves it as it is for programs; `None` when it is not wanted.
fn shown(bytes: &[u8], filter: &Filter, output: Output) -> Option<String> {
    let Ok(line) = Line::parse(bytes) else {
        return filter
            .is_everything()
            .then(|| format!("(unreadable) {}", plain(&String::from_utf8_lossy(bytes))));
    };
    if !filter.wants(&line) {
        return None;
    }
    Some(match output {
        Output::Json => String::from_utf8_lossy(bytes).into_owned(),
        Output::Pretty => pretty(&line),
    })
}

fn pretty(line: &Line) -> String {
    let mut text = format!("{} {:>6} {}", line.at, line.seq, plain(&line.event));
    // Who comes first, whatever the order of the keys.
    if let Some(identity) = line.text("identity") {
        text.push(' ');
        text.push_str(&plain(identity));
    }
    for (key, value) in line.details.iter().filter(|(key, _)| *key != "identity") {
        let value = match value {
            Value::Number(time) if is_time(key, &line.event) && time.as_u64().is_some() => {
                UnixMillis(time.as_u64().unwrap_or_default()).to_string()
            }
            Value::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| format!("{}={}", plain(key), told(value)));
                format!("({})", fields.collect::<Vec<_>>().join(" "))
            }
            other => told(other),
        };
        text.push_str(&format!(" {}={value}", plain(key)));
    }
    text
}

fn told(value: &Value) -> String {
    match value {
        Value::String(value) if is_word(value) => value.clone(),
        Value::String(value) => format!("\"{}\"", plain(value)),
        other => plain(&other.to_string()),
    }
}

/// Whether a number is a time in milliseconds since the epoch. `until` is one of `repeated`.
fn is_time(key: &str, event: &str) -> bool {
    matches!(key, "expires" | "not-after") || (event == event::REPEATED && matches!(key, "since" | "until"))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

/// Keeps what a peer chose from controlling the terminal.
fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c == '"' || c == '\'' { vec![c] } else { c.escape_debug().collect() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_one_line_and_cannot_control_a_terminal() {
        let bytes = br#"{"seq":7,"prev":"0000000000000000000000000000000000000000000000000000000000000000","at":0,"event":"publish-denied","identity":"spiffe://td/a","topic":"a\u001b[31m b","qos":1,"expires":1000,"proof":{"kind":"local","pid":7}}"#;
        let line = Line::parse(bytes).unwrap();
        assert_eq!(
            pretty(&line),
            "1970-01-01T00:00:00Z      7 publish-denied spiffe://td/a expires=1970-01-01T00:00:01Z proof=(kind=local pid=7) qos=1 topic=\"a\\u{1b}[31m b\""
        );
    }
}
