//! A broker with an identity server of its own, on free ports.

use crate::client::Client;
use async_trait::async_trait;
use broker_core::{AuthOutcome, AuthRequest};
use midge_audit::{AuditLog, AuditWriter};
use midge_broker::{
    Admission, Authenticator, Bound, Hub, LocalClaims, LocalOrigin, MqttConfig, Parts, Refusal, Server,
    Standing,
};
use midge_identity::{BundleSet, Proof, RootId, RootStanding, SpiffeId, TrustDomain, VerifiedPeer};
use midge_issuer::{Authority, Issuer, IssuerConfig};
use midge_pki::{
    CsrSubject, CurrentIdentity, FixedTrust, IdentitySource, PrivateKey, ServerExpectation,
    SvidClientVerifier, SvidIdentity, TrustSource, client_config, server_config,
};
use midge_policy::{Policy, Rule};
use midge_runtime::{CancellationToken, Clock};
use midge_store::{Store, StoreInfo};
use rustls::{ClientConfig, ClientConnection};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest wait for anything that should come soon, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn spiffe(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://plant/{path}")).unwrap()
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Lets everybody in until their entries or roots go; a local process is whom its user name says.
pub(crate) struct Door(watch::Sender<Standing>);

impl Door {
    /// Takes away every entry that a process was attested by.
    pub(crate) fn remove_entries(&self) {
        self.0.send_modify(|standing| standing.revision += 1);
    }

    /// Takes away every root.
    pub(crate) fn remove_roots(&self) {
        self.0.send_modify(|standing| standing.roots += 1);
    }
}

struct Named;

impl LocalClaims for Named {
    fn identity(&self, wanted: Option<&str>) -> Result<VerifiedPeer, Refusal> {
        let name = wanted.filter(|name| !name.is_empty()).unwrap_or("local");
        let id = SpiffeId::new(format!("spiffe://plant/app/{name}"));
        let id = id.map_err(|error| Refusal(error.to_string()))?;
        Ok(VerifiedPeer::attested(id, 1, 2, "entry".into(), [0; 32]))
    }
}

#[async_trait]
impl Admission for Door {
    fn admits(&self, id: &SpiffeId, proof: Option<&Proof>) -> Result<(), Refusal> {
        let standing = *self.0.borrow();
        let why = match proof {
            Some(Proof::Local { .. }) if standing.revision > 0 => "entry is gone",
            Some(Proof::X509Svid { .. }) if standing.roots > 0 => "root is gone",
            _ if id.path() == "/app/nobody" => "no entry",
            _ => return Ok(()),
        };
        Err(Refusal(why.into()))
    }

    fn root(&self, _: &TrustDomain, _: &RootId) -> RootStanding {
        if self.0.borrow().roots > 0 { RootStanding::Gone } else { RootStanding::Trusted }
    }

    async fn attest(&self, _origin: LocalOrigin) -> Result<Box<dyn LocalClaims>, Refusal> {
        Ok(Box::new(Named))
    }

    fn changes(&self) -> watch::Receiver<Standing> {
        self.0.subscribe()
    }
}

/// Knows a method that asks for the challenge back, in upper case, of `app/auth`.
struct Echo;

#[async_trait]
impl Authenticator for Echo {
    fn methods(&self) -> Vec<Arc<str>> {
        vec!["ECHO".into()]
    }

    async fn judge(&self, request: AuthRequest) -> AuthOutcome {
        let Some(challenge) = request.challenge else { return AuthOutcome::Continue("say it".into()) };
        if request.data.is_some_and(|data| data[..] == challenge.to_ascii_uppercase()) {
            let peer = VerifiedPeer::attested(spiffe("app/auth"), 1, 2, "entry".into(), [0; 32]);
            return AuthOutcome::Proven { peer, data: None };
        }
        AuthOutcome::Failed
    }
}

/// Everybody may do everything outside `$`; `app/ops` may read `$SYS`; `app/held` is not given `secret/#`.
fn policy() -> Arc<Policy> {
    let rule = |name: &str, id: &str, publish: &[&str], subscribe: &[&str]| Rule {
        name: name.into(),
        id: format!("spiffe://plant/{id}"),
        publish: publish.iter().map(|text| (*text).to_owned()).collect(),
        subscribe: subscribe.iter().map(|text| (*text).to_owned()).collect(),
        ..Rule::default()
    };
    let mut rules = vec![rule("open", "**", &["#"], &["#"]), rule("ops", "app/ops", &[], &["$SYS/#"])];
    rules.push(Rule { deny_receive: vec!["secret/#".into()], ..rule("hide", "app/held", &[], &["news"]) });
    Arc::new(Policy::compile(rules, 7).unwrap())
}

pub(crate) struct House {
    pub(crate) hub: Hub,
    pub(crate) tls: SocketAddr,
    pub(crate) tcp: SocketAddr,
    pub(crate) websocket_tls: SocketAddr,
    pub(crate) websocket_loopback: SocketAddr,
    pub(crate) unix: PathBuf,
    pub(crate) door: Arc<Door>,
    issuer: Issuer,
    trust: Arc<dyn TrustSource>,
    token: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    /// Where it stores what it has to.
    store: Option<Store>,
    directory: TempDir,
    writer: Option<AuditWriter>,
    // A policy source that ends would end the server.
    _policy: watch::Sender<Arc<Policy>>,
}

impl House {
    pub(crate) async fn open(change: impl FnOnce(&mut MqttConfig)) -> Self {
        Self::built(change, false).await
    }

    /// One that stores what it has to.
    pub(crate) async fn open_stored(change: impl FnOnce(&mut MqttConfig)) -> Self {
        Self::built(change, true).await
    }

    async fn built(change: impl FnOnce(&mut MqttConfig), is_stored: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let issuer = issuer(&directory, clock.clone()).await;
        let mut bundles = BundleSet::new();
        bundles.insert(TrustDomain::new("plant").unwrap(), issuer.roots());
        let now = clock.clone();
        let trust: Arc<dyn TrustSource> = Arc::new(FixedTrust::new(bundles, move || now.now()));
        let identity = minted(&issuer, "broker");
        let tls = server_config(identity, SvidClientVerifier::required(Arc::clone(&trust)), &[]);
        let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut config = MqttConfig {
            tls: any,
            tcp: any,
            websocket_tls: any,
            websocket_loopback: any,
            unix: Some(directory.path().join("mqtt.sock")),
            sys_interval_secs: 0,
            ..MqttConfig::default()
        };
        let unix = directory.path().join("mqtt.sock");
        change(&mut config);
        let bound = Bound::bind(&config).await.unwrap();
        let (audit, writer) = AuditLog::open(&directory.path().join("audit.jsonl")).unwrap();
        let (policy_sender, policy) = watch::channel(policy());
        let facts = Arc::new(|| vec![("lease/until", "never".to_owned())]);
        let (door, trust_source) = (Arc::new(Door(watch::Sender::default())), Arc::clone(&trust));
        let admission = Arc::clone(&door) as Arc<dyn Admission>;
        let store = is_stored.then(|| store(&directory, "mqtt.db"));
        let parts = Parts {
            admission,
            policy,
            tls,
            trust: trust_source,
            clock,
            audit,
            store: store.clone(),
            authenticator: Some(Arc::new(Echo)),
            facts,
        };
        let server = Server::open(&config, parts).await.unwrap();
        let (hub, token) = (server.hub(), CancellationToken::new());
        let address = |address: Option<SocketAddr>| address.unwrap();
        Self {
            hub,
            tls: address(bound.tls_address),
            tcp: address(bound.tcp_address),
            websocket_tls: address(bound.websocket_tls_address),
            websocket_loopback: address(bound.websocket_loopback_address),
            unix,
            door,
            issuer,
            trust,
            task: tokio::spawn(server.serve(bound, token.clone())),
            token,
            store,
            directory,
            writer: Some(writer),
            _policy: policy_sender,
        }
    }

    /// Lets the disk be full, or have room again.
    pub(crate) async fn set_disk_full(&self, is_full: bool) {
        self.store().set_size_max(is_full.then_some(1)).await.unwrap();
    }

    /// Where it stores what it has to.
    pub(crate) fn store(&self) -> Store {
        self.store.clone().unwrap()
    }

    /// What a client of this name has for mTLS.
    fn tls_config(&self, app: &str) -> Arc<ClientConfig> {
        let identity = minted(&self.issuer, &format!("app/{app}"));
        let expected = ServerExpectation::Id(spiffe("broker"));
        client_config(Some(identity), Arc::clone(&self.trust), expected)
    }

    /// The first bytes of a handshake, to be sent as often as one likes: the broker cannot know.
    pub(crate) fn client_hello(&self) -> Vec<u8> {
        let name = "127.0.0.1".to_owned().try_into().unwrap();
        let mut bytes = Vec::new();
        let mut connection = ClientConnection::new(self.tls_config("hello"), name).unwrap();
        while connection.wants_write() {
            connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// A connection over mTLS whose handshake is done.
    pub(crate) async fn shaken(&self, address: SocketAddr, app: &str) -> TlsStream<TcpStream> {
        let config = self.tls_config(app);
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = "127.0.0.1".to_owned().try_into().unwrap();
        TlsConnector::from(config).connect(name, stream).await.unwrap()
    }

    /// A client over mTLS.
    pub(crate) async fn tls_client(&self, app: &str) -> Client<TlsStream<TcpStream>> {
        Client::open(self.shaken(self.tls, app).await, app).await
    }

    /// A client on the loopback listener.
    pub(crate) async fn tcp_client(&self, app: &str) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.tcp).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client::open(stream, app).await
    }

    /// A connection to the Unix socket.
    pub(crate) async fn unix(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("mqtt.sock")).await.unwrap()
    }

    /// Stops the broker and returns the records of its audit log.
    pub(crate) async fn close(mut self) -> Vec<serde_json::Value> {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
        drop(self.hub);
        self.writer.take();
        let text = std::fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn store(directory: &TempDir, name: &str) -> Store {
    Store::open(directory.path().join(name), &StoreInfo::new("standalone", "plant")).unwrap()
}

async fn issuer(directory: &TempDir, clock: Clock) -> Issuer {
    let store = store(directory, "db");
    let config = IssuerConfig::new(TrustDomain::new("plant").unwrap(), Authority::SelfSigned, None);
    Issuer::open(config, store, clock, directory.path().join("keys")).await.unwrap()
}

fn minted(issuer: &Issuer, path: &str) -> Arc<dyn IdentitySource> {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_der(Some(&spiffe(path)), CsrSubject::default()).unwrap();
    let svid = issuer.mint_svid(&csr, None).unwrap();
    let chain = svid.chain.into_iter().map(Into::into).collect();
    let current = CurrentIdentity::new();
    current.set(SvidIdentity::new(chain, Arc::new(key)).unwrap());
    Arc::new(current)
}
