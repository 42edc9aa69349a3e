//! One caller and what it is entitled to, as entries and SVIDs change under it.
//!
//! Owns the composition of complete states and the decision when one is worth telling. Leaves
//! gRPC to [`crate::workload_api`].

use crate::{
    AgentView,
    attest::Needs,
    peers::{Peer, Permit},
    rotation::Svid,
    server::Shared,
    view::unique_hints,
};
use issuer_core::{RegistrationEntry, Selector};
use midge_identity::{TrustDomain, trust_domain_id};
use midge_runtime::RateLimitedWarn;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};
use tonic::Status;

/// SPIRE's text, which clients look for.
const NO_IDENTITY: &str = "no identity issued";
const ATTESTATION_FAILED: &str = "workload attestation failed";
const STOPPING: &str = "the agent is stopping";
const NOT_SIGNED: &str = "an identity is registered but no svid could be signed yet";

static SHARED_HINT: RateLimitedWarn = RateLimitedWarn::new(Duration::from_secs(600));

/// Roots by SPIFFE ID of their trust domain, concatenated DER.
pub(crate) type Bundles = BTreeMap<String, Vec<u8>>;

/// Everything an X.509 workload is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct X509State {
    /// In the order of entry IDs.
    pub(crate) identities: Vec<Identity>,
    pub(crate) bundle: Vec<u8>,
    pub(crate) federated: Bundles,
}

/// One SVID as it is told.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) svid: Arc<Svid>,
    pub(crate) hint: String,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        // Each signing makes a new one.
        Arc::ptr_eq(&self.svid, &other.svid) && self.hint == other.hint
    }
}

/// A caller with an open stream.
pub(crate) struct Caller {
    shared: Arc<Shared>,
    peer: Peer,
    view: watch::Receiver<Arc<AgentView>>,
    attested: Option<(Needs, Vec<Selector>)>,
    interests: BTreeMap<String, crate::svids::Interest>,
    woken: Arc<Notify>,
    _permit: Permit,
}

enum Collected {
    /// Every SVID is there.
    Complete(X509State),
    /// Some are there, signing of the others fails.
    Partial(X509State),
    /// Signatures are under way.
    Pending(Option<X509State>),
}

impl Caller {
    pub(crate) fn new(shared: Arc<Shared>, peer: Peer, permit: Permit) -> Self {
        let view = shared.upstream.view();
        Self {
            shared,
            peer,
            view,
            attested: None,
            interests: BTreeMap::new(),
            woken: Arc::new(Notify::new()),
            _permit: permit,
        }
    }

    /// Returns the next X.509 state that differs from `told`.
    pub(crate) async fn next_x509(&mut self, told: Option<&X509State>) -> Result<X509State, Status> {
        let mut settled_at = None;
        loop {
            let (view, entries) = self.entitled().await?;
            // From when it is known what is to be signed: attestation takes its own time.
            let now = Instant::now();
            let deadline = *settled_at.get_or_insert(now + self.shared.settle);
            let found = match self.collect(&view, &entries)? {
                Collected::Complete(state) | Collected::Partial(state) => Some(state),
                Collected::Pending(state) if now >= deadline => state,
                Collected::Pending(_) => {
                    self.changed(Some(deadline)).await?;
                    continue;
                }
            };
            match found {
                Some(state) if told != Some(&state) => return Ok(state),
                None if told.is_none() => return Err(Status::unavailable(NOT_SIGNED)),
                _ => {}
            }
            if self.changed(None).await? {
                settled_at = None;
            }
        }
    }

    /// Returns the next bundles that differ from `told`.
    pub(crate) async fn next_bundles(&mut self, told: Option<&Bundles>) -> Result<Bundles, Status> {
        loop {
            let bundles = match self.entitled().await {
                Ok((view, entries)) => bundles_of(&view, &entries),
                Err(status)
                    if self.shared.allow_unauthenticated_verifiers
                        && status.code() == tonic::Code::PermissionDenied =>
                {
                    let view = Arc::clone(&self.view.borrow());
                    bundles_of(&view, &[])
                }
                Err(status) => return Err(status),
            };
            if told != Some(&bundles) && !bundles.is_empty() {
                return Ok(bundles);
            }
            self.changed(None).await?;
        }
    }

    /// Waits until the caller has an identity and its SVIDs are signed; returns the SPIFFE IDs.
    pub(crate) async fn identity(&mut self) -> Result<Vec<String>, Status> {
        loop {
            match self.next_x509(None).await {
                Ok(state) => {
                    return Ok(state
                        .identities
                        .iter()
                        .map(|identity| identity.svid.spiffe_id.to_string())
                        .collect());
                }
                Err(status) if status.message() == NO_IDENTITY || status.message() == NOT_SIGNED => {
                    self.changed(None).await?;
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// Entries of the caller in the newest view; the refusal if there is none.
    async fn entitled(&mut self) -> Result<(Arc<AgentView>, Vec<Arc<RegistrationEntry>>), Status> {
        let view = Arc::clone(&self.view.borrow_and_update());
        let selectors = self.selectors(view.needs()).await?;
        let matches = view.matching(selectors);
        let matched = matches.len();
        let entries = unique_hints(matches);
        if entries.len() < matched
            && let Some(suppressed) = SHARED_HINT.occurred()
        {
            let (served, uid) = (entries.len(), self.peer.uid);
            tracing::warn!(
                uid,
                matched,
                served,
                suppressed,
                "entries of one workload share a hint: only the oldest of them is served"
            );
        }
        if entries.is_empty() {
            self.interests.clear();
            return Err(Status::permission_denied(NO_IDENTITY));
        }
        Ok((view, entries))
    }

    async fn selectors(&mut self, needs: Needs) -> Result<&[Selector], Status> {
        let attested = match self.attested.take() {
            Some((covered, selectors)) if covered.cover(needs) => (covered, selectors),
            earlier => {
                let needs = needs.or(earlier.map(|(covered, _)| covered).unwrap_or_default());
                let selectors = self.peer.attest(needs).await.map_err(|error| {
                    tracing::debug!(uid = self.peer.uid, %error, "workload attestation failed");
                    Status::unavailable(ATTESTATION_FAILED)
                })?;
                (needs, selectors)
            }
        };
        let (_, selectors) = self.attested.insert(attested);
        Ok(selectors)
    }

    fn collect(&mut self, view: &AgentView, entries: &[Arc<RegistrationEntry>]) -> Result<Collected, Status> {
        self.follow(entries)?;
        let mut identities = Vec::with_capacity(entries.len());
        let mut failing = 0;
        for entry in entries {
            match self.shared.svids.current(entry) {
                Some(svid) => identities.push(Identity { svid, hint: entry.hint.clone() }),
                None if self.shared.svids.is_failing(entry) => failing += 1,
                None => {}
            }
        }
        let bundle = roots(view, view.trust_domain());
        // Workload API §5.2.1: neither SVIDs nor the bundle may be missing.
        if identities.is_empty() || bundle.is_empty() {
            return Ok(Collected::Pending(None));
        }
        let told = identities.len();
        let state = X509State { identities, bundle, federated: federated(view, entries) };
        Ok(match entries.len() - told {
            0 => Collected::Complete(state),
            missing if missing == failing => Collected::Partial(state),
            _ => Collected::Pending(Some(state)),
        })
    }

    /// Keeps the interest in exactly these entries.
    fn follow(&mut self, entries: &[Arc<RegistrationEntry>]) -> Result<(), Status> {
        self.interests.retain(|id, _| entries.iter().any(|entry| entry.id == *id));
        for entry in entries {
            if !self.interests.contains_key(&entry.id) {
                let interest = self.shared.svids.interest(entry, &self.woken).map_err(|full| {
                    tracing::warn!(entry = %entry.id, error = %full, "cannot serve an svid");
                    Status::resource_exhausted(full.to_string())
                })?;
                self.interests.insert(entry.id.clone(), interest);
            }
        }
        Ok(())
    }

    /// Waits for a new view or SVID, or until `deadline`; returns whether the view is new.
    async fn changed(&mut self, deadline: Option<Instant>) -> Result<bool, Status> {
        let until = async {
            match deadline {
                Some(deadline) => time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.token.cancelled() => Err(Status::unavailable(STOPPING)),
            changed = self.view.changed() => {
                changed.map(|()| true).map_err(|_| Status::unavailable(STOPPING))
            }
            () = self.woken.notified() => Ok(false),
            () = until => Ok(false),
        }
    }
}

fn roots(view: &AgentView, trust_domain: &TrustDomain) -> Vec<u8> {
    view.bundles().roots(trust_domain).unwrap_or_default().concat()
}

fn federated(view: &AgentView, entries: &[Arc<RegistrationEntry>]) -> Bundles {
    entries
        .iter()
        .flat_map(|entry| &entry.federates_with)
        .filter_map(|name| TrustDomain::new(name).ok())
        .filter(|trust_domain| trust_domain != view.trust_domain())
        .map(|trust_domain| (trust_domain_id(&trust_domain), roots(view, &trust_domain)))
        .filter(|(_, roots)| !roots.is_empty())
        .collect()
}

fn bundles_of(view: &AgentView, entries: &[Arc<RegistrationEntry>]) -> Bundles {
    let mut bundles = federated(view, entries);
    let own = roots(view, view.trust_domain());
    // Workload API §5.2.2: at least the own trust domain.
    if own.is_empty() {
        return Bundles::new();
    }
    bundles.insert(trust_domain_id(view.trust_domain()), own);
    bundles
}
