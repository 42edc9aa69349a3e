//! What the Workload API hands out, in the types of our TLS.

use midge_identity::BundleSet;
use midge_pki::{PrivateKey, SvidIdentity};
use rustls::pki_types::CertificateDer;
use spiffe::{X509BundleSet, X509Svid};
use std::sync::Arc;

/// Returns the SVID as an identity; the text says why it cannot be one.
pub(crate) fn identity_of(svid: &X509Svid) -> Result<SvidIdentity, String> {
    let key = PrivateKey::from_pkcs8_der(svid.private_key().as_bytes()).map_err(|error| error.to_string())?;
    let chain = svid.cert_chain().iter().map(|link| CertificateDer::from(link.as_bytes().to_vec())).collect();
    SvidIdentity::new(chain, Arc::new(key)).map_err(|error| error.to_string())
}

/// Returns the bundles, one per trust domain.
pub(crate) fn bundles_of(bundles: &X509BundleSet) -> BundleSet {
    let mut set = BundleSet::new();
    for (trust_domain, bundle) in bundles.iter() {
        let roots = bundle.authorities().iter().map(|root| root.as_bytes().to_vec()).collect();
        set.insert(trust_domain.clone(), roots);
    }
    set
}
