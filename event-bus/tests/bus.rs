//! The event bus at a real broker, over mutual TLS, with the default policy.
#![expect(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use bridge_core::{Change, DeviceId, Extent, Operation, UpwardItem};
use event_bus::{EventBus, EventBusConfig, EventBusHandle, EventBusParts, UpwardSink};
use midge_audit::AuditLog;
use midge_broker::{
    Admission, Bound, LocalClaims, LocalOrigin, MqttConfig, Parts, Refusal, Server, Standing,
};
use midge_identity::{BundleSet, Proof, RootId, RootStanding, SpiffeId, TrustDomain, UnixMillis};
use midge_issuer::{Authority, Issuer, IssuerConfig};
use midge_pki::{
    CsrSubject, CurrentIdentity, IdentitySource, PrivateKey, ServerExpectation, SvidClientVerifier,
    SvidIdentity, TrustSource, client_config, server_config,
};
use midge_policy::{DEFAULT_POLICY, Policy};
use midge_runtime::{CancellationToken, Clock};
use midge_store::{Store, StoreInfo};
use parking_lot::Mutex;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Everybody(watch::Sender<Standing>);

#[async_trait]
impl Admission for Everybody {
    fn admits(&self, _id: &SpiffeId, _proof: Option<&Proof>) -> Result<(), Refusal> {
        Ok(())
    }

    fn root(&self, _: &TrustDomain, _: &RootId) -> RootStanding {
        RootStanding::Trusted
    }

    async fn attest(&self, _origin: LocalOrigin) -> Result<Box<dyn LocalClaims>, Refusal> {
        Err(Refusal("no local listeners here".into()))
    }

    fn changes(&self) -> watch::Receiver<Standing> {
        self.0.subscribe()
    }
}

struct Trust(Issuer);

impl TrustSource for Trust {
    fn bundles(&self) -> Arc<BundleSet> {
        Arc::clone(&self.0.view().bundles)
    }

    fn now(&self) -> UnixMillis {
        self.0.now()
    }
}

/// Keeps what goes up; refuses when told to.
#[derive(Default)]
struct Reports {
    items: Mutex<Vec<UpwardItem>>,
    refusing: Mutex<bool>,
}

#[async_trait]
impl UpwardSink for Reports {
    async fn push(&self, item: UpwardItem) -> Result<(), String> {
        if *self.refusing.lock() {
            return Err("spool is full".into());
        }
        self.items.lock().push(item);
        Ok(())
    }
}

impl Reports {
    /// Reported values of a twin key, oldest first.
    fn values(&self, key: &str) -> Vec<String> {
        let value = |item: &UpwardItem| {
            item.content.pointer(&format!("/twin/{key}/actual/value"))?.as_str().map(str::to_owned)
        };
        self.items.lock().iter().filter_map(value).collect()
    }

    /// What applications have uploaded, oldest first.
    fn uploads(&self) -> Vec<(String, Value)> {
        let items = self.items.lock();
        let uploads = items.iter().filter(|item| item.route.operation == "upload");
        uploads.map(|item| (item.route.resource.clone(), item.content.clone())).collect()
    }
}

/// Lets apps upload.
const UPLOADS: &str = r#"
[[rule]]
name = "app-uploads"
id = "spiffe://{td}/edge/{node}/app/{app}"
publish = ["{app}/user/#", "$hw/events/upload/#"]
"#;

struct Box1 {
    issuer: Issuer,
    store: Store,
    broker: SocketAddr,
    reports: Arc<Reports>,
    bus: EventBusHandle,
    bus_identity: Arc<CurrentIdentity>,
    bus_task: JoinHandle<()>,
    stop_bus: CancellationToken,
    _server: JoinHandle<anyhow::Result<()>>,
    _directory: TempDir,
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://plant/edge/box-1{path}")).unwrap()
}

impl Box1 {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("db"), &StoreInfo::new("standalone", "plant")).unwrap();
        let config = IssuerConfig::new(
            TrustDomain::new("plant").unwrap(),
            Authority::SelfSigned,
            Some("box-1".into()),
        );
        let issuer =
            Issuer::open(config, store.clone(), Clock::system(), directory.path().join("keys")).await;
        let issuer = issuer.unwrap();
        let trust: Arc<dyn TrustSource> = Arc::new(Trust(issuer.clone()));
        let verifier = SvidClientVerifier::required(Arc::clone(&trust));
        let tls = server_config(issuer.builtin_identity(&id("/broker")).unwrap(), verifier, &[]);
        let mqtt = MqttConfig {
            tls: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            tcp: None,
            ..MqttConfig::default()
        };
        let bound = Bound::bind(&mqtt).await.unwrap();
        let broker = bound.tls_address.unwrap();
        let policy = Policy::from_toml_str(&format!("{DEFAULT_POLICY}{UPLOADS}"), "built-in").unwrap();
        let (audit, writer) = AuditLog::open(&directory.path().join("audit")).unwrap();
        // Dropping it waits for the server, which lives as long as the test.
        std::mem::forget(writer);
        let parts = Parts {
            admission: Arc::new(Everybody(watch::Sender::new(Standing::default()))),
            policy: watch::Sender::new(Arc::new(policy)).subscribe(),
            tls,
            trust,
            clock: Clock::system(),
            audit,
            store: None,
            authenticator: None,
            facts: Arc::new(Vec::new),
        };
        // The policy's sender would end the server with it.
        let (policy, receiver) = watch::channel(Arc::clone(&parts.policy.borrow()));
        let parts = Parts { policy: receiver, ..parts };
        let server = Server::open(&mqtt, parts).await.unwrap();
        let server = tokio::spawn(async move {
            let _policy = policy;
            server.serve(bound, CancellationToken::new()).await
        });
        let bus_identity = issuer.builtin_identity(&id("/event-bus")).unwrap();
        let reports = Arc::new(Reports::default());
        let (bus, stop_bus, bus_task) = start_bus(&issuer, &store, broker, &reports, &bus_identity).await;
        Self {
            issuer,
            store,
            broker,
            reports,
            bus,
            bus_identity,
            bus_task,
            stop_bus,
            _server: server,
            _directory: directory,
        }
    }

    async fn restart_bus(&mut self, before_start: impl AsyncFnOnce(&Self)) {
        self.stop_bus.cancel();
        (&mut self.bus_task).await.unwrap();
        before_start(self).await;
        let started =
            start_bus(&self.issuer, &self.store, self.broker, &self.reports, &self.bus_identity).await;
        (self.bus, self.stop_bus, self.bus_task) = started;
    }

    async fn connected(&self) {
        eventually("the bus is connected", || self.bus.status().borrow().connected).await;
    }

    fn client(&self, path: &str) -> Client {
        Client::connect(self, path)
    }
}

async fn start_bus(
    issuer: &Issuer,
    store: &Store,
    broker: SocketAddr,
    reports: &Arc<Reports>,
    identity: &Arc<CurrentIdentity>,
) -> (EventBusHandle, CancellationToken, JoinHandle<()>) {
    let parts = EventBusParts {
        identity: Arc::clone(identity) as Arc<dyn IdentitySource>,
        trust: Arc::new(Trust(issuer.clone())),
        store: store.clone(),
        clock: Clock::system(),
        up: Arc::clone(reports) as Arc<dyn UpwardSink>,
    };
    let config = EventBusConfig::new(broker, id("/broker"), "box-1");
    let bus = EventBus::open(config, parts).await.unwrap();
    let handle = bus.handle();
    let token = CancellationToken::new();
    let task = tokio::spawn(bus.run(token.clone()));
    (handle, token, task)
}

fn svid(issuer: &Issuer, id: &SpiffeId) -> SvidIdentity {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_der(Some(id), CsrSubject::default()).unwrap();
    let svid = issuer.mint_svid(&csr, None).unwrap();
    SvidIdentity::new(svid.chain.into_iter().map(Into::into).collect(), Arc::new(key)).unwrap()
}

/// A mapper or an app.
struct Client {
    client: AsyncClient,
    received: mpsc::Receiver<(String, Value)>,
    acks: mpsc::Receiver<Packet>,
}

impl Client {
    fn connect(of: &Box1, path: &str) -> Self {
        let identity = CurrentIdentity::new();
        identity.set(svid(&of.issuer, &id(path)));
        let expected = ServerExpectation::Id(id("/broker"));
        let tls = client_config(Some(Arc::new(identity)), Arc::new(Trust(of.issuer.clone())), expected);
        let mut options = MqttOptions::new("client", "127.0.0.1", of.broker.port());
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        let (client, mut events) = AsyncClient::new(options, 64);
        let (messages, received) = mpsc::channel(1024);
        let (ack, acks) = mpsc::channel(1024);
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::Publish(publish)) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                        let payload = serde_json::from_slice(&publish.payload).unwrap();
                        messages.send((topic, payload)).await.unwrap();
                    }
                    Event::Incoming(packet @ (Packet::SubAck(_) | Packet::PubAck(_))) => {
                        ack.send(packet).await.unwrap();
                    }
                    _ => {}
                }
            }
        });
        Self { client, received, acks }
    }

    async fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        self.ack().await;
    }

    async fn publish(&mut self, topic: &str, payload: &str) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload.to_owned()).await.unwrap();
        self.ack().await;
    }

    async fn ack(&mut self) {
        tokio::time::timeout(Duration::from_secs(10), self.acks.recv()).await.unwrap().unwrap();
    }

    async fn next(&mut self) -> (String, Value) {
        tokio::time::timeout(Duration::from_secs(10), self.received.recv()).await.unwrap().unwrap()
    }

    /// The next message on a topic; others before it are skipped.
    async fn next_on(&mut self, topic: &str) -> Value {
        loop {
            let (on, payload) = self.next().await;
            if on == topic {
                return payload;
            }
        }
    }
}

fn led() -> DeviceId {
    "led".parse().unwrap()
}

fn change(resource: &str, operation: Operation, content: Value) -> Change {
    Change { revision: 1, resource: resource.into(), operation, content }
}

fn on(value: &str) -> Change {
    let twin = json!({"twin": {"power": {"expected": {"value": value}}}});
    change("device/default/led/twin", Operation::Update, twin)
}

const TOPICS: &str = "$hw/events/device/led";

#[tokio::test(flavor = "multi_thread")]
async fn a_mapper_reports_and_is_told_what_is_desired() {
    let node = Box1::start().await;
    node.connected().await;
    let device = change("device/default/led", Operation::Insert, json!({"id": "default/led", "uid": "u"}));
    let strange = change("device/default/fan", Operation::Insert, json!({"attributes": 5}));
    let skipped = node.bus.apply(vec![device, strange, on("OFF")], Extent::Changes).await.unwrap();
    assert_eq!(skipped.into_keys().collect::<Vec<_>>(), ["device/default/fan"]);

    let mut mapper = node.client("/mapper/led");
    for filter in ["state/update/result", "twin/+/result", "twin/update/delta", "twin/update/document"] {
        mapper.subscribe(&format!("{TOPICS}/{filter}")).await;
    }
    mapper.publish(&format!("{TOPICS}/state/update"), r#"{"event_id":"s","state":"online"}"#).await;
    let (topic, result) = mapper.next().await;
    assert_eq!(
        (topic.as_str(), &result["device"]["state"]),
        (&*format!("{TOPICS}/state/update/result"), &json!("online"))
    );
    mapper.publish(&format!("{TOPICS}/twin/get"), r#"{"event_id":"g"}"#).await;
    let result = mapper.next_on(&format!("{TOPICS}/twin/get/result")).await;
    assert_eq!(
        (&result["event_id"], &result["twin"]["power"]["expected"]["value"]),
        (&json!("g"), &json!("OFF"))
    );

    node.bus.apply(vec![on("ON")], Extent::Changes).await.unwrap();
    let delta = mapper.next_on(&format!("{TOPICS}/twin/update/delta")).await;
    assert_eq!(delta["delta"], json!({"power": "ON"}));
    mapper
        .publish(
            &format!("{TOPICS}/twin/update"),
            r#"{"event_id":"u","twin":{"power":{"actual":{"value":"ON"}}}}"#,
        )
        .await;
    let result = mapper.next_on(&format!("{TOPICS}/twin/update/result")).await;
    assert_eq!(
        (&result["event_id"], &result["twin"]["power"]["actual"]["value"]),
        (&json!("u"), &json!("ON"))
    );
    eventually("reported", || node.reports.values("power") == ["ON"]).await;
    let states: Vec<String> =
        node.reports.items.lock().iter().map(|item| item.route.resource.clone()).collect();
    assert!(states.contains(&"device/default/led/state/update".to_owned()), "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_topic_forms_lead_to_the_same_device() {
    let node = Box1::start().await;
    node.connected().await;
    node.bus
        .create_device(led(), String::new(), BTreeMap::from([("power".into(), "ON".into())]))
        .await
        .unwrap();
    let mut mapper = node.client("/mapper/led");
    mapper.subscribe("$hw/events/device/default/led/twin/+/result").await;
    mapper.publish("$hw/events/device/default/led/twin/get", r#"{"event_id":"n"}"#).await;
    let (topic, result) = mapper.next().await;
    assert_eq!(topic, "$hw/events/device/default/led/twin/get/result");
    assert_eq!(result["twin"]["power"]["expected"]["value"], "ON");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapper_of_no_device_is_told_404_and_another_hears_nothing() {
    let node = Box1::start().await;
    node.connected().await;
    node.bus.create_device(led(), String::new(), BTreeMap::new()).await.unwrap();
    let mut led_mapper = node.client("/mapper/led");
    led_mapper.subscribe(&format!("{TOPICS}/twin/+/result")).await;
    let mut fan_mapper = node.client("/mapper/fan");
    fan_mapper.subscribe("$hw/events/device/fan/twin/+/result").await;
    fan_mapper.publish("$hw/events/device/fan/twin/get", r#"{"event_id":"f"}"#).await;
    let (topic, answer) = fan_mapper.next().await;
    assert_eq!(topic, "$hw/events/device/fan/twin/get/result");
    assert_eq!((&answer["code"], &answer["event_id"]), (&json!(404), &json!("f")));
    led_mapper.publish(&format!("{TOPICS}/twin/get"), r#"{"event_id":"l"}"#).await;
    assert_eq!(led_mapper.next().await.1["event_id"], "l", "the other mapper's answer did not come here");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_the_bus_is_away_is_handled_when_it_is_back() {
    let mut node = Box1::start().await;
    node.connected().await;
    node.bus.create_device(led(), String::new(), BTreeMap::new()).await.unwrap();
    node.restart_bus(async |node| {
        let mut mapper = node.client("/mapper/led");
        for value in ["1", "2", "3"] {
            let update = json!({"twin": {"level": {"actual": {"value": value}}}}).to_string();
            mapper.publish(&format!("{TOPICS}/twin/update"), &update).await;
        }
    })
    .await;
    eventually("reported", || node.reports.values("level").last().map(String::as_str) == Some("3")).await;
    assert_eq!(node.bus.device(led()).await.unwrap().twin["level"].actual_value(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_of_the_svid_loses_no_message() {
    let node = Box1::start().await;
    node.connected().await;
    node.bus.create_device(led(), String::new(), BTreeMap::new()).await.unwrap();
    let mut mapper = node.client("/mapper/led");
    mapper.subscribe(&format!("{TOPICS}/twin/update/result")).await;
    for round in 0..60 {
        if round % 20 == 10 {
            node.bus_identity.set(svid(&node.issuer, &id("/event-bus")));
        }
        let update =
            json!({"event_id": round.to_string(), "twin": {"n": {"actual": {"value": round.to_string()}}}});
        mapper.publish(&format!("{TOPICS}/twin/update"), &update.to_string()).await;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let mut missing: std::collections::BTreeSet<String> = (0..60).map(|n| n.to_string()).collect();
    while !missing.is_empty() {
        let (_, result) = mapper.next().await;
        missing.remove(result["event_id"].as_str().unwrap());
    }
    let values = node.reports.values("n");
    assert_eq!(values.last().map(String::as_str), Some("59"));
    eventually("connected four times", || node.bus.status().borrow().connections == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_delays_and_loses_nothing() {
    let node = Box1::start().await;
    node.connected().await;
    node.bus.create_device(led(), String::new(), BTreeMap::new()).await.unwrap();
    *node.reports.refusing.lock() = true;
    let mut mapper = node.client("/mapper/led");
    mapper.publish(&format!("{TOPICS}/twin/update"), r#"{"twin":{"n":{"actual":{"value":"1"}}}}"#).await;
    eventually("shown", || node.bus.status().borrow().last_error.as_deref() == Some("spool is full")).await;
    *node.reports.refusing.lock() = false;
    eventually("reported", || node.reports.values("n").last().map(String::as_str) == Some("1")).await;
    eventually("shown no more", || node.bus.status().borrow().last_error.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_find_the_spool_failing_come_once_and_in_order() {
    let node = Box1::start().await;
    node.connected().await;
    *node.reports.refusing.lock() = true;
    let mut app = node.client("/app/a");
    app.publish("$hw/events/upload/x", "\"first\"").await;
    app.publish("a/user/b", "\"second\"").await;
    eventually("shown", || node.bus.status().borrow().last_error.as_deref() == Some("spool is full")).await;
    *node.reports.refusing.lock() = false;
    let both = [("$hw/events/upload/x", json!("\"first\"")), ("a/user/b", json!("\"second\""))];
    let both = both.map(|(topic, payload)| (topic.to_owned(), payload));
    eventually("uploaded", || node.reports.uploads().len() >= 2).await;
    app.publish("a/user/b", "\"third\"").await;
    eventually("uploaded", || node.reports.uploads().len() >= 3).await;
    assert_eq!(node.reports.uploads()[..2], both);
    eventually("shown no more", || node.bus.status().borrow().last_error.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_found_the_spool_failing_come_again_after_a_restart() {
    let mut node = Box1::start().await;
    node.connected().await;
    *node.reports.refusing.lock() = true;
    let mut app = node.client("/app/a");
    app.publish("$hw/events/upload/x", "\"kept\"").await;
    eventually("shown", || node.bus.status().borrow().last_error.as_deref() == Some("spool is full")).await;
    node.restart_bus(async |node| *node.reports.refusing.lock() = false).await;
    eventually("uploaded", || {
        node.reports.uploads() == [("$hw/events/upload/x".to_owned(), json!("\"kept\""))]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_of_a_box_without_cloud_keeps_devices() {
    let mut node = Box1::start().await;
    let desired = BTreeMap::from([("power".to_owned(), "ON".to_owned())]);
    node.bus.create_device(led(), "the light".into(), desired.clone()).await.unwrap();
    assert!(node.bus.create_device(led(), String::new(), BTreeMap::new()).await.is_err());
    assert!(node.bus.set_device("fan".parse().unwrap(), desired).await.is_err());
    let bad = BTreeMap::from([("po wer".to_owned(), "ON".to_owned())]);
    assert!(node.bus.create_device("fan".parse().unwrap(), String::new(), bad).await.is_err());
    node.restart_bus(async |_| ()).await;
    let devices = node.bus.devices().await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].twin["power"].expected_value(), Some("ON"));
    node.bus.delete_device(led()).await.unwrap();
    assert!(node.bus.device(led()).await.is_err());
}
