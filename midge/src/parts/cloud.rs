//! `midge cloud`: root CA, nodes, entries, devices, and the channel's cloud end.

use super::admin::AdminSocket;
use super::data_dir::{DataDir, audit_log};
use super::desk::CloudDesk;
use super::node_audit::NodeAudit;
use super::problems::{Condition, Problems};
use super::service::Service;
use super::trail::Trail;
use super::{audit, elapsed_ms, http, limits};
use crate::config::CloudConfig;
use crate::exit::{self, WithCode, failure};
use anyhow::Context as _;
use cloud_bridge::cloudhub::{CloudHub, CloudHubConfig, CloudHubParts, HubError, SyncLogs};
use midge_api::midge::v1::Listener;
use midge_identity::TrustDomain;
use midge_issuer::{Authority, Issuer, IssuerConfig};
use midge_runtime::{Clock, Metrics, ServiceNotifier, Supervisor};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time the tasks have to end after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the cloud until it is asked to stop.
pub(crate) async fn run(config: CloudConfig) -> anyhow::Result<()> {
    let started = Instant::now();
    limits::raise_open_files();
    let dir = DataDir::prepare(&config.data_dir, &config.run_dir())?;
    let endpoints = http::bind(config.http.address).await?;
    let store = dir.store("cloud", &config.trust_domain)?;
    let admin = AdminSocket::bind(&config.admin_socket())?;
    let clock = Clock::system();
    let (log, audit_writer) = audit::open(&config.data_dir, &config.audit, &clock)?;
    let logs = SyncLogs::open(store.clone()).await.code(exit::IO)?;
    let trail = Arc::new(Trail::new(log.clone(), clock.clone()));
    let issuer_config = issuer_config(&config, logs.clone(), Arc::clone(&trail))?;
    let issuer = Issuer::open(issuer_config, store.clone(), clock.clone(), dir.keys()).await;
    let issuer = issuer.with_context(|| format!("cannot start with {}", config.data_dir.display()))?;
    let problems = Problems::default();
    let bytes_max = config.node_audit_bytes_max;
    let node_audit = NodeAudit::open(&config.data_dir, bytes_max, clock.clone(), problems.clone());
    let node_audit = node_audit.code(exit::IO)?;
    let parts = CloudHubParts {
        issuer: issuer.clone(),
        logs,
        store: store.clone(),
        clock: clock.clone(),
        audit: Some(Arc::new(node_audit.clone())),
    };
    let hub = open_hub(&config, parts).await?;

    let mut tasks = Supervisor::new();
    let token = tasks.token();
    let mut listeners = vec![
        Listener { kind: "channel".into(), address: hub.websocket_addr()?.to_string() },
        Listener { kind: "bootstrap".into(), address: hub.bootstrap_addr()?.to_string() },
    ];
    let condition =
        Condition { problems, issuer: issuer.clone(), store: store.clone(), hub: None, audit: log.clone() };
    let health = http::health(&condition);
    tasks.spawn("watchdog", ServiceNotifier::from_env().run_watchdog(Arc::clone(&health), token.clone()));
    if let Some(listener) = endpoints {
        listeners.push(Listener { kind: "http".into(), address: listener.local_addr()?.to_string() });
        let metrics = Arc::new(Metrics::new());
        http::issuer_metrics(&metrics, &condition);
        http::node_audit_metrics(&metrics, &node_audit);
        let router = midge_runtime::endpoints::router(health, metrics);
        tasks.spawn("http", midge_runtime::endpoints::serve(listener, router, token.clone()));
    }
    let (rotation, stop) = (issuer.clone(), token.clone());
    tasks.spawn("issuer", async move { Ok(midge_issuer::run(rotation, stop).await?) });
    let (serving, stop) = (hub.clone(), token.clone());
    tasks.spawn("cloudhub", async move { serving.run(stop).await });
    let service = Service {
        role: "cloud",
        node: String::new(),
        issuer: issuer.clone(),
        hub: None,
        desk: Box::new(CloudDesk { hub, issuer: issuer.clone(), node_audit }),
        condition,
        audit: (log.clone(), audit_log(&config.data_dir)),
        trail: Arc::clone(&trail),
        listeners,
        started,
        stopping: token.clone(),
    };
    tasks.spawn("admin", admin.serve(issuer, service, trail, token));
    ServiceNotifier::from_env().ready();
    tracing::info!(trust_domain = config.trust_domain, ms = elapsed_ms(started), "serving");
    let ended = tasks.run_until_shutdown(GRACE).await;
    store.close().await.code(exit::IO)?;
    audit::stopped(&log, &clock);
    drop(audit_writer);
    ended
}

async fn open_hub(config: &CloudConfig, parts: CloudHubParts) -> anyhow::Result<CloudHub> {
    let addresses = CloudHubConfig {
        websocket: config.channel,
        bootstrap: config.bootstrap,
        ..CloudHubConfig::default()
    };
    CloudHub::open(addresses, parts).await.map_err(|error| {
        let code = if matches!(error, HubError::Bind { .. }) { exit::UNAVAILABLE } else { exit::INTERNAL };
        failure(code, error.to_string())
    })
}

fn issuer_config(config: &CloudConfig, logs: SyncLogs, trail: Arc<Trail>) -> anyhow::Result<IssuerConfig> {
    let secs = |secs: u32| Duration::from_secs(secs.into());
    let trust_domain = TrustDomain::new(&config.trust_domain).code(exit::CONFIG)?;
    Ok(IssuerConfig {
        ca_ttl: secs(config.issuer.ca_ttl_secs),
        svid_ttl: secs(config.issuer.x509_svid_ttl_secs),
        node_svid_ttl: secs(config.node_svid_ttl_secs),
        intermediate_ttl: secs(config.edge_ca_ttl_secs),
        mutation_log: Some(Arc::new(logs)),
        witness: Some(trail),
        ..IssuerConfig::new(trust_domain, Authority::SelfSigned, None)
    })
}
