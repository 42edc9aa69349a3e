//! An agent on a real socket, its identity server a fake that signs with a real CA.

use async_trait::async_trait;
use issuer_core::{
    RegistrationEntry, Selector,
    template::{CaTemplate, Subject, SvidTemplate},
};
use midge_agent::{Agent, AgentConfig, AgentError, AgentView, SignFailure, Signed, Upstream};
use midge_identity::{BundleSet, SpiffeId, TrustDomain};
use midge_pki::{CaSigner, Csr, PrivateKey};
use midge_runtime::{CancellationToken, Clock};
use parking_lot::Mutex;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Fails the test when it takes too long.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// Waits for what no event tells of.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An identity server with entries that the test sets.
pub(crate) struct FakeUpstream {
    signer: CaSigner,
    clock: Clock,
    trust_domain: TrustDomain,
    view: watch::Sender<Arc<AgentView>>,
    ttl: Mutex<Duration>,
    serial: AtomicU64,
    pub(crate) away: AtomicBool,
    pub(crate) attempts: AtomicU64,
    pub(crate) signatures: AtomicU64,
}

impl FakeUpstream {
    pub(crate) fn new(ttl: Duration) -> Arc<Self> {
        let clock = Clock::system();
        let trust_domain = TrustDomain::new("example.org").unwrap();
        let key = Arc::new(PrivateKey::generate().unwrap());
        let now = clock.now();
        let template = CaTemplate {
            trust_domain: trust_domain.clone(),
            subject: subject(),
            serial: [1; 16],
            not_before: now.before(Duration::from_secs(60)),
            not_after: now.after(Duration::from_secs(24 * 3600)),
            scope: None,
        };
        let root = CaSigner::self_signed_root(&template, &key).unwrap();
        let signer = CaSigner::new(root.clone(), key, trust_domain.clone()).unwrap();
        let mut bundles = BundleSet::new();
        bundles.insert(trust_domain.clone(), vec![root]);
        let view = AgentView::new(1, trust_domain.clone(), Arc::default(), Arc::new(bundles));
        Arc::new(Self {
            signer,
            clock,
            trust_domain,
            view: watch::channel(Arc::new(view)).0,
            ttl: Mutex::new(ttl),
            serial: AtomicU64::new(1),
            away: AtomicBool::new(false),
            attempts: AtomicU64::new(0),
            signatures: AtomicU64::new(0),
        })
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.signer.cert_der().to_vec()
    }

    pub(crate) fn set_entries(&self, entries: Vec<RegistrationEntry>) {
        let before = Arc::clone(&self.view.borrow());
        let entries = Arc::new(entries.into_iter().map(Arc::new).collect());
        self.publish(AgentView::new(
            before.revision() + 1,
            self.trust_domain.clone(),
            entries,
            Arc::clone(before.bundles()),
        ));
    }

    pub(crate) fn set_bundle(&self, trust_domain: &str, roots: Vec<Vec<u8>>) {
        let before = Arc::clone(&self.view.borrow());
        let mut bundles = BundleSet::clone(before.bundles());
        bundles.insert(TrustDomain::new(trust_domain).unwrap(), roots);
        self.publish(AgentView::new(
            before.revision() + 1,
            self.trust_domain.clone(),
            Arc::clone(before.entries()),
            Arc::new(bundles),
        ));
    }

    pub(crate) fn drop_bundle(&self, trust_domain: &str) {
        let before = Arc::clone(&self.view.borrow());
        let mut bundles = BundleSet::clone(before.bundles());
        assert!(bundles.remove(&TrustDomain::new(trust_domain).unwrap()));
        self.publish(AgentView::new(
            before.revision() + 1,
            self.trust_domain.clone(),
            Arc::clone(before.entries()),
            Arc::new(bundles),
        ));
    }

    /// Makes a new view of the same contents.
    pub(crate) fn touch(&self) {
        let before = Arc::clone(&self.view.borrow());
        self.publish(AgentView::new(
            before.revision() + 1,
            self.trust_domain.clone(),
            Arc::clone(before.entries()),
            Arc::clone(before.bundles()),
        ));
    }

    fn publish(&self, view: AgentView) {
        self.view.send_replace(Arc::new(view));
    }
}

#[async_trait]
impl Upstream for FakeUpstream {
    fn view(&self) -> watch::Receiver<Arc<AgentView>> {
        self.view.subscribe()
    }

    async fn sign(&self, entry_id: &str, csr_der: Vec<u8>) -> Result<Signed, SignFailure> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(SignFailure::Unavailable("away".to_owned()));
        }
        let view = Arc::clone(&self.view.borrow());
        let entry = view.entries().iter().find(|entry| entry.id == entry_id);
        let entry = entry.ok_or_else(|| SignFailure::Refused("no such entry".to_owned()))?;
        let csr = Csr::parse(&csr_der).map_err(|error| SignFailure::Refused(error.to_string()))?;
        let now = self.clock.now();
        let mut serial = [2; 16];
        serial[8..].copy_from_slice(&self.serial.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let template = SvidTemplate {
            spiffe_id: entry.spiffe_id.clone(),
            dns_names: entry.dns_names.clone(),
            subject: subject(),
            serial,
            not_before: now.before(Duration::from_secs(10)),
            not_after: now.after(*self.ttl.lock()),
        };
        let leaf = self.signer.sign_svid(&template, csr.public_key_spki()).unwrap();
        self.signatures.fetch_add(1, Ordering::Relaxed);
        Ok(Signed { chain: vec![leaf], issued: now, expires: template.not_after })
    }
}

fn subject() -> Subject {
    Subject { country: Some("US".to_owned()), organization: Some("SPIRE".to_owned()), ..Subject::default() }
}

/// A running agent.
pub(crate) struct TestAgent {
    _folder: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) token: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), AgentError>>,
}

impl TestAgent {
    /// An agent with one entry for whoever asks, and where its SVIDs live for an hour.
    pub(crate) fn with_one_entry() -> (Arc<FakeUpstream>, Self) {
        let upstream = FakeUpstream::new(Duration::from_secs(3600));
        upstream.set_entries(vec![entry("a", "/app/one")]);
        let agent = Self::start(&upstream);
        (upstream, agent)
    }

    pub(crate) fn start(upstream: &Arc<FakeUpstream>) -> Self {
        Self::start_with(upstream.clone(), |_| {})
    }

    pub(crate) fn start_with(upstream: Arc<dyn Upstream>, adjust: impl FnOnce(&mut AgentConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let mut config = AgentConfig::new(&socket);
        config.settle = Duration::from_millis(500);
        adjust(&mut config);
        let token = CancellationToken::new();
        let agent = Agent::bind(config, upstream, Clock::system(), token.clone()).unwrap();
        Self { _folder: folder, socket, token, task: tokio::spawn(agent.serve()) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(crate) async fn stop(self) {
        self.token.cancel();
        soon("the agent stops", self.task).await.unwrap().unwrap();
        assert!(!self.socket.exists());
    }
}

pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// An entry for this test's own user.
pub(crate) fn entry(id: &str, path: &str) -> RegistrationEntry {
    entry_with(id, path, &[format!("uid:{}", own_uid())])
}

pub(crate) fn entry_with(id: &str, path: &str, unix: &[String]) -> RegistrationEntry {
    let of = |path: &str| SpiffeId::new(format!("spiffe://example.org{path}")).unwrap();
    let selector = |value: &String| Selector { kind: "unix".to_owned(), value: value.clone() };
    RegistrationEntry::new(id, of(path), of("/edge/box"), unix.iter().map(selector).collect())
}
