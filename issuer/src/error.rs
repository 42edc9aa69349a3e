//! Why the identity server refused or failed.

use issuer_core::{
    AuthorityError, BundleError, EntryError, FederationError, IdFault, JoinError, LeaseReason, WrongStep,
    template::CaExpired,
};
use midge_identity::SpiffeId;
use midge_pki::{CsrError, IdentityError, KeyFileError, SignError};
use midge_store::StoreError;
use std::path::PathBuf;

/// Why the identity server refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The entry, or what is asked of it.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The token or node.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The ID.
    #[error(transparent)]
    Id(#[from] IdFault),
    /// The certificate request.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The certificate request names no identity.
    #[error("CSR URI SAN is required")]
    CsrWithoutId,
    /// A DNS name in the certificate request.
    #[error("CSR DNS name is not valid: {fault}: \"{name}\"")]
    CsrDnsName {
        /// The name.
        name: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A lifetime that is no lifetime.
    #[error("ttl {0} s is not usable: give 1 s to a year")]
    Ttl(u64),
    /// There is no CA that could sign.
    #[error("no certificate can be issued: {0}")]
    NoAuthority(LeaseReason),
    /// The CA has ended.
    #[error(transparent)]
    CaExpired(#[from] CaExpired),
    /// The signature failed.
    #[error("failed to sign: {0}")]
    Sign(#[from] SignError),
    /// What was signed is no identity.
    #[error("failed to sign: {0}")]
    Identity(#[from] IdentityError),
    /// An identity of the server's own has a path below its trust domain.
    #[error("\"{0}\" is no ID below this server's trust domain")]
    Foreign(SpiffeId),
    /// Only a cloud signs for boxes.
    #[error("\"{0}\" is not a box: its ID must be spiffe://<trust domain>/edge/<name>")]
    NotABox(SpiffeId),
    /// A name that cannot be part of an ID.
    #[error("\"{name}\" cannot be the name of a box: {why}")]
    NodeName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// What came from the cloud as an intermediate CA.
    #[error("the CA certificate from the cloud is refused: {0}")]
    Upstream(String),
    /// What came as a trust bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// What came as the bundle of another trust domain, or is asked of it.
    #[error(transparent)]
    Federation(#[from] FederationError),
    /// What an operator wants of an authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A CA slot is not as it should be: a bug.
    #[error(transparent)]
    Slot(#[from] WrongStep),
    /// A key or its file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The key of the root that signs is away. A new root would cost everyone who trusts the old one.
    #[error(
        "{} {found}: put the key file back that belongs to this store; nothing was changed (who begins anew, \
         with a new root and without entries, moves the whole data directory away)",
        .path.display()
    )]
    RootKey {
        /// Where it belongs.
        path: PathBuf,
        /// What is there instead.
        found: &'static str,
    },
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record cannot be written as JSON: a bug.
    #[error("cannot encode a record: {0}")]
    Encode(#[from] serde_json::Error),
    /// A record on disk cannot be read.
    #[error("record \"{key}\" of the store is unreadable: {why}: restore the store from a backup")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// No randomness.
    #[error("the system gives no random numbers")]
    Random,
    /// The server stopped while the change was under way.
    #[error("the server is stopping")]
    Stopping,
}
