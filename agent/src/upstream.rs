//! Where an agent gets its entries, bundles and signatures from.

use crate::AgentView;
use async_trait::async_trait;
use midge_identity::UnixMillis;
use std::sync::Arc;
use tokio::sync::watch;

/// The identity server, in this process or another.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Returns what may be served, as it changes.
    fn view(&self) -> watch::Receiver<Arc<AgentView>>;

    /// Has an X.509-SVID signed for an entry. The CSR (DER) conveys only the key.
    async fn sign(&self, entry_id: &str, csr_der: Vec<u8>) -> Result<Signed, SignFailure>;
}

/// A signed X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// DER, leaf first, without roots.
    pub chain: Vec<Vec<u8>>,
    /// When it was signed.
    pub issued: UnixMillis,
    /// End of its validity.
    pub expires: UnixMillis,
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignFailure {
    /// The identity server cannot be reached or cannot sign now.
    #[error("the identity server cannot sign now: {0}")]
    Unavailable(String),
    /// The identity server will not sign this.
    #[error("the identity server refuses to sign: {0}")]
    Refused(String),
    /// What came back is not what was asked for.
    #[error("the identity server answered with a wrong SVID: {0}")]
    Wrong(String),
}
