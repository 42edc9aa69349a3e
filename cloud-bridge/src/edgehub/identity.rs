//! The box's own key, certificate and the cloud's roots on disk.
//!
//! `node-joining.pem` holds the key from before the first request, so that a lost answer can be
//! asked for again; `node.pem` holds key and certificate together, so that they never part;
//! `cloud-roots.pem` holds whom to trust, and `cloud-roots-tainted.pem` which of them are tainted, if any.

use issuer_core::{authority_id, signed_by};
use midge_identity::{
    BundleSet, CertificateFacts, SpiffeId, SvidRejection, TrustDomain, UnixMillis, node_of, verify_x509_svid,
};
use midge_pki::{
    CurrentIdentity, FileError, IdentityError, IdentitySource, KeyFileError, PemError, PrivateKey,
    SvidIdentity, TrustSource, pem_decode_certs, pem_encode_certs, pem_encode_key, provider, read_private,
    write_private,
};
use midge_runtime::Clock;
use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use zeroize::Zeroizing;

const IDENTITY_FILE: &str = "node.pem";
const JOINING_FILE: &str = "node-joining.pem";
const ROOTS_FILE: &str = "cloud-roots.pem";
const TAINTED_FILE: &str = "cloud-roots-tainted.pem";

/// Why the box's identity is unusable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeIdentityError {
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Another file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory.
    #[error("cannot create '{path}': {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Not certificates.
    #[error("'{path}': {error}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: PemError,
    },
    /// Key and certificate.
    #[error("'{path}': {error}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: Box<IdentityError>,
    },
    /// Another box's directory.
    #[error("'{path}' belongs to {is}, not to {wanted}: use another data directory")]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        is: SpiffeId,
        /// Whose it should be.
        wanted: SpiffeId,
    },
    /// The certificate that came.
    #[error("the certificate from the cloud is unusable: {0}")]
    Certificate(Box<SvidRejection>),
    /// It does not fit the key.
    #[error("the certificate from the cloud is unusable: {0}")]
    Mismatch(Box<IdentityError>),
    /// It is for another box.
    #[error("the certificate from the cloud is for {is}, not for {wanted}")]
    WrongId {
        /// Whom it is for.
        is: SpiffeId,
        /// Whom it should be for.
        wanted: SpiffeId,
    },
}

impl From<SvidRejection> for NodeIdentityError {
    fn from(error: SvidRejection) -> Self {
        Self::Certificate(Box::new(error))
    }
}

impl From<IdentityError> for NodeIdentityError {
    fn from(error: IdentityError) -> Self {
        Self::Mismatch(Box::new(error))
    }
}

/// The box's identity: current SVID and whom it trusts, on disk and in memory.
#[derive(Debug)]
pub struct NodeIdentity {
    id: SpiffeId,
    directory: PathBuf,
    current: Arc<CurrentIdentity>,
    trust: Arc<NodeTrust>,
}

/// The cloud's roots, as they were last told.
pub(super) struct NodeTrust {
    bundles: RwLock<Arc<BundleSet>>,
    clock: Clock,
}

impl std::fmt::Debug for NodeTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeTrust")
    }
}

impl TrustSource for NodeTrust {
    fn bundles(&self) -> Arc<BundleSet> {
        Arc::clone(&self.bundles.read())
    }

    fn now(&self) -> UnixMillis {
        self.clock.now()
    }
}

impl NodeIdentity {
    /// Loads the identity of box `id` from its directory; none when the box has not enrolled yet.
    ///
    /// # Errors
    /// A file is unreadable, open to others, damaged, or another box's.
    pub fn load(
        directory: impl AsRef<Path>,
        id: &SpiffeId,
        clock: &Clock,
    ) -> Result<Option<Self>, NodeIdentityError> {
        let directory = directory.as_ref();
        let path = directory.join(IDENTITY_FILE);
        if !path.exists() {
            return Ok(None);
        }
        // Read once: a renewal replaces key and certificates together.
        let pem = read_private(&path)?;
        let key = Arc::new(PrivateKey::from_pem(&pem, &path)?);
        let identity = SvidIdentity::new(certs_of(&pem, &path)?, key)
            .map_err(|error| NodeIdentityError::Identity { path: path.clone(), error: Box::new(error) })?;
        if identity.id != *id {
            return Err(NodeIdentityError::OtherNode { path, is: identity.id, wanted: id.clone() });
        }
        let roots = read_certs(&directory.join(ROOTS_FILE))?;
        let tainted = directory.join(TAINTED_FILE);
        let tainted = if tainted.exists() { read_certs(&tainted)? } else { Vec::new() };
        Ok(Some(Self::with(directory, identity, (roots, tainted), clock)))
    }

    /// SPIFFE ID of the box.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Name of the box.
    pub fn node(&self) -> &str {
        node_of(&self.id).unwrap_or_default()
    }

    /// End of the current SVID.
    pub fn expires(&self) -> UnixMillis {
        self.current.current().map(|svid| svid.expires).unwrap_or_default()
    }

    /// Whom the box trusts: the cloud's roots.
    pub fn trust(&self) -> Arc<dyn TrustSource> {
        Arc::clone(&self.trust) as _
    }

    /// The box's SVID.
    pub fn svid(&self) -> Arc<dyn IdentitySource> {
        Arc::clone(&self.current) as _
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        self.id.trust_domain()
    }

    /// Half of the current SVID's life; at once if it leads to a tainted root.
    pub(super) fn renew_at(&self) -> UnixMillis {
        let Some(svid) = self.current.current().filter(|svid| !self.is_tainted(svid)) else {
            return UnixMillis(0);
        };
        let begun = svid.chain.first().and_then(|leaf| CertificateFacts::parse(leaf).ok());
        let begun = begun.map_or(svid.expires, |facts| facts.not_before);
        begun.after(svid.expires.since(begun) / 2)
    }

    /// Takes a renewed SVID: checked as a peer would, on disk before it is used.
    pub(super) fn renew(
        &self,
        key: Arc<PrivateKey>,
        chain: Vec<Vec<u8>>,
        roots: &[Vec<u8>],
    ) -> Result<(), NodeIdentityError> {
        let identity = checked(&self.id, key, chain, roots, self.trust.clock.now())?;
        self.set_roots(roots)?;
        write_identity(&self.directory, &identity)?;
        self.current.set(identity);
        Ok(())
    }

    /// Replaces the cloud's roots.
    pub(super) fn set_roots(&self, roots: &[Vec<u8>]) -> Result<(), NodeIdentityError> {
        if roots.is_empty() || self.trust.bundles().roots(self.trust_domain()) == Some(roots) {
            return Ok(());
        }
        write_private(self.directory.join(ROOTS_FILE), pem_encode_certs(roots).as_bytes())?;
        let before = self.trust.bundles();
        let mut bundles = bundle_of(self.trust_domain(), roots.to_vec());
        bundles.set_tainted(self.trust_domain(), before.tainted(self.trust_domain()));
        *self.trust.bundles.write() = Arc::new(bundles);
        Ok(())
    }

    /// Replaces which of the cloud's roots are tainted.
    pub(super) fn set_tainted(&self, tainted: &[Vec<u8>]) -> Result<(), NodeIdentityError> {
        if self.trust.bundles().tainted(self.trust_domain()) == tainted {
            return Ok(());
        }
        let path = self.directory.join(TAINTED_FILE);
        if tainted.is_empty() {
            // What is left of it if this fails is replaced by the cloud's next word.
            drop(std::fs::remove_file(path));
        } else {
            write_private(path, pem_encode_certs(tainted).as_bytes())?;
        }
        let mut bundles = BundleSet::clone(&self.trust.bundles());
        bundles.set_tainted(self.trust_domain(), tainted);
        *self.trust.bundles.write() = Arc::new(bundles);
        Ok(())
    }

    fn is_tainted(&self, svid: &SvidIdentity) -> bool {
        let root = svid.chain.last().and_then(|top| signed_by(top));
        let bundles = self.trust.bundles();
        bundles.tainted(self.trust_domain()).iter().any(|tainted| authority_id(tainted) == root)
    }

    fn with(
        directory: &Path,
        identity: SvidIdentity,
        (roots, tainted): (Vec<Vec<u8>>, Vec<Vec<u8>>),
        clock: &Clock,
    ) -> Self {
        let id = identity.id.clone();
        let mut bundles = bundle_of(id.trust_domain(), roots);
        bundles.set_tainted(id.trust_domain(), &tainted);
        let bundles = RwLock::new(Arc::new(bundles));
        let current = Arc::new(CurrentIdentity::new());
        current.set(identity);
        let trust = Arc::new(NodeTrust { bundles, clock: clock.clone() });
        Self { id, directory: directory.to_owned(), current, trust }
    }
}

/// A box that is joining: its key is on disk before anybody hears of it.
pub(super) struct Joining {
    directory: PathBuf,
    id: SpiffeId,
    key: Arc<PrivateKey>,
}

impl Joining {
    pub(super) fn begin(directory: &Path, id: &SpiffeId) -> Result<Self, NodeIdentityError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| NodeIdentityError::Directory { path: directory.to_owned(), source })?;
        let path = directory.join(JOINING_FILE);
        let key = if path.exists() {
            PrivateKey::load(&path)?
        } else {
            let key = PrivateKey::generate()?;
            key.store(&path)?;
            key
        };
        Ok(Self { directory: directory.to_owned(), id: id.clone(), key: Arc::new(key) })
    }

    pub(super) fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(super) fn finish(
        self,
        chain: Vec<Vec<u8>>,
        roots: Vec<Vec<u8>>,
        clock: &Clock,
    ) -> Result<NodeIdentity, NodeIdentityError> {
        let identity = checked(&self.id, self.key, chain, &roots, clock.now())?;
        write_private(self.directory.join(ROOTS_FILE), pem_encode_certs(&roots).as_bytes())?;
        write_identity(&self.directory, &identity)?;
        // A leftover is used for the next enrolment at most.
        drop(std::fs::remove_file(self.directory.join(JOINING_FILE)));
        Ok(NodeIdentity::with(&self.directory, identity, (roots, Vec::new()), clock))
    }
}

fn checked(
    id: &SpiffeId,
    key: Arc<PrivateKey>,
    chain: Vec<Vec<u8>>,
    roots: &[Vec<u8>],
    now: UnixMillis,
) -> Result<SvidIdentity, NodeIdentityError> {
    let identity = SvidIdentity::new(chain.into_iter().map(Into::into).collect(), key)?;
    if identity.id != *id {
        return Err(NodeIdentityError::WrongId { is: identity.id, wanted: id.clone() });
    }
    let bundles = bundle_of(id.trust_domain(), roots.to_vec());
    verify_x509_svid(&identity.chain, &bundles, provider().signature_verification_algorithms.all, now)?;
    Ok(identity)
}

fn write_identity(directory: &Path, identity: &SvidIdentity) -> Result<(), NodeIdentityError> {
    let key = pem_encode_key(&identity.key);
    let certificates = pem_encode_certs(&identity.chain);
    let mut text = Zeroizing::new(String::with_capacity(key.len().saturating_add(certificates.len())));
    text.push_str(&key);
    text.push_str(&certificates);
    Ok(write_private(directory.join(IDENTITY_FILE), text.as_bytes())?)
}

fn read_certs(path: &Path) -> Result<Vec<Vec<u8>>, NodeIdentityError> {
    Ok(certs_of(&read_private(path)?, path)?.into_iter().map(|root| root.to_vec()).collect())
}

fn certs_of(
    pem: &[u8],
    path: &Path,
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, NodeIdentityError> {
    pem_decode_certs(pem).map_err(|error| NodeIdentityError::Pem { path: path.to_owned(), error })
}

fn bundle_of(trust_domain: &TrustDomain, roots: Vec<Vec<u8>>) -> BundleSet {
    let mut bundles = BundleSet::new();
    bundles.insert(trust_domain.clone(), roots);
    bundles
}
