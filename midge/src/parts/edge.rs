//! `midge edge`: everything of one box in one process.

use super::admin::AdminSocket;
use super::admission::Door;
use super::audit_stream::stream;
use super::data_dir::{DataDir, absolute, audit_log};
use super::desk::EdgeDesk;
use super::edge_cloud::{CloudSide, LinkView, Reports, SpoolHandle};
use super::policy::{FileRules, PolicyHandle, PolicyParts, PolicyTask, file_rules, policy_metrics};
use super::problems::{Condition, Problem, Problems};
use super::service::{Desk, Service};
use super::trail::Trail;
use super::upstream::LocalUpstream;
use super::{audit, elapsed_ms, http, limits, open};
use crate::config::EdgeConfig;
use crate::exit::{self, WithCode};
use anyhow::Context as _;
use event_bus::{BusStatus, EventBus, EventBusConfig, EventBusHandle, EventBusParts, NoCloud, UpwardSink};
use midge_agent::{Agent, AgentConfig, Upstream as _};
use midge_api::midge::v1::Listener;
use midge_audit::{AuditLog, AuditWriter};
use midge_broker::{Bound, Facts, Hub, Parts, Server};
use midge_identity::{SpiffeId, TrustDomain, broker_id, event_bus_id, node_id};
use midge_issuer::{Authority, Issuer, IssuerConfig};
use midge_pki::{IdentitySource, SvidClientVerifier, TrustSource};
use midge_runtime::{CancellationToken, Clock, Metrics, ServiceNotifier, Supervisor};
use midge_store::Store;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Time the tasks have to end after a stop: clients get DISCONNECT, the store is closed.
const GRACE: Duration = Duration::from_secs(5);

/// What every part of the box shares.
pub(crate) struct EdgeBox {
    pub(crate) config: EdgeConfig,
    pub(crate) id: SpiffeId,
    pub(crate) store: Store,
    /// Sessions and messages: what changes with every message has a file and a thread of its own.
    pub(crate) mqtt_store: Store,
    pub(crate) issuer: Issuer,
    pub(crate) clock: Clock,
    pub(crate) audit: AuditLog,
    pub(crate) trail: Arc<Trail>,
    pub(crate) problems: Problems,
    pub(crate) started: Instant,
}

/// Runs the box until it is asked to stop.
pub(crate) async fn run(config: EdgeConfig) -> anyhow::Result<()> {
    let started = Instant::now();
    let own = Some(config.trust_domain.as_str()).filter(|_| !config.mqtt.federates_with.is_empty());
    let rules = file_rules(&config.policy, own).await.code(exit::CONFIG)?;
    limits::raise_open_files();
    let dir = DataDir::prepare(&config.data_dir, &config.run_dir())?;
    // Bound before anything is made or served: a port in use is an error of the start.
    let bound = Bound::bind(&config.mqtt).await?;
    let endpoints = http::bind(config.http.address).await?;
    let role = if config.cloud.is_some() { "edge" } else { "standalone" };
    let store = dir.store(role, &config.trust_domain)?;
    dir.claim(&store, &config.node).await?;
    let mqtt_store = dir.mqtt_store(&config.trust_domain)?;
    let admin = AdminSocket::bind(&config.admin_socket())?;
    let clock = Clock::system();
    let (audit, audit_writer) = audit::open(&config.data_dir, &config.audit, &clock)?;
    let trail = Arc::new(Trail::new(audit.clone(), clock.clone()));
    let issuer_config = issuer_config(&config, Arc::clone(&trail))?;
    let issuer = Issuer::open(issuer_config, store.clone(), clock.clone(), dir.keys()).await;
    let issuer = issuer.with_context(|| format!("cannot start with {}", config.data_dir.display()))?;
    let id = node_id(issuer.trust_domain(), &config.node)?;
    let problems = Problems::default();
    let node = EdgeBox { config, id, store, mqtt_store, issuer, clock, audit, trail, problems, started };
    if node.config.open_to_own_uid {
        open::allow_own_uid(&node).await?;
    } else {
        open::close(&node).await?;
    }
    node.serve(rules, admin, bound, endpoints, audit_writer).await
}

fn issuer_config(config: &EdgeConfig, trail: Arc<Trail>) -> anyhow::Result<IssuerConfig> {
    let authority = if config.cloud.is_some() { Authority::Upstream } else { Authority::SelfSigned };
    let trust_domain = TrustDomain::new(&config.trust_domain).code(exit::CONFIG)?;
    Ok(IssuerConfig {
        ca_ttl: Duration::from_secs(config.issuer.ca_ttl_secs.into()),
        svid_ttl: Duration::from_secs(config.issuer.x509_svid_ttl_secs.into()),
        witness: Some(trail),
        ..IssuerConfig::new(trust_domain, authority, Some(config.node.clone()))
    })
}

impl EdgeBox {
    async fn serve(
        self,
        files: FileRules,
        admin: AdminSocket,
        bound: Bound,
        endpoints: Option<TcpListener>,
        audit_writer: AuditWriter,
    ) -> anyhow::Result<()> {
        let mut tasks = Supervisor::new();
        let token = tasks.token();
        let listeners = self.listeners(&bound, endpoints.as_ref());
        let (upstream, views) = LocalUpstream::new(self.issuer.clone(), self.id.clone());
        let open_uid = self.config.open_to_own_uid.then(open::own_uid);
        let others = self.config.mqtt.federates_with.iter().map(TrustDomain::new);
        let trust = Arc::new(self.issuer.trust_with(others.collect::<Result<Vec<_>, _>>()?));
        let (door, announcements) =
            Door::new((self.issuer.clone(), self.id.clone()), Arc::clone(&trust), upstream.view(), open_uid);
        let spool = SpoolHandle::default();
        let bus = self.event_bus(&bound, &spool, &mut tasks).await?;
        let cloud = CloudSide::open(&self, bus.clone(), spool).await?;
        let rules = cloud.rules();
        let handed = rules.borrow().clone();
        let (policy_task, follower, policy) = PolicyTask::new(
            (&self.config.policy, files),
            &self.issuer.view().entries,
            &handed,
            PolicyParts {
                problems: self.problems.clone(),
                clock: self.clock.clone(),
                trail: Some(Arc::clone(&self.trail)),
            },
        )
        .await;
        let server = self.server(Arc::new(door), trust, policy.policy.clone()).await.code(exit::IO)?;
        policy.watchers.attach(server.hub());
        let agent = AgentConfig::new(self.config.workload_socket());
        let agent = Agent::bind(agent, Arc::new(upstream), self.clock.clone(), token.child_token());
        let agent = agent.code(exit::UNAVAILABLE)?;

        let condition = self.condition(server.hub());
        self.serve_endpoints(endpoints, &condition, (&agent, &policy, cloud.link()), &mut tasks);
        let (issuer, stop) = (self.issuer.clone(), token.clone());
        tasks.spawn("issuer", async move { Ok(midge_issuer::run(issuer, stop).await?) });
        tasks.spawn("agent-view", until(token.clone(), views.run()));
        tasks.spawn("admission", until(token.clone(), announcements.run()));
        tasks.spawn("policy-clerk", policy_task.clerk().run(token.clone()));
        tasks.spawn("policy-files", until(token.clone(), follower.run()));
        tasks.spawn("policy", until(token.clone(), policy_task.run(self.issuer.subscribe(), rules)));
        let stop = token.clone();
        tasks.spawn("agent", async move {
            let served = agent.serve().await;
            // When the process stops, its feed of entries may end before it has seen that.
            if stop.is_cancelled() { Ok(()) } else { Ok(served?) }
        });
        let managed = self.config.cloud.is_some();
        let (node, subscribe_modes) = (self.config.node.clone(), self.config.mqtt.subscribe_mode);
        let desk = Box::new(EdgeDesk { bus, link: cloud.link(), managed, node, policy, subscribe_modes });
        let service = self.service(condition, desk, listeners, token.clone());
        tasks.spawn(
            "admin",
            admin.serve(self.issuer.clone(), service, Arc::clone(&self.trail), token.clone()),
        );
        if self.config.audit.stream {
            tasks.spawn("audit-stream", until(token.clone(), stream(&self.audit, server.hub())));
        }
        tasks.spawn("mqtt", server.serve(bound, token.clone()));
        tasks.spawn("cloud-channel", cloud.run(token));

        ServiceNotifier::from_env().ready();
        tracing::info!(node = %self.id, ms = elapsed_ms(self.started), "serving");
        let ended = tasks.run_until_shutdown(GRACE).await;
        self.mqtt_store.close().await.code(exit::IO)?;
        self.store.close().await.code(exit::IO)?;
        audit::stopped(&self.audit, &self.clock);
        drop(self);
        drop(audit_writer);
        ended
    }

    fn condition(&self, hub: Hub) -> Condition {
        Condition {
            problems: self.problems.clone(),
            issuer: self.issuer.clone(),
            store: self.store.clone(),
            hub: Some(hub),
            audit: self.audit.clone(),
        }
    }

    fn serve_endpoints(
        &self,
        listener: Option<TcpListener>,
        condition: &Condition,
        (agent, policy, link): (&Agent, &PolicyHandle, Option<LinkView>),
        tasks: &mut Supervisor,
    ) {
        let health = http::health(condition);
        let token = tasks.token();
        tasks.spawn("watchdog", ServiceNotifier::from_env().run_watchdog(Arc::clone(&health), token.clone()));
        let Some(listener) = listener else { return };
        let metrics = Arc::new(Metrics::new());
        http::issuer_metrics(&metrics, condition);
        if let Some(hub) = &condition.hub {
            http::broker_metrics(&metrics, hub, &self.audit);
        }
        if let Some(link) = &link {
            http::cloud_metrics(&metrics, link);
        }
        agent.register_metrics(&metrics);
        policy_metrics(&metrics, policy);
        let router = midge_runtime::endpoints::router(health, metrics);
        tasks.spawn("http", midge_runtime::endpoints::serve(listener, router, token));
    }

    async fn event_bus(
        &self,
        bound: &Bound,
        spool: &SpoolHandle,
        tasks: &mut Supervisor,
    ) -> anyhow::Result<Option<EventBusHandle>> {
        let Some(address) = bound.tls_address.filter(|_| self.config.event_bus.enabled) else {
            return Ok(None);
        };
        let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
        let (trust_domain, node) = (self.issuer.trust_domain(), &self.config.node);
        let broker_id = broker_id(trust_domain, node)?;
        let config =
            EventBusConfig::new(SocketAddr::new(ip, address.port()), broker_id, self.config.node.clone());
        let up: Arc<dyn UpwardSink> = match &self.config.cloud {
            Some(_) => Arc::new(Reports(spool.subscribe())),
            None => Arc::new(NoCloud),
        };
        let parts = EventBusParts {
            identity: self.issuer.builtin_identity(&event_bus_id(trust_domain, node)?)?,
            trust: Arc::new(self.issuer.clone()),
            store: self.store.clone(),
            clock: self.clock.clone(),
            up,
        };
        let bus = EventBus::open(config, parts).await?;
        let handle = bus.handle();
        let token = tasks.token();
        tasks.spawn("event-bus", async move {
            bus.run(token).await;
            Ok(())
        });
        let (status, problems) = (handle.status(), self.problems.clone());
        tasks.spawn("event-bus-status", until(tasks.token(), follow_bus(status, problems)));
        Ok(Some(handle))
    }

    async fn server(
        &self,
        door: Arc<Door>,
        trust: Arc<dyn TrustSource>,
        policy: watch::Receiver<Arc<midge_policy::Policy>>,
    ) -> anyhow::Result<Server> {
        let broker_id = broker_id(self.issuer.trust_domain(), &self.config.node)?;
        let identity: Arc<dyn IdentitySource> = self.issuer.builtin_identity(&broker_id)?;
        let tls = midge_pki::server_config(identity, SvidClientVerifier::required(Arc::clone(&trust)), &[]);
        let (clock, audit, store) = (self.clock.clone(), self.audit.clone(), Some(self.mqtt_store.clone()));
        let (authenticator, facts) = (None, self.facts());
        Server::open(
            &self.config.mqtt,
            Parts { admission: door, policy, tls, trust, clock, audit, store, authenticator, facts },
        )
        .await
    }

    /// Returns what the identity server adds to `$SYS`.
    fn facts(&self) -> Facts {
        let issuer = self.issuer.clone();
        Arc::new(move || {
            let snapshot = issuer.snapshot();
            let lease = snapshot.lease;
            let until = lease.until.map_or_else(|| "never".to_owned(), |until| until.to_string());
            vec![
                ("lease/until", until),
                ("lease/reason", lease.reason.to_string()),
                ("lease/warning", lease.warning.to_string()),
                ("entries/count", snapshot.entries.to_string()),
            ]
        })
    }

    fn service(
        &self,
        condition: Condition,
        desk: Box<dyn Desk>,
        listeners: Vec<Listener>,
        stopping: CancellationToken,
    ) -> Service {
        Service {
            role: if self.config.cloud.is_some() { "edge" } else { "standalone" },
            node: self.config.node.clone(),
            issuer: self.issuer.clone(),
            hub: condition.hub.clone(),
            desk,
            condition,
            audit: (self.audit.clone(), audit_log(&self.config.data_dir)),
            trail: Arc::clone(&self.trail),
            listeners,
            started: self.started,
            stopping,
        }
    }

    fn listeners(&self, bound: &Bound, endpoints: Option<&TcpListener>) -> Vec<Listener> {
        let address = |kind: &str, address: String| Listener { kind: kind.into(), address };
        let mut listeners = Vec::new();
        listeners.extend(bound.tls_address.map(|tls| address("tls", tls.to_string())));
        listeners.extend(bound.tcp_address.map(|tcp| address("tcp", tcp.to_string())));
        listeners.extend(bound.unix_path.as_ref().map(|path| address("unix", absolute(path))));
        let websocket = [
            ("websocket-tls", bound.websocket_tls_address),
            ("websocket-loopback", bound.websocket_loopback_address),
        ];
        listeners.extend(
            websocket.into_iter().filter_map(|(kind, at)| at.map(|at| address(kind, at.to_string()))),
        );
        listeners.push(address("workload-api", absolute(&self.config.workload_socket())));
        let http = endpoints.and_then(|listener| listener.local_addr().ok());
        listeners.extend(http.map(|http| address("http", http.to_string())));
        listeners
    }
}

/// Shows what keeps the event-bus from its work.
async fn follow_bus(mut status: watch::Receiver<BusStatus>, problems: Problems) -> anyhow::Result<()> {
    loop {
        let trouble = status.borrow_and_update().last_error.clone();
        let problem = trouble.map(|what| Problem {
            what: format!("event-bus: {what}"),
            remedy: "devices are not served meanwhile; it is tried again".into(),
        });
        problems.set("event-bus", problem);
        status.changed().await?;
    }
}

/// Runs a follower until the process stops; it has nothing to clean up. What it follows may stop before it.
async fn until(
    token: CancellationToken,
    task: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    match token.run_until_cancelled(task).await {
        Some(Err(error)) if !token.is_cancelled() => Err(error.context("an internal feed ended")),
        _ => Ok(()),
    }
}
