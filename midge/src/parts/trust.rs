//! Roots and time for the verifiers of this process: those of the identity server.

use midge_identity::{BundleSet, UnixMillis};
use midge_issuer::{Issuer, IssuerView};
use midge_pki::TrustSource;
use std::sync::Arc;
use tokio::sync::watch;

/// The identity server's bundles and clock.
pub(crate) struct IssuerTrust {
    issuer: Issuer,
    view: watch::Receiver<Arc<IssuerView>>,
}

impl IssuerTrust {
    pub(crate) fn new(issuer: Issuer) -> Self {
        let view = issuer.subscribe();
        Self { issuer, view }
    }
}

impl TrustSource for IssuerTrust {
    fn bundles(&self) -> Arc<BundleSet> {
        Arc::clone(&self.view.borrow().bundles)
    }

    fn now(&self) -> UnixMillis {
        self.issuer.now()
    }
}
