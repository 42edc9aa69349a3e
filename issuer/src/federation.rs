//! Bundles of other trust domains: set and deleted by an operator, and who of Midge verifies by them.

use crate::{error::IssueError, issuer::Issuer, mutation::Mutation};
use issuer_core::{DeleteMode, FederatedBundle, FederationChange, FederationError};
use midge_identity::{BundleSet, TrustDomain, UnixMillis};
use midge_pki::TrustSource;
use midge_store::Batch;
use parking_lot::Mutex;
use std::{collections::BTreeSet, sync::Arc};

impl Issuer {
    /// Returns the bundles of other trust domains in the order of their names.
    pub fn federated_bundles(&self) -> Vec<Arc<FederatedBundle>> {
        self.shared.state.read().federation.iter().cloned().collect()
    }

    /// Returns the bundle of another trust domain.
    pub fn federated_bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<FederatedBundle>> {
        self.shared.state.read().federation.find(trust_domain).cloned()
    }

    /// Takes the bundle of a trust domain that has none here yet.
    ///
    /// # Errors
    /// It has one, it is the own trust domain, the cloud owns the bundles, there are too many, or the store fails.
    pub async fn create_federated_bundle(
        &self,
        bundle: FederatedBundle,
    ) -> Result<Arc<FederatedBundle>, IssueError> {
        self.commit(Batch::new(), move |state| planned(state.federation.plan_create(bundle)?)).await
    }

    /// Changes the bundle of another trust domain.
    ///
    /// # Errors
    /// It has none, it is the own trust domain, the cloud owns the bundles, `change` refuses, or the store fails.
    pub async fn update_federated_bundle(
        &self,
        trust_domain: TrustDomain,
        change: impl FnOnce(&FederatedBundle) -> Result<FederatedBundle, FederationError> + Send + 'static,
    ) -> Result<Arc<FederatedBundle>, IssueError> {
        self.commit(Batch::new(), move |state| planned(state.federation.plan_update(&trust_domain, change)?))
            .await
    }

    /// Takes the bundle of another trust domain, in place of the one it has here.
    ///
    /// # Errors
    /// It is the own trust domain, the cloud owns the bundles, there are too many, or the store fails.
    pub async fn set_federated_bundle(
        &self,
        bundle: FederatedBundle,
    ) -> Result<Arc<FederatedBundle>, IssueError> {
        self.commit(Batch::new(), move |state| planned(state.federation.plan_set(bundle)?)).await
    }

    /// Forgets the bundle of another trust domain: its SVIDs are verified no more. Together with it goes what `mode`
    /// says of the entries that federate with it.
    ///
    /// # Errors
    /// It has none, entries federate with it and `mode` restricts, it is the own trust domain, the cloud owns the
    /// bundles, or the store fails.
    pub async fn delete_federated_bundle(
        &self,
        trust_domain: TrustDomain,
        mode: DeleteMode,
    ) -> Result<(), IssueError> {
        self.commit(Batch::new(), move |state| {
            let change = state.federation.plan_delete(&trust_domain)?;
            let entries =
                state.entries.plan_defederate(&trust_domain, mode)?.into_iter().map(Mutation::Entry);
            Ok((entries.chain([Mutation::Federated(change)]).collect(), ()))
        })
        .await
    }

    /// Returns roots to verify peers of the own trust domain by, and of these others, as long as they have a bundle.
    /// The server itself, as a [`TrustSource`], knows the own one alone.
    pub fn trust_with(&self, others: impl IntoIterator<Item = TrustDomain>) -> FederatedTrust {
        let listed = others.into_iter().collect();
        FederatedTrust { issuer: self.clone(), listed, shown: Mutex::default() }
    }
}

fn planned(change: FederationChange) -> Result<(Vec<Mutation>, Arc<FederatedBundle>), IssueError> {
    let after = change.after.clone().ok_or(FederationError::NotFound)?;
    let changed = (change.before != change.after).then_some(Mutation::Federated(change));
    Ok((changed.into_iter().collect(), after))
}

/// Roots of the own trust domain and of those that somebody has listed.
pub struct FederatedTrust {
    issuer: Issuer,
    listed: BTreeSet<TrustDomain>,
    /// All bundles as they were looked at last, and those of them that are shown.
    shown: Mutex<Option<(Arc<BundleSet>, Arc<BundleSet>)>>,
}

impl FederatedTrust {
    /// Tells whether a trust domain is another one that was listed.
    pub fn lists(&self, trust_domain: &TrustDomain) -> bool {
        self.listed.contains(trust_domain)
    }
}

impl TrustSource for FederatedTrust {
    /// The same set as long as none of these roots changes, whatever else does.
    fn bundles(&self) -> Arc<BundleSet> {
        if self.listed.is_empty() {
            return self.issuer.bundles();
        }
        let all = Arc::clone(&self.issuer.shared.state.read().bundles);
        let mut shown = self.shown.lock();
        if let Some((seen, shown)) = &*shown
            && Arc::ptr_eq(seen, &all)
        {
            return Arc::clone(shown);
        }
        let own = self.issuer.trust_domain();
        let now = all.only(|name| name == own || self.listed.contains(name));
        let before = shown.take().map(|(_, before)| before);
        let now = before.filter(|before| **before == now).unwrap_or_else(|| Arc::new(now));
        *shown = Some((all, Arc::clone(&now)));
        now
    }

    fn now(&self) -> UnixMillis {
        TrustSource::now(&self.issuer)
    }
}
