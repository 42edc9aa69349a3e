//! What people see of the connection.

use bridge_core::Cursor;
use midge_identity::UnixMillis;

/// State of the connection to the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// The cloud has answered on this connection.
    pub connected: bool,
    /// When that began or ended.
    pub since: UnixMillis,
    /// Last failure, with what to do about it; gone once things work again.
    pub last_error: Option<String>,
    /// Why reports cannot be stored at present: they wait where they come from.
    pub spool_error: Option<String>,
    /// Why the box's certificate cannot be renewed at present.
    pub renewal_error: Option<String>,
    /// Reports that the cloud has not acknowledged.
    pub pending: usize,
    /// Events dropped because the spool was full, since it exists.
    pub dropped: u64,
    /// How far the cloud's changes have been applied.
    pub cursor: Cursor,
    /// Number of the last line of the box's audit log that the cloud has.
    pub audit: u64,
    /// Why the cloud does not take the audit log at present.
    pub audit_error: Option<String>,
}

impl LinkStatus {
    pub(super) fn starting(now: UnixMillis) -> Self {
        Self {
            connected: false,
            since: now,
            last_error: None,
            spool_error: None,
            renewal_error: None,
            pending: 0,
            dropped: 0,
            cursor: Cursor::default(),
            audit: 0,
            audit_error: None,
        }
    }
}
