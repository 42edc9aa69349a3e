//! Trust bundles: the roots of each trust domain, kept apart.

use crate::{Anchor, Authority, RootId, SvidRejection, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::collections::BTreeMap;

/// Roots per trust domain. Bundles of different trust domains are never merged: a root speaks for
/// its own domain only. Trust Domain and Bundle §4.2, Federation §4.2
#[derive(Clone, Debug, Default)]
pub struct BundleSet {
    bundles: BTreeMap<TrustDomain, Bundle>,
    revision: u64,
}

/// Where a root stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootStanding {
    /// It proves the identities below it.
    Trusted,
    /// It is among the roots and proves nothing: who came by it comes again with another SVID.
    Tainted,
    /// It is none of the roots.
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    roots: Vec<Vec<u8>>,
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    // Parallel to `anchors`: what webpki's anchors leave out.
    pub(crate) authorities: Vec<Authority>,
    // Likewise: what peers keep of the root that vouches for them.
    pub(crate) shared: Vec<Anchor>,
    pub(crate) unusable: Vec<SvidRejection>,
    // Of `roots`: published, so that SVIDs can still be renewed, but proof of nothing.
    tainted: Vec<Vec<u8>>,
}

impl BundleSet {
    /// Returns a set without bundles: nobody is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the roots (DER) of a trust domain, in place of those it had. A root that is not a
    /// signing certificate of the domain is published but not trusted; see [`Self::unusable_roots`].
    pub fn insert(&mut self, trust_domain: TrustDomain, roots: Vec<Vec<u8>>) {
        if self.roots(&trust_domain) == Some(&roots) {
            return;
        }
        let bundle = Bundle::new(&trust_domain, roots);
        self.bundles.insert(trust_domain, bundle);
        self.revision = self.revision.wrapping_add(1);
    }

    /// Marks roots (DER) of a trust domain as tainted, in place of those marked before. Chains that lead to them
    /// still verify, so that SVIDs can be renewed; whoever grants something by them asks [`Self::is_tainted`].
    pub fn set_tainted(&mut self, trust_domain: &TrustDomain, tainted: &[Vec<u8>]) {
        let Some(bundle) = self.bundles.get_mut(trust_domain) else { return };
        let marked: Vec<Vec<u8>> =
            bundle.roots.iter().filter(|root| tainted.contains(root)).cloned().collect();
        if bundle.tainted != marked {
            bundle.tainted = marked;
            self.revision = self.revision.wrapping_add(1);
        }
    }

    /// Roots (DER) of a trust domain that are tainted.
    pub fn tainted(&self, trust_domain: &TrustDomain) -> &[Vec<u8>] {
        self.bundles.get(trust_domain).map_or(&[], |bundle| &bundle.tainted)
    }

    /// Tells whether a root of a trust domain is tainted.
    pub fn is_tainted(&self, trust_domain: &TrustDomain, anchor: &Anchor) -> bool {
        self.tainted(trust_domain).iter().any(|root| root == anchor.der())
    }

    /// Forgets a trust domain: its SVIDs are no longer trusted. Returns whether there was one.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> bool {
        let removed = self.bundles.remove(trust_domain).is_some();
        if removed {
            self.revision = self.revision.wrapping_add(1);
        }
        removed
    }

    /// Returns the bundles of these trust domains alone, with the same revision.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(&TrustDomain) -> bool) -> Self {
        let kept = self.bundles.iter().filter(|(name, _)| wanted(name));
        let bundles = kept.map(|(name, bundle)| (name.clone(), bundle.clone())).collect();
        Self { bundles, revision: self.revision }
    }

    /// Roots (DER) of a trust domain.
    pub fn roots(&self, trust_domain: &TrustDomain) -> Option<&[Vec<u8>]> {
        self.bundles.get(trust_domain).map(|bundle| bundle.roots.as_slice())
    }

    /// Tells whether a root is still trusted for a trust domain: a chain that led to one that is not proves
    /// nothing any more.
    pub fn trusts(&self, trust_domain: &TrustDomain, anchor: &Anchor) -> bool {
        self.bundles.get(trust_domain).is_some_and(|bundle| bundle.shared.contains(anchor))
    }

    /// Returns where a root stands that a trust domain may have had.
    pub fn root(&self, trust_domain: &TrustDomain, root: &RootId) -> RootStanding {
        let known = self.bundles.get(trust_domain).map(|bundle| &bundle.shared);
        match known.and_then(|known| known.iter().find(|anchor| anchor.id().digest == root.digest)) {
            None => RootStanding::Gone,
            Some(anchor) if self.is_tainted(trust_domain, anchor) => RootStanding::Tainted,
            Some(_) => RootStanding::Trusted,
        }
    }

    /// Tells whether a trust domain has a root that is trusted.
    pub fn has_trusted_root(&self, trust_domain: &TrustDomain) -> bool {
        self.bundles.get(trust_domain).is_some_and(|bundle| !bundle.shared.is_empty())
    }

    /// Why roots of a trust domain are not trusted, one line per such root.
    pub fn unusable_roots(&self, trust_domain: &TrustDomain) -> &[SvidRejection] {
        self.bundles.get(trust_domain).map_or(&[], |bundle| &bundle.unusable)
    }

    /// Trust domains that have a bundle, in order.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.bundles.keys()
    }

    /// Goes up when the contents change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Sets the revision, for an owner that counts across restarts.
    pub fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    pub(crate) fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.bundles.get(trust_domain)
    }
}

/// Equal when the same domains have the same roots and the same of them are tainted, whatever the revision.
impl PartialEq for BundleSet {
    fn eq(&self, other: &Self) -> bool {
        self.bundles.len() == other.bundles.len()
            && self.bundles.iter().zip(&other.bundles).all(
                |((domain, bundle), (other_domain, other_bundle))| {
                    domain == other_domain
                        && bundle.roots == other_bundle.roots
                        && bundle.tainted == other_bundle.tainted
                },
            )
    }
}

impl Eq for BundleSet {}

impl Bundle {
    fn new(trust_domain: &TrustDomain, roots: Vec<Vec<u8>>) -> Self {
        let mut bundle = Self {
            anchors: Vec::new(),
            authorities: Vec::new(),
            shared: Vec::new(),
            unusable: Vec::new(),
            tainted: Vec::new(),
            roots: Vec::new(),
        };
        for root in &roots {
            match usable_root(root, trust_domain) {
                Ok((anchor, authority)) => {
                    bundle.anchors.push(anchor);
                    bundle.authorities.push(authority);
                    bundle.shared.push(Anchor::new(root));
                }
                Err(rejection) => bundle.unusable.push(rejection),
            }
        }
        Self { roots, ..bundle }
    }
}

fn usable_root(
    der: &[u8],
    trust_domain: &TrustDomain,
) -> Result<(TrustAnchor<'static>, Authority), SvidRejection> {
    let authority = Authority::parse(der, trust_domain)?;
    let der = CertificateDer::from(der);
    let anchor = webpki::anchor_from_trusted_cert(&der)
        .map_err(|error| SvidRejection::Malformed(error.to_string()))?
        .to_owned();
    Ok((anchor, authority))
}
