//! The edge's end of the authority above it: the CSR that waits, and the CA that comes back.

use crate::{
    entries::CloudChange,
    error::IssueError,
    issuer::Issuer,
    mutation::Mutation,
    sign::{SigningCa, SvidOrder, sign_with},
    state::State,
    witness::Cause,
};
use issuer_core::{
    BundleError, CaRecord, EntryError, EntryTable, Federation, FederationChange, FederationError, Origin,
    Root, Slot, fingerprint,
    template::{BACKDATE, Subject},
};
use midge_identity::{BundleSet, CertificateFacts, TrustDomain, UnixMillis, verify_x509_svid};
use midge_pki::{CaSigner, CsrSubject, PrivateKey, provider};
use midge_store::Batch;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// A CSR for an intermediate CA, waiting for the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaRequest {
    /// The CSR; its key never leaves the box.
    pub csr_der: Vec<u8>,
    /// Slot of the key.
    pub slot: Slot,
    /// Life that is asked for.
    pub preferred_ttl: Duration,
}

impl Issuer {
    /// Returns the CSR to be sent to the cloud; unset while none is needed.
    pub fn ca_request(&self) -> watch::Receiver<Option<CaRequest>> {
        self.shared.ca_request.subscribe()
    }

    /// Takes the intermediate CA that the cloud signed for the waiting CSR (CA certificate first) and the roots. The
    /// same answer twice changes nothing.
    ///
    /// # Errors
    /// No CSR waits for it, it is for another key, box or trust domain, or does not lead to the roots; or the store
    /// fails.
    pub async fn install_upstream(&self, chain: Vec<Vec<u8>>, roots: Vec<Vec<u8>>) -> Result<(), IssueError> {
        {
            let _rotation = self.shared.rotation.lock().await;
            let certificate = chain.first().ok_or_else(|| refused("it is empty"))?;
            if self.is_known_ca(certificate) {
                return Ok(());
            }
            let (slot, key) = self.requested_key()?;
            let record = self.check_upstream(&chain, &roots, key)?;
            self.commit(Batch::new(), move |state| {
                let bundle = state.bundle.with_published(parse_roots(&roots)?)?;
                let journal = state.journal.with_prepared(slot, record)?.with_roots(bundle.roots());
                Ok((vec![Mutation::Journal(Box::new(journal)), Mutation::Bundle(bundle)], ()))
            })
            .await?;
            self.shared.ca_request.send_replace(None);
        }
        self.tick().await
    }

    pub(crate) fn publish_request(&self, slot: Slot, key: &PrivateKey) -> Result<(), IssueError> {
        let csr_der = key.csr_der(None, CsrSubject::default())?;
        let request = CaRequest { csr_der, slot, preferred_ttl: self.shared.config.ca_ttl };
        self.shared.ca_request.send_replace(Some(request));
        Ok(())
    }

    /// Tells whether a CA of that key is installed: an answer that was lost is asked for again, and comes twice.
    fn is_known_ca(&self, certificate: &[u8]) -> bool {
        let Ok(facts) = CertificateFacts::parse(certificate) else { return false };
        let spki_sha256 = fingerprint(&facts.public_key_der);
        let state = self.shared.state.read();
        [Slot::A, Slot::B]
            .into_iter()
            .filter_map(|slot| state.journal.slot(slot))
            .any(|(_, ca)| ca.spki_sha256 == spki_sha256)
    }

    fn requested_key(&self) -> Result<(Slot, Arc<PrivateKey>), IssueError> {
        let request = self.shared.state.read().journal.request().cloned();
        let slot = request.map(|request| request.slot).ok_or_else(|| refused("none was asked for"))?;
        let key = self.shared.keys.lock().key(slot);
        Ok((slot, key.ok_or_else(|| refused("its key is lost"))?))
    }

    fn check_upstream(
        &self,
        chain: &[Vec<u8>],
        roots: &[Vec<u8>],
        key: Arc<PrivateKey>,
    ) -> Result<CaRecord, IssueError> {
        let certificate = chain.first().cloned().unwrap_or_default();
        let spki_sha256 = fingerprint(&key.public_key_der());
        let signer = CaSigner::new(certificate.clone(), Arc::clone(&key), self.trust_domain().clone())
            .map_err(|error| refused(&error.to_string()))?;
        let facts = signer.facts().clone();
        self.try_chain(SigningCa { signer, chain: chain.to_vec() }, roots, &key)?;
        Ok(CaRecord {
            certificate,
            chain: chain.to_vec(),
            serial: facts.serial,
            issued_at: facts.not_before.after(BACKDATE).min(facts.not_after),
            not_after: facts.not_after,
            prepared_at: self.now(),
            spki_sha256,
            tainted: false,
        })
    }

    /// Signs for the box's own ID and verifies that as any peer would: a wrong chain, scope or root shows now.
    fn try_chain(&self, ca: SigningCa, roots: &[Vec<u8>], key: &PrivateKey) -> Result<(), IssueError> {
        let node = self.shared.config.node_id().ok().flatten();
        let id = node.ok_or_else(|| refused("this server has no box name"))?;
        let now = self.now();
        let order = SvidOrder {
            id: id.clone(),
            dns_names: Vec::new(),
            subject: Subject::svid(&[]),
            ttl: Duration::from_secs(60),
            cause: Cause::Builtin,
        };
        let svid =
            sign_with(&ca, order, &key.public_key_der(), now).map_err(|error| refused(&error.to_string()))?;
        let mut bundles = BundleSet::new();
        bundles.insert(self.trust_domain().clone(), roots.to_vec());
        let chain: Vec<_> = svid.chain.into_iter().map(Into::into).collect();
        let algorithms = provider().signature_verification_algorithms;
        let peer = verify_x509_svid(&chain, &bundles, algorithms.all, now)
            .map_err(|error| refused(&error.to_string()))?;
        if *peer.id() != id {
            return Err(refused("it is for another box"));
        }
        Ok(())
    }
}

/// Entries left out, each with the rule it breaks.
pub(crate) type Refused = Vec<(String, EntryError)>;

pub(crate) fn plan_cloud(
    state: &State,
    changes: Vec<CloudChange>,
) -> Result<(Vec<Mutation>, Refused), IssueError> {
    let mut staged = Staged::new(&state.entries);
    let mut federation = StagedFederation::new(&state.federation);
    let mut mutations = Vec::new();
    let mut refused = Vec::new();
    let mut listed = BTreeMap::clone(&state.refused);
    for change in changes {
        match change {
            CloudChange::Upsert(entry) => {
                let id = entry.id.clone();
                match staged.upsert(*entry) {
                    Ok(mutation) => {
                        listed.remove(&id);
                        mutations.extend(mutation);
                    }
                    Err(error) => {
                        listed.insert(id.clone(), error.to_string());
                        refused.push((id, error));
                    }
                }
            }
            CloudChange::Unread { id, why } => {
                let error = EntryError::Unread(why);
                listed.insert(id.clone(), error.to_string());
                refused.push((id, error));
            }
            CloudChange::Delete(id) => {
                listed.remove(&id);
                mutations.extend(staged.delete(&id));
            }
            CloudChange::Retain(ids) => {
                let keep: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
                listed.retain(|id, _| keep.contains(id.as_str()));
                mutations.extend(staged.retain(&keep));
            }
            CloudChange::Roots { roots, tainted } => mutations.extend(plan_roots(state, &roots, &tainted)?),
            CloudChange::Federated(bundle) => {
                mutations.extend(federation.take(|now| now.plan_cloud_set(*bundle))?);
            }
            CloudChange::Unfederated(name) => {
                mutations.extend(federation.take(|now| Ok(now.plan_cloud_delete(&name)))?);
            }
            CloudChange::RetainFederated(names) => mutations.extend(federation.retain(&names)?),
        }
    }
    if listed != *state.refused {
        mutations.push(Mutation::Refused(Arc::new(listed)));
    }
    Ok((mutations, refused))
}

/// Changes of one batch may build on each other, before any is applied.
struct Staged<'a> {
    table: &'a EntryTable,
    changed: EntryTable,
    deleted: BTreeSet<String>,
}

impl<'a> Staged<'a> {
    fn new(table: &'a EntryTable) -> Self {
        Self { table, changed: EntryTable::new(table.rules().clone()), deleted: BTreeSet::new() }
    }

    fn current(&self, id: &str) -> &EntryTable {
        if self.changed.find(id).is_some() || self.deleted.contains(id) { &self.changed } else { self.table }
    }

    fn upsert(&mut self, entry: issuer_core::RegistrationEntry) -> Result<Option<Mutation>, EntryError> {
        let change = self.current(&entry.id).plan_cloud_upsert(entry)?;
        if change.before == change.after {
            return Ok(None);
        }
        self.deleted.remove(change.id());
        self.changed.apply(&change);
        Ok(Some(Mutation::Entry(change)))
    }

    fn delete(&mut self, id: &str) -> Option<Mutation> {
        let change = self.current(id).plan_cloud_delete(id)?;
        self.changed.apply(&change);
        self.deleted.insert(id.to_owned());
        Some(Mutation::Entry(change))
    }

    fn retain(&mut self, keep: &BTreeSet<&str>) -> Vec<Mutation> {
        let gone: BTreeSet<String> = self
            .table
            .iter()
            .chain(self.changed.iter())
            .filter(|entry| entry.origin == Origin::Cloud && !keep.contains(entry.id.as_str()))
            .map(|entry| entry.id.clone())
            .collect();
        gone.iter().filter_map(|id| self.delete(id)).collect()
    }
}

/// Likewise for the bundles of other trust domains, which are few.
struct StagedFederation(Federation);

impl StagedFederation {
    fn new(federation: &Federation) -> Self {
        Self(federation.clone())
    }

    fn take(
        &mut self,
        plan: impl FnOnce(&Federation) -> Result<Option<FederationChange>, FederationError>,
    ) -> Result<Option<Mutation>, IssueError> {
        let change = plan(&self.0)?;
        if let Some(change) = &change {
            self.0.apply(change);
        }
        Ok(change.map(Mutation::Federated))
    }

    fn retain(&mut self, keep: &[TrustDomain]) -> Result<Vec<Mutation>, IssueError> {
        let names = self.0.iter().map(|bundle| bundle.trust_domain().clone());
        let gone: Vec<TrustDomain> = names.filter(|name| !keep.contains(name)).collect();
        let taken = gone.iter().map(|name| self.take(|now| Ok(now.plan_cloud_delete(name))));
        Ok(taken.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }
}

/// A CA of this server that leads to a root which is tainted or gone is to be replaced.
fn plan_roots(state: &State, roots: &[Vec<u8>], tainted: &[Vec<u8>]) -> Result<Vec<Mutation>, IssueError> {
    let roots = parse_roots(roots)?.into_iter().map(|(certificate, not_after)| {
        let tainted = tainted.contains(&certificate);
        Root { certificate, not_after, tainted }
    });
    let bundle = state.bundle.with_roots(roots.collect())?;
    if bundle == state.bundle {
        return Ok(Vec::new());
    }
    let journal = state.journal.with_roots(bundle.roots());
    let changed = (journal != state.journal).then(|| Mutation::Journal(Box::new(journal)));
    Ok(changed.into_iter().chain([Mutation::Bundle(bundle)]).collect())
}

fn parse_roots(roots: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, UnixMillis)>, IssueError> {
    if roots.is_empty() {
        return Err(BundleError::Empty.into());
    }
    roots
        .iter()
        .map(|certificate| {
            let facts = CertificateFacts::parse(certificate).map_err(|error| refused(&error.to_string()))?;
            Ok((certificate.clone(), facts.not_after))
        })
        .collect()
}

fn refused(why: &str) -> IssueError {
    IssueError::Upstream(why.to_owned())
}
