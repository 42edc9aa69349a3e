//! Where the audit logs of nodes are kept.

use super::CloudHub;
use async_trait::async_trait;
use bridge_core::{AuditPlace, AuditRequest};

/// Keeps audit logs of nodes. Errors are texts for the node's status; the node asks again after one.
#[async_trait]
pub trait AuditSink: Send + Sync + 'static {
    /// Takes lines if they follow what is there, and returns the last line of the node's log that is on stable
    /// storage.
    async fn handle(&self, node: &str, request: AuditRequest) -> Result<Option<AuditPlace>, String>;
}

impl CloudHub {
    pub(super) async fn audit(
        &self,
        node: &str,
        request: AuditRequest,
    ) -> Result<Option<AuditPlace>, String> {
        match &self.shared.parts.audit {
            Some(sink) => sink.handle(node, request).await,
            None => Err("this cloud keeps no audit logs".into()),
        }
    }
}
