//! What the edge end needs from the box it runs on.

use async_trait::async_trait;
use bridge_core::{AuditBatch, AuditPlace, Change, Cursor, Extent};
use midge_issuer::CaRequest;
use tokio::sync::watch;

/// The box, as the channel sees it. Errors are texts for `status`; the call is repeated after one.
#[async_trait]
pub trait EdgeHost: Send + Sync + 'static {
    /// Returns the cursor that was stored last.
    async fn cursor(&self) -> Result<Option<Cursor>, String>;

    /// Applies changes in order and stores the cursor with the last of them. Doing it twice must be
    /// as good as once.
    ///
    /// A change that makes no sense is the host's to skip and show: an error holds up all that follow,
    /// and is for a disk that fails.
    async fn apply(&self, changes: Vec<Change>, cursor: Cursor, extent: Extent) -> Result<(), String>;

    /// The CSR for an intermediate CA, while one is wanted.
    fn ca_request(&self) -> watch::Receiver<Option<CaRequest>>;

    /// Takes the intermediate CA (DER, CA first) and the roots.
    async fn install_ca(&self, chain: Vec<Vec<u8>>, roots: Vec<Vec<u8>>) -> Result<(), String>;

    /// Returns lines of the box's audit log that follow `after`, which the cloud has: signed ones only, a portion
    /// at a time, and none when there are no more. When `after` is not in the log they are its oldest.
    async fn audit_after(&self, after: Option<AuditPlace>) -> Result<Option<AuditBatch>, String>;
}
