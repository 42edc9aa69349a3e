//! The SVID of this process for mTLS: from the Workload API or from files, and renewed as they are.

use super::at;
use crate::cli::MqttTarget;
use crate::commands::svid::{workload_error, workload_socket};
use crate::exit::{self, WithCode as _, failure};
use anyhow::Context as _;
use futures_util::StreamExt as _;
use midge_agent::client::{ClientError, WorkloadClient, X509Context, X509Svid, await_identity};
use midge_identity::{BundleSet, CertificateFacts, SpiffeId, TrustDomain, UnixMillis, parse_spiffe_id};
use midge_pki::{CurrentIdentity, IdentitySource, PrivateKey, SvidIdentity, TrustSource};
use midge_runtime::{Backoff, Clock};
use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Limits of the waits between questions to an agent that has gone.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Limits of the waits between looks at the files.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The SVID to show and the roots to trust, as they are now.
pub(super) struct Identity {
    held: CurrentIdentity,
    bundles: RwLock<Arc<BundleSet>>,
    clock: Clock,
    renewals: watch::Sender<u64>,
}

/// An identity and the task that keeps it fresh.
pub(super) struct Followed {
    pub(super) identity: Arc<Identity>,
    _follower: AbortOnDropHandle<()>,
}

/// What an identity is made of.
struct Material {
    svid: SvidIdentity,
    bundles: BundleSet,
}

/// Tells when there is another SVID than the one a connection was made with.
pub(super) struct Renewals(Option<watch::Receiver<u64>>);

impl Renewals {
    pub(super) fn of(identity: Option<&Followed>) -> Self {
        Self(identity.map(|followed| followed.identity.renewals.subscribe()))
    }

    /// Takes the SVID of now for the one of the connection.
    pub(super) fn mark_seen(&mut self) {
        if let Some(renewals) = &mut self.0 {
            renewals.mark_unchanged();
        }
    }

    /// Waits for another SVID; forever where there is none to renew.
    pub(super) async fn next(&mut self) {
        if let Some(renewals) = &mut self.0
            && renewals.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl Followed {
    /// Gets the identity that the arguments ask for.
    pub(super) async fn obtain(target: &MqttTarget) -> anyhow::Result<Self> {
        match &target.svid {
            Some(directory) => Self::from_files(directory.clone()),
            None => {
                let socket = workload_socket(target.workload_api.as_deref())?;
                let limit = Duration::from_secs(target.timeout);
                Self::from_agent(socket, target.spiffe_id.as_deref(), limit).await
            }
        }
    }

    fn from_files(directory: PathBuf) -> anyhow::Result<Self> {
        let identity = Identity::new(read_files(&directory)?);
        let follower = tokio::spawn(follow_files(directory, Arc::clone(&identity)));
        Ok(Self { identity, _follower: AbortOnDropHandle::new(follower) })
    }

    async fn from_agent(socket: PathBuf, wanted: Option<&str>, limit: Duration) -> anyhow::Result<Self> {
        let asked = timeout(limit, async { WorkloadClient::connect(&socket).await?.fetch_x509().await });
        let context = match asked.await {
            Ok(answer) => answer.map_err(|error| workload_error(&error))?,
            Err(_) => {
                return Err(failure(
                    exit::UNAVAILABLE,
                    format!("the agent at {} does not answer", socket.display()),
                ));
            }
        };
        let Some(svid) = context.svid(wanted) else {
            let issued: Vec<&str> = context.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
            let wanted = wanted.unwrap_or_default();
            return Err(failure(
                exit::NO,
                format!("no identity {wanted} issued, only {}", issued.join(", ")),
            ));
        };
        let identity = Identity::new(material(&context, svid)?);
        let follower = tokio::spawn(follow_agent(socket, svid.spiffe_id.clone(), Arc::clone(&identity)));
        Ok(Self { identity, _follower: AbortOnDropHandle::new(follower) })
    }
}

impl Identity {
    fn new(material: Material) -> Arc<Self> {
        let held = CurrentIdentity::new();
        held.set(material.svid);
        Arc::new(Self {
            held,
            bundles: RwLock::new(Arc::new(material.bundles)),
            clock: Clock::system(),
            renewals: watch::Sender::new(0),
        })
    }

    /// Its SPIFFE ID; none while it is withdrawn.
    pub(super) fn id(&self) -> Option<SpiffeId> {
        self.held.current().map(|svid| svid.id.clone())
    }

    /// Waits until there is an SVID that has not expired.
    pub(super) async fn usable(&self) {
        let mut renewals = self.renewals.subscribe();
        while self.held.current().is_none_or(|svid| svid.expires <= self.clock.now()) {
            if renewals.changed().await.is_err() {
                return;
            }
        }
    }

    /// How long ago the SVID expired, if it has.
    pub(super) fn expired_for(&self) -> Option<Duration> {
        let (svid, now) = (self.held.current()?, self.clock.now());
        (svid.expires <= now).then(|| now.since(svid.expires))
    }

    fn take(&self, material: Material) {
        *self.bundles.write() = Arc::new(material.bundles);
        // Connections are made anew for another SVID only: roots are read at every handshake.
        if self.held.current().is_none_or(|held| held.chain != material.svid.chain) {
            self.held.set(material.svid);
            self.renewals.send_modify(|count| *count += 1);
        }
    }
}

impl IdentitySource for Identity {
    fn current(&self) -> Option<Arc<SvidIdentity>> {
        self.held.current()
    }
}

impl TrustSource for Identity {
    fn bundles(&self) -> Arc<BundleSet> {
        Arc::clone(&self.bundles.read())
    }

    fn now(&self) -> UnixMillis {
        self.clock.now()
    }
}

/// Follows one identity: were another one taken in its place, the session would be another's too.
async fn follow_agent(socket: PathBuf, id: String, identity: Arc<Identity>) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        if matches!(watch_agent(&socket, &id, &identity, &mut backoff).await, ClientError::NoIdentity) {
            identity.held.clear();
            // Whether it waited or failed, the agent is asked again.
            drop(await_identity(&socket).await);
        }
        sleep(backoff.next_delay()).await;
    }
}

async fn watch_agent(socket: &Path, id: &str, identity: &Identity, backoff: &mut Backoff) -> ClientError {
    let watched = async { WorkloadClient::connect(socket).await?.watch_x509().await };
    let mut contexts = match watched.await {
        Ok(contexts) => std::pin::pin!(contexts),
        Err(error) => return error,
    };
    loop {
        let context = match contexts.next().await {
            Some(Ok(context)) => context,
            Some(Err(error)) => return error,
            None => return ClientError::Ended,
        };
        backoff.reset();
        match context.svids.iter().find(|svid| svid.spiffe_id == id).map(|svid| material(&context, svid)) {
            Some(Ok(material)) => identity.take(material),
            Some(Err(error)) => {
                tracing::warn!(%error, "svid of the Workload API is not usable, keeping the old one")
            }
            None => identity.held.clear(),
        }
    }
}

fn material(context: &X509Context, svid: &X509Svid) -> anyhow::Result<Material> {
    let chain = svid.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKey::from_pkcs8_der(&svid.key)?;
    let identity = SvidIdentity::new(chain, Arc::new(key))?;
    let mut bundles = BundleSet::new();
    for (domain, roots) in &context.federated {
        let name = domain.strip_prefix("spiffe://").unwrap_or(domain);
        bundles.insert(TrustDomain::new(name)?, roots.clone());
    }
    bundles.insert(identity.id.trust_domain().clone(), svid.bundle.clone());
    Ok(Material { svid: identity, bundles })
}

async fn follow_files(directory: PathBuf, identity: Arc<Identity>) {
    loop {
        let left = identity.held.current().map(|svid| svid.expires.since(identity.clock.now()));
        let pause = (left.unwrap_or_default() / 10).clamp(LOOK.0, LOOK.1);
        at(Instant::now().checked_add(pause)).await;
        match read_files(&directory) {
            Ok(material) => identity.take(material),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "keeping the svid that was read before")
            }
        }
    }
}

/// Reads `svid.pem`, `svid.key` and `bundle.pem`. Whether the certificate is a good one is left to
/// the broker to say: this command also shows what it refuses.
fn read_files(directory: &Path) -> anyhow::Result<Material> {
    // All three of one version, where they are swapped together.
    let base = directory.join("..data").canonicalize().unwrap_or_else(|_| directory.to_owned());
    let certificates = |name: &str| {
        let path = base.join(name);
        let pem =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display())).code(exit::IO)?;
        midge_pki::pem_decode_certs(&pem).with_context(|| path.display().to_string()).code(exit::CONFIG)
    };
    let chain = certificates("svid.pem")?;
    let key = PrivateKey::load(base.join("svid.key"));
    let key = key.code(if base.join("svid.key").exists() { exit::PERMISSION } else { exit::IO })?;
    let leaf = chain.first().context("svid.pem has no certificate").code(exit::CONFIG)?;
    let facts = CertificateFacts::parse(leaf).code(exit::CONFIG)?;
    let id = facts.uri_sans.iter().find_map(|uri| parse_spiffe_id(uri).ok());
    let id = id.context("the certificate in svid.pem has no SPIFFE ID").code(exit::CONFIG)?;
    let roots = certificates("bundle.pem")?.iter().map(|root| root.to_vec()).collect();
    let mut bundles = BundleSet::new();
    bundles.insert(id.trust_domain().clone(), roots);
    Ok(Material { svid: SvidIdentity { id, chain, key: Arc::new(key), expires: facts.not_after }, bundles })
}
