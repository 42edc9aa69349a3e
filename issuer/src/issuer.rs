//! The handle to the identity server: open, observe, commit.

use crate::{
    builtin::Builtin,
    config::{Authority, IssuerConfig},
    error::IssueError,
    mutation::{FLOOR_KEY, Mutation, record},
    sign::SigningCa,
    state::{HeldEntry, State},
    upstream::CaRequest,
    view::{CaSnapshot, Degraded, IssuerSnapshot, IssuerView, clock_trouble, lease_trouble},
    witness::Changed,
};
use issuer_core::{Lease, Slot};
use midge_identity::{BundleSet, SpiffeId, TrustDomain, UnixMillis};
use midge_pki::{PrivateKey, TrustSource};
use midge_runtime::{Actor, Clock};
use midge_store::{Batch, Durability, Store};
use parking_lot::{Mutex, RwLock};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

/// The identity server. Clones share it.
///
/// Every change is decided by `issuer-core`, committed to the store, and only then visible.
#[derive(Clone)]
pub struct Issuer {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: IssuerConfig,
    pub(crate) clock: Clock,
    pub(crate) keys_dir: PathBuf,
    store: Store,
    /// Held from planning a change until it is applied, so that no plan is made on sand.
    writer: tokio::sync::Mutex<()>,
    /// Held through a step of rotation, which is a key, a file and a commit.
    pub(crate) rotation: tokio::sync::Mutex<()>,
    pub(crate) state: RwLock<State>,
    pub(crate) signing: RwLock<Option<Arc<SigningCa>>>,
    pub(crate) keys: Mutex<SlotKeys>,
    pub(crate) builtin: Mutex<Vec<Builtin>>,
    pub(crate) troubles: Mutex<Troubles>,
    pub(crate) ca_request: watch::Sender<Option<CaRequest>>,
    view: watch::Sender<Arc<IssuerView>>,
}

#[derive(Default)]
pub(crate) struct SlotKeys {
    a: Option<Arc<PrivateKey>>,
    b: Option<Arc<PrivateKey>>,
}

impl SlotKeys {
    pub(crate) fn key(&self, slot: Slot) -> Option<Arc<PrivateKey>> {
        match slot {
            Slot::A => self.a.clone(),
            Slot::B => self.b.clone(),
        }
    }

    pub(crate) fn set(&mut self, slot: Slot, key: Option<Arc<PrivateKey>>) {
        match slot {
            Slot::A => self.a = key,
            Slot::B => self.b = key,
        }
    }
}

/// Failures that last until the same thing succeeds.
#[derive(Default)]
pub(crate) struct Troubles {
    pub(crate) rotation: Option<String>,
}

impl Issuer {
    /// Opens the identity server on its store and its keys, and makes or recovers its CA.
    ///
    /// # Errors
    /// The store or a key cannot be read, or a server that is its own authority cannot make its root.
    pub async fn open(
        config: IssuerConfig,
        store: Store,
        clock: Clock,
        keys_dir: impl AsRef<Path>,
    ) -> Result<Self, IssueError> {
        if let Some(name) = &config.node {
            config
                .node_id()
                .map_err(|error| IssueError::NodeName { name: name.clone(), why: error.to_string() })?;
        }
        let state = State::load(&config, &store).await?;
        clock.raise_floor(state.floor.seen());
        let view = IssuerView {
            revision: 0,
            trust_domain: config.trust_domain.clone(),
            entries: Arc::clone(&state.listed),
            bundles: Arc::clone(&state.bundles),
            good_authorities: Arc::clone(&state.good),
            banned: Arc::clone(&state.banned),
            lease: Lease::of(&state.journal, config.authority.kind(), clock.now()),
            degraded: Vec::new(),
        };
        let issuer = Self {
            shared: Arc::new(Shared {
                config,
                clock,
                keys_dir: keys_dir.as_ref().to_owned(),
                store,
                writer: tokio::sync::Mutex::new(()),
                rotation: tokio::sync::Mutex::new(()),
                state: RwLock::new(state),
                signing: RwLock::new(None),
                keys: Mutex::new(SlotKeys::default()),
                builtin: Mutex::new(Vec::new()),
                troubles: Mutex::new(Troubles::default()),
                ca_request: watch::Sender::new(None),
                view: watch::Sender::new(Arc::new(view)),
            }),
        };
        issuer.recover().await?;
        Ok(issuer)
    }

    /// Returns the views: the current one at once, then one after each change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<IssuerView>> {
        self.shared.view.subscribe()
    }

    /// Returns the current view.
    pub fn view(&self) -> Arc<IssuerView> {
        Arc::clone(&self.shared.view.borrow())
    }

    /// Returns the trust domain it issues for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.shared.config.trust_domain
    }

    /// Returns its settings.
    pub fn config(&self) -> &IssuerConfig {
        &self.shared.config
    }

    /// Returns the store it lives on.
    pub fn store(&self) -> Store {
        self.shared.store.clone()
    }

    /// Returns the server's time, which never runs backwards.
    pub fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }

    /// Returns how the server is at this moment.
    pub fn snapshot(&self) -> IssuerSnapshot {
        let state = self.shared.state.read();
        let lease = self.lease(&state);
        let ca = state.journal.active().map(|(slot, ca)| CaSnapshot {
            serial: ca.serial.clone(),
            not_after: ca.not_after,
            slot,
            prepared: state.journal.prepared().is_some(),
        });
        IssuerSnapshot {
            lease,
            ca,
            entries: state.entries.len(),
            nodes: state.enrolment.nodes().count(),
            degraded: self.degraded(&state, &lease),
        }
    }

    /// Tells whether a process that holds an identity by an entry may go on: the entry is there, gives this identity
    /// and demands of workloads what it demanded then, and no ban takes it away.
    pub fn entry_stands(&self, held: &HeldEntry<'_>) -> bool {
        self.shared.state.read().entry_stands(held)
    }

    /// Tells whether any entry that no ban takes away, or the server itself, gives this identity.
    pub fn is_registered(&self, id: &SpiffeId) -> bool {
        self.shared.state.read().stands(id)
            || self.shared.builtin.lock().iter().any(|builtin| builtin.id == *id)
    }

    pub(crate) fn key_path(&self, slot: Slot) -> PathBuf {
        self.shared.keys_dir.join(slot.key_file())
    }

    /// Plans changes on the current state, makes them durable together with `extra`, applies and shows them.
    pub(crate) async fn commit<P, T>(&self, extra: Batch, plan: P) -> Result<T, IssueError>
    where
        P: FnOnce(&State) -> Result<(Vec<Mutation>, T), IssueError> + Send + 'static,
        T: Send + 'static,
    {
        let (issuer, actor) = (self.clone(), Actor::current());
        // A caller that goes away must not leave the disk ahead of the memory.
        let task = tokio::spawn(async move { issuer.commit_now(extra, plan, actor).await });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(IssueError::Stopping),
        }
    }

    async fn commit_now<P, T>(&self, batch: Batch, plan: P, actor: Option<Actor>) -> Result<T, IssueError>
    where
        P: FnOnce(&State) -> Result<(Vec<Mutation>, T), IssueError> + Send,
    {
        let shared = &self.shared;
        let _writer = shared.writer.lock().await;
        let (mutations, answer) = plan(&shared.state.read())?;
        let durable = self.make_durable(&mutations, batch).await;
        if let (Err(_), Some(log)) = (&durable, &shared.config.mutation_log) {
            log.aborted();
        }
        durable?;
        let (journal_before, bundle_before) = {
            let mut state = shared.state.write();
            let changes = |what: fn(&Mutation) -> bool| mutations.iter().any(what);
            let journal = changes(|it| matches!(it, Mutation::Journal(_))).then(|| state.journal.clone());
            let bundle = changes(|it| matches!(it, Mutation::Bundle(_))).then(|| state.bundle.clone());
            state.apply(&mutations, shared.config.authority.kind());
            (journal, bundle)
        };
        // Before anybody sees that another CA is active: what they ask for then comes from that one.
        let loaded = if journal_before.is_some() { self.load_signing() } else { Ok(()) };
        self.publish();
        if let Some(witness) = shared.config.witness.as_ref().filter(|_| !mutations.is_empty()) {
            let (journal_before, bundle_before) = (journal_before.as_ref(), bundle_before.as_ref());
            let actor = actor.as_ref();
            witness.changed(&Changed { mutations: &mutations, journal_before, bundle_before, actor });
        }
        if let Some(log) = shared.config.mutation_log.as_ref().filter(|_| !mutations.is_empty()) {
            log.committed();
        }
        loaded.and(Ok(answer))
    }

    async fn make_durable(&self, mutations: &[Mutation], mut batch: Batch) -> Result<(), IssueError> {
        let shared = &self.shared;
        for mutation in mutations {
            record(mutation, &mut batch)?;
            if let Some(log) = &shared.config.mutation_log {
                log.extend(mutation, &mut batch);
            }
        }
        if !batch.is_empty() {
            shared.store.commit(batch, Durability::PowerLoss).await?;
        }
        Ok(())
    }

    /// Saves the time, at most once a minute.
    pub(crate) async fn save_floor(&self) -> Result<(), IssueError> {
        let now = self.now();
        self.shared.clock.raise_floor(now);
        let due = {
            let mut state = self.shared.state.write();
            state.floor.raise(now);
            state.floor.due()
        };
        let Some(due) = due else { return Ok(()) };
        let batch = Batch::new().put(FLOOR_KEY, serde_json::to_vec(&due)?);
        self.shared.store.commit(batch, Durability::PowerLoss).await?;
        self.shared.state.write().floor.handle_saved(due);
        Ok(())
    }

    /// Shows the state if it looks different from what was shown last.
    pub(crate) fn publish(&self) {
        let state = self.shared.state.read();
        let lease = self.lease(&state);
        let mut next = IssuerView {
            revision: 0,
            trust_domain: self.shared.config.trust_domain.clone(),
            entries: Arc::clone(&state.listed),
            bundles: Arc::clone(&state.bundles),
            good_authorities: Arc::clone(&state.good),
            banned: Arc::clone(&state.banned),
            lease,
            degraded: self.degraded(&state, &lease),
        };
        // Still under the read lock: an older state cannot overtake a newer one.
        self.shared.view.send_if_modified(|view| {
            if !view.differs(&next) {
                return false;
            }
            next.revision = view.revision.saturating_add(1);
            *view = Arc::new(next);
            true
        });
    }

    pub(crate) fn lease(&self, state: &State) -> Lease {
        Lease::of(&state.journal, self.shared.config.authority.kind(), self.now())
    }

    fn degraded(&self, state: &State, lease: &Lease) -> Vec<Degraded> {
        let mut degraded: Vec<Degraded> = lease_trouble(lease).into_iter().collect();
        if self.shared.clock.is_behind() {
            degraded.push(clock_trouble(self.shared.clock.behind_by()));
        }
        let troubles = self.shared.troubles.lock();
        if let Some(why) = &troubles.rotation {
            degraded.push(Degraded {
                what: format!("CA rotation fails: {why}"),
                remedy: "make room on the disk and see that the data directory is writable".to_owned(),
            });
        }
        for (id, why) in state.refused.iter() {
            degraded.push(Degraded {
                what: format!("entry {id} from the cloud is refused, what it was before holds on: {why}"),
                remedy: "correct the entry at the cloud, or update this box if its cloud is newer".to_owned(),
            });
        }
        degraded
    }

    pub(crate) fn is_upstream(&self) -> bool {
        self.shared.config.authority == Authority::Upstream
    }
}

/// Of the own trust domain alone: whoever means to take peers of others says of which ([`Issuer::trust_with`]).
impl TrustSource for Issuer {
    fn bundles(&self) -> Arc<BundleSet> {
        Arc::clone(&self.shared.state.read().own_bundles)
    }

    fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }
}
