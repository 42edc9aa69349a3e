//! Who a peer is: SPIFFE IDs, trust bundles, X.509-SVID chain verification, and the proof of it.
//!
//! Owns the rules of SPIFFE-ID and X509-SVID that a verifier needs. Pure: the clock and the
//! bundles are arguments. Keys, TLS and certificate issuance live in `pki/`.

mod peer;
mod time;

pub use peer::{Proof, VerifiedPeer};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
pub use time::UnixMillis;
