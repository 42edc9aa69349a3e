//! The box's own SVID is renewed over the channel at half its life, with a new key.

use super::identity::NodeIdentity;
use bridge_core::{SignedChain, SigningRequest};
use midge_identity::UnixMillis;
use midge_pki::{CsrSubject, PrivateKey};
use std::sync::Arc;

/// The key that waits for its certificate.
#[derive(Default)]
pub(super) struct Renewal {
    key: Option<Arc<PrivateKey>>,
}

impl Renewal {
    /// Returns the request to make, once it is time and none is under way.
    pub(super) fn due(
        &mut self,
        identity: &NodeIdentity,
        now: UnixMillis,
    ) -> Option<Result<SigningRequest, String>> {
        if self.key.is_some() || now < identity.renew_at() {
            return None;
        }
        Some(self.begin(identity))
    }

    fn begin(&mut self, identity: &NodeIdentity) -> Result<SigningRequest, String> {
        let key = PrivateKey::generate().map_err(|error| error.to_string())?;
        let subject = CsrSubject {
            organization: Some("system:nodes".to_owned()),
            common_name: Some(format!("system:node:{}", identity.node())),
        };
        let csr_der = key.csr_der(Some(identity.id()), subject).map_err(|error| error.to_string())?;
        self.key = Some(Arc::new(key));
        Ok(SigningRequest { csr_der, ttl_secs: 0 })
    }

    /// The key for a certificate that came.
    pub(super) fn key(&self) -> Option<Arc<PrivateKey>> {
        self.key.clone()
    }

    pub(super) fn finished(&mut self) {
        self.key = None;
    }
}

pub(super) fn install(
    identity: &NodeIdentity,
    key: Option<Arc<PrivateKey>>,
    signed: SignedChain,
) -> Result<(), String> {
    let key = key.ok_or("none was asked for")?;
    identity.renew(key, signed.chain, &signed.roots).map_err(|error| error.to_string())
}
