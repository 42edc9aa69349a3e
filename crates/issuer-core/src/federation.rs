//! The bundles of other trust domains: what their SVIDs are verified by here, and who may change which.
//!
//! A change is first planned, then committed to disk by the shell, then applied. That a bundle is here gives nobody a
//! right: workloads see it by `federates_with` of their entry, the MQTT broker admits by its own list.

use crate::{Origin, Root, bundle::ROOTS_MAX, limits};
use midge_identity::{BundleSet, CertificateFacts, SvidRejection, TrustDomain, trust_domain_id};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Why a bundle of another trust domain was refused, or left as it is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// The server's own roots are not set from outside.
    #[error("{} is this server's own trust domain", trust_domain_id(.0))]
    Own(TrustDomain),
    /// On a box with a cloud the bundles are the cloud's.
    #[error("this box has its bundles of other trust domains from its cloud: they are set and deleted there")]
    ManagedByCloud,
    /// There is one already.
    #[error("bundle already exists")]
    Exists,
    /// There is none.
    #[error("bundle not found")]
    NotFound,
    /// Entries name it, and what becomes of them was not said.
    #[error(
        "cannot delete bundle; federated with {0} registration entries: mode dissociate takes it from them, mode delete deletes them"
    )]
    InUse(usize),
    /// It would verify nothing.
    #[error("a trust bundle without X.509 roots is refused; delete the bundle to trust nobody of {}", trust_domain_id(.0))]
    Empty(TrustDomain),
    /// A root that could verify nothing.
    #[error("root {place} of {total} is no X.509 root of {}: {rejection}", trust_domain_id(trust_domain))]
    Root {
        /// Its place in the bundle, from 1.
        place: usize,
        /// Roots in the bundle.
        total: usize,
        /// The trust domain.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        rejection: Box<SvidRejection>,
    },
    /// More roots than the cap.
    #[error("a trust bundle of {0} roots is refused, at most {ROOTS_MAX}")]
    TooManyRoots(usize),
    /// More bytes than the cap.
    #[error("a trust bundle of {0} bytes is refused, at most {max}", max = limits::FEDERATED_BUNDLE_BYTES_MAX)]
    TooLarge(usize),
    /// More trust domains than the cap.
    #[error("{max} trust domains are federated with, and more are refused: delete one first", max = limits::FEDERATED_DOMAINS_MAX)]
    TooManyDomains,
}

/// What becomes of the entries that federate with a trust domain whose bundle is deleted, as SPIRE has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeleteMode {
    /// While there are any, nothing is deleted.
    #[default]
    Restrict,
    /// They are deleted too.
    Delete,
    /// They stay, and federate with it no more.
    Dissociate,
}

/// The bundle of one other trust domain. Serialises to the JSON that is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederatedBundle {
    #[serde(with = "trust_domain_text")]
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    /// `spiffe_sequence`, as its trust domain counts.
    #[serde(default)]
    sequence: u64,
    /// `spiffe_refresh_hint` in seconds.
    #[serde(default)]
    refresh_hint_secs: u64,
}

impl FederatedBundle {
    /// Returns a bundle of these roots (DER, whether it is tainted), each once.
    ///
    /// # Errors
    /// There is none, there are too many or too large ones, or one could not verify an SVID of that trust domain.
    pub fn new(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = (Vec<u8>, bool)>,
    ) -> Result<Self, FederationError> {
        let mut each: Vec<(Vec<u8>, bool)> = Vec::new();
        for (certificate, tainted) in roots {
            if each.iter().all(|(known, _)| *known != certificate) {
                each.push((certificate, tainted));
            }
        }
        if each.is_empty() {
            return Err(FederationError::Empty(trust_domain));
        }
        if each.len() > ROOTS_MAX {
            return Err(FederationError::TooManyRoots(each.len()));
        }
        let bytes = each.iter().map(|(certificate, _)| certificate.len()).sum();
        if bytes > limits::FEDERATED_BUNDLE_BYTES_MAX {
            return Err(FederationError::TooLarge(bytes));
        }
        let total = each.len();
        let roots = each.into_iter().enumerate().map(|(index, (certificate, tainted))| {
            checked_root(&trust_domain, certificate, tainted).map_err(|rejection| FederationError::Root {
                place: index + 1,
                total,
                trust_domain: trust_domain.clone(),
                rejection: Box::new(rejection),
            })
        });
        let roots = roots.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { trust_domain, roots, sequence: 0, refresh_hint_secs: 0 })
    }

    /// Returns the bundle with what its trust domain says of it: the number of its content, and after how many seconds
    /// to look for a newer one; 0 says nothing.
    #[must_use]
    pub fn with_hints(self, sequence: u64, refresh_hint_secs: u64) -> Self {
        Self { sequence, refresh_hint_secs, ..self }
    }

    /// Returns the trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the roots, in the order they came.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Returns `spiffe_sequence`; 0 if it had none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns `spiffe_refresh_hint` in seconds; 0 if it had none.
    pub fn refresh_hint_secs(&self) -> u64 {
        self.refresh_hint_secs
    }

    /// Puts the roots into a set, for verification.
    pub fn insert_into(&self, set: &mut BundleSet) {
        let certificates = |roots: Vec<&Root>| roots.iter().map(|root| root.certificate.clone()).collect();
        let all: Vec<Vec<u8>> = certificates(self.roots.iter().collect());
        let tainted: Vec<Vec<u8>> = certificates(self.roots.iter().filter(|root| root.tainted).collect());
        set.insert(self.trust_domain.clone(), all);
        set.set_tainted(&self.trust_domain, &tainted);
    }
}

/// What verifies is asked itself: a root that is taken is one that can be used.
fn checked_root(
    trust_domain: &TrustDomain,
    certificate: Vec<u8>,
    tainted: bool,
) -> Result<Root, SvidRejection> {
    let not_after = CertificateFacts::parse(&certificate)?.not_after;
    let mut set = BundleSet::new();
    set.insert(trust_domain.clone(), vec![certificate.clone()]);
    match set.unusable_roots(trust_domain).first() {
        Some(rejection) => Err(rejection.clone()),
        None => Ok(Root { certificate, not_after, tainted }),
    }
}

/// One planned change: what stands in the table before and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationChange {
    /// Unset for a new bundle.
    pub before: Option<Arc<FederatedBundle>>,
    /// Unset for a deletion.
    pub after: Option<Arc<FederatedBundle>>,
}

impl FederationChange {
    /// Returns the trust domain whose bundle changes.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.after.as_ref().or(self.before.as_ref()).map(|bundle| bundle.trust_domain())
    }
}

/// All bundles of other trust domains, by name.
#[derive(Clone, Debug)]
pub struct Federation {
    own: TrustDomain,
    /// Whose they are here.
    origin: Origin,
    bundles: BTreeMap<TrustDomain, Arc<FederatedBundle>>,
}

impl Federation {
    /// Returns an empty table of a server. Where they are the cloud's, they come from there alone.
    pub fn new(own: TrustDomain, cloud_is_elsewhere: bool) -> Self {
        let origin = if cloud_is_elsewhere { Origin::Cloud } else { Origin::Edge };
        Self { own, origin, bundles: BTreeMap::new() }
    }

    /// Returns one bundle.
    pub fn find(&self, trust_domain: &TrustDomain) -> Option<&Arc<FederatedBundle>> {
        self.bundles.get(trust_domain)
    }

    /// Returns all bundles in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<FederatedBundle>> {
        self.bundles.values()
    }

    /// Returns the names, as entries write them.
    pub fn names(&self) -> BTreeSet<String> {
        self.bundles.keys().map(ToString::to_string).collect()
    }

    /// Plans a new bundle.
    ///
    /// # Errors
    /// There is one, it is not this server's to set, or there are too many.
    pub fn plan_create(&self, bundle: FederatedBundle) -> Result<FederationChange, FederationError> {
        self.check_operator(&bundle.trust_domain)?;
        if self.bundles.contains_key(&bundle.trust_domain) {
            return Err(FederationError::Exists);
        }
        self.plan_set(bundle)
    }

    /// Plans other values for a bundle that is here.
    ///
    /// # Errors
    /// There is none, it is not this server's to set, or `change` refuses.
    pub fn plan_update(
        &self,
        trust_domain: &TrustDomain,
        change: impl FnOnce(&FederatedBundle) -> Result<FederatedBundle, FederationError>,
    ) -> Result<FederationChange, FederationError> {
        self.check_operator(trust_domain)?;
        let before = self.bundles.get(trust_domain).ok_or(FederationError::NotFound)?;
        let after = change(before)?;
        Ok(FederationChange { before: Some(Arc::clone(before)), after: Some(Arc::new(after)) })
    }

    /// Plans a bundle, in place of the one before if there is one.
    ///
    /// # Errors
    /// It is not this server's to set, or there are too many.
    pub fn plan_set(&self, bundle: FederatedBundle) -> Result<FederationChange, FederationError> {
        self.check_operator(&bundle.trust_domain)?;
        let change = self.replaced(bundle);
        if change.before.is_none() && self.bundles.len() >= limits::FEDERATED_DOMAINS_MAX {
            return Err(FederationError::TooManyDomains);
        }
        Ok(change)
    }

    /// Plans a deletion; what becomes of entries is [`crate::EntryTable::plan_defederate`]'s.
    ///
    /// # Errors
    /// There is none, or it is not this server's to delete.
    pub fn plan_delete(&self, trust_domain: &TrustDomain) -> Result<FederationChange, FederationError> {
        self.check_operator(trust_domain)?;
        self.plan_cloud_delete(trust_domain).ok_or(FederationError::NotFound)
    }

    /// Plans what the cloud sent; how many there may be is its own affair. Nothing if it is here already.
    ///
    /// # Errors
    /// It is of the own trust domain, whose roots come another way.
    pub fn plan_cloud_set(
        &self,
        bundle: FederatedBundle,
    ) -> Result<Option<FederationChange>, FederationError> {
        self.check_other(&bundle.trust_domain)?;
        Ok(Some(self.replaced(bundle)).filter(|change| change.before != change.after))
    }

    /// Plans that the cloud federates with a trust domain no more; nothing if there is no bundle.
    pub fn plan_cloud_delete(&self, trust_domain: &TrustDomain) -> Option<FederationChange> {
        let before = self.bundles.get(trust_domain)?;
        Some(FederationChange { before: Some(Arc::clone(before)), after: None })
    }

    /// Takes a change that is on the disk.
    pub fn apply(&mut self, change: &FederationChange) {
        match (&change.after, change.trust_domain()) {
            (Some(after), Some(trust_domain)) => {
                self.bundles.insert(trust_domain.clone(), Arc::clone(after));
            }
            (None, Some(trust_domain)) => {
                self.bundles.remove(trust_domain);
            }
            (_, None) => {}
        }
    }

    /// Takes a bundle as the disk has it.
    pub fn restore(&mut self, bundle: FederatedBundle) {
        self.bundles.insert(bundle.trust_domain.clone(), Arc::new(bundle));
    }

    fn replaced(&self, bundle: FederatedBundle) -> FederationChange {
        let before = self.bundles.get(&bundle.trust_domain).cloned();
        FederationChange { before, after: Some(Arc::new(bundle)) }
    }

    fn check_other(&self, trust_domain: &TrustDomain) -> Result<(), FederationError> {
        if *trust_domain == self.own { Err(FederationError::Own(self.own.clone())) } else { Ok(()) }
    }

    fn check_operator(&self, trust_domain: &TrustDomain) -> Result<(), FederationError> {
        self.check_other(trust_domain)?;
        if self.origin == Origin::Cloud { Err(FederationError::ManagedByCloud) } else { Ok(()) }
    }
}

/// Trust domains as text in JSON.
mod trust_domain_text {
    use midge_identity::TrustDomain;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(name: &TrustDomain, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(name)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
        TrustDomain::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TrustDomain {
        TrustDomain::new(text).unwrap()
    }

    /// As the disk has it: what its roots are was looked at when they came.
    fn bundle(trust_domain: &str, root: u8) -> FederatedBundle {
        let text = serde_json::json!({
            "trust_domain": trust_domain, "roots": [{ "certificate": hex::encode([root]), "not_after": 1 }],
        });
        serde_json::from_value(text).unwrap()
    }

    fn table(cloud_is_elsewhere: bool) -> Federation {
        Federation::new(name("plant"), cloud_is_elsewhere)
    }

    fn roots(table: &Federation) -> Vec<(String, u8)> {
        table
            .iter()
            .map(|bundle| (bundle.trust_domain().to_string(), bundle.roots()[0].certificate[0]))
            .collect()
    }

    #[test]
    fn a_bundle_is_made_changed_and_deleted() {
        let mut table = table(false);
        let made = table.plan_create(bundle("other.org", 1)).unwrap();
        assert!(table.find(&name("other.org")).is_none(), "a plan changes nothing");
        table.apply(&made);
        assert_eq!(table.plan_create(bundle("other.org", 2)), Err(FederationError::Exists));
        table.apply(&table.plan_set(bundle("other.org", 2)).unwrap());
        table.apply(&table.plan_set(bundle("third.org", 3)).unwrap());
        assert_eq!(roots(&table), [("other.org".to_owned(), 2), ("third.org".to_owned(), 3)]);
        let hinted = |before: &FederatedBundle| Ok(before.clone().with_hints(7, 300));
        table.apply(&table.plan_update(&name("other.org"), hinted).unwrap());
        let other = table.find(&name("other.org")).unwrap();
        assert_eq!((other.sequence(), other.refresh_hint_secs(), other.roots().len()), (7, 300, 1));
        table.apply(&table.plan_delete(&name("other.org")).unwrap());
        assert_eq!(table.names(), BTreeSet::from(["third.org".to_owned()]));
        assert_eq!(table.plan_delete(&name("other.org")), Err(FederationError::NotFound));
        assert_eq!(table.plan_update(&name("other.org"), hinted), Err(FederationError::NotFound));
    }

    #[test]
    fn the_own_trust_domain_has_no_bundle_here() {
        let mut table = table(false);
        let own = || Err(FederationError::Own(name("plant")));
        assert_eq!(table.plan_create(bundle("plant", 1)), own());
        assert_eq!(table.plan_set(bundle("plant", 1)), own());
        assert_eq!(table.plan_delete(&name("plant")), own());
        assert_eq!(table.plan_cloud_set(bundle("plant", 1)), Err(FederationError::Own(name("plant"))));
        table.apply(&table.plan_set(bundle("plant.example", 1)).unwrap());
        assert_eq!(roots(&table).len(), 1);
    }

    #[test]
    fn bundles_of_a_cloud_are_set_and_deleted_by_it_alone() {
        let mut table = table(true);
        assert_eq!(table.plan_create(bundle("other.org", 1)), Err(FederationError::ManagedByCloud));
        assert_eq!(table.plan_set(bundle("other.org", 1)), Err(FederationError::ManagedByCloud));
        table.apply(&table.plan_cloud_set(bundle("other.org", 1)).unwrap().unwrap());
        assert_eq!(table.plan_cloud_set(bundle("other.org", 1)), Ok(None), "it is here already");
        assert_eq!(table.plan_delete(&name("other.org")), Err(FederationError::ManagedByCloud));
        table.apply(&table.plan_cloud_delete(&name("other.org")).unwrap());
        assert_eq!(table.plan_cloud_delete(&name("other.org")), None);
    }

    #[test]
    fn there_are_no_more_trust_domains_than_the_cap_and_those_that_are_here_can_change() {
        let mut table = table(false);
        for index in 0..limits::FEDERATED_DOMAINS_MAX {
            table.apply(&table.plan_create(bundle(&format!("d{index}"), 1)).unwrap());
        }
        assert_eq!(table.plan_set(bundle("more", 1)), Err(FederationError::TooManyDomains));
        assert_eq!(table.plan_create(bundle("more", 1)), Err(FederationError::TooManyDomains));
        table.plan_set(bundle("d1", 2)).unwrap();
        table.apply(&table.plan_delete(&name("d1")).unwrap());
        table.plan_set(bundle("more", 1)).unwrap();
    }

    #[test]
    fn what_could_verify_nothing_is_no_bundle() {
        let made = |roots: Vec<Vec<u8>>| {
            FederatedBundle::new(name("other.org"), roots.into_iter().map(|root| (root, false)))
        };
        assert_eq!(made(vec![]), Err(FederationError::Empty(name("other.org"))));
        let many = (0..=ROOTS_MAX).map(|byte| vec![u8::try_from(byte).unwrap()]).collect();
        assert_eq!(made(many), Err(FederationError::TooManyRoots(ROOTS_MAX + 1)));
        let long = vec![0; limits::FEDERATED_BUNDLE_BYTES_MAX + 1];
        assert_eq!(made(vec![long.clone()]), Err(FederationError::TooLarge(long.len())));
        let told = made(vec![vec![1]]).unwrap_err().to_string();
        assert!(told.starts_with("root 1 of 1 is no X.509 root of spiffe://other.org: "), "{told}");
    }
}
