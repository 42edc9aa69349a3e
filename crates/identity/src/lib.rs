//! Who a peer is: SPIFFE IDs, trust bundles, X.509-SVID chain verification, and the proof of it.
//!
//! Owns the rules of SPIFFE-ID and X509-SVID that a verifier needs. Pure: the clock and the
//! bundles are arguments. Keys, TLS and certificate issuance live in `pki/`.

mod bundle;
mod certificate;
mod id;
mod layout;
mod peer;
mod rejection;
mod scope;
mod svid;
mod time;

pub use bundle::{BundleSet, RootStanding};
pub use certificate::{Authority, CertificateFacts, ExtendedKeyUsage, KeyUsage};
pub use id::{IdError, SPIFFE_ID_BYTES_MAX, parse_spiffe_id, trust_domain_id};
pub use layout::{
    broker_id, cloud_hub_id, event_bus_id, is_agent, is_agent_of, is_builtin, is_node, node_id, node_of,
    scope_of,
};
pub use peer::{Anchor, Proof, RootId, VerifiedPeer};
pub use rejection::SvidRejection;
pub use scope::{ISSUER_SCOPE_OID, IssuerScope, ScopeError};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
pub use svid::{CHAIN_CERTIFICATES_MAX, verify_x509_svid};
pub use time::UnixMillis;
