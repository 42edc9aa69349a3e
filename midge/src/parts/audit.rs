//! The audit log of an edge or cloud, and what goes into it besides the broker's decisions.

use super::data_dir::{audit_key, audit_log};
use crate::config::AuditSection;
use crate::exit::{self, WithCode as _};
use midge_audit::{AuditConfig, AuditError, AuditLog, AuditWriter, Record};
use midge_runtime::{Actor, Clock};
use serde_json::json;
use std::path::Path;

/// Opens the log of a data directory and records the start.
pub(crate) fn open(
    data_dir: &Path,
    config: &AuditSection,
    clock: &Clock,
) -> anyhow::Result<(AuditLog, AuditWriter)> {
    let opened = AuditLog::open_with(AuditConfig {
        path: audit_log(data_dir),
        key: audit_key(data_dir),
        bounds: config.bounds(),
        clock: clock.clone(),
    });
    let (log, writer) = match opened {
        Err(error @ AuditError::Key(_)) => return Err(error).code(exit::PERMISSION),
        opened => opened.code(exit::IO)?,
    };
    let started = Record::new(clock.now(), "started");
    log.record(started.with("version", env!("CARGO_PKG_VERSION")).with("pid", std::process::id()));
    Ok((log, writer))
}

/// Records a planned end: a log without it ended by a crash or a kill.
pub(crate) fn stopped(log: &AuditLog, clock: &Clock) {
    log.record(Record::new(clock.now(), "stopped").with("lost", log.lost()));
}

/// Adds who asked for it, if somebody did.
pub(crate) fn by(record: Record, actor: Option<&Actor>) -> Record {
    let Some(actor) = actor else { return record };
    record.with("by", json!({ "uid": actor.uid, "pid": actor.pid, "method": &*actor.method }))
}
