//! Health and metrics of a process.

use super::node_audit::NodeAudit;
use super::problems::Problems;
use crate::exit::{self, WithCode};
use anyhow::Context as _;
use midge_audit::AuditLog;
use midge_broker::Hub;
use midge_issuer::Issuer;
use midge_runtime::{CheckKind, Health, MetricKind, Metrics, Sample};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Binds the address of the health and metrics endpoints, if one is configured.
pub(crate) async fn bind(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (http.address); choose another address"))
        .code(exit::UNAVAILABLE)?;
    Ok(Some(listener))
}

/// Readiness: a CA that can sign. Degradation is told, and does not make the process unready.
pub(crate) fn health(issuer: &Issuer, problems: &Problems) -> Arc<Health> {
    let health = Health::new();
    let authority = issuer.clone();
    health.register_fn("authority", CheckKind::Readiness, move || match authority.snapshot().ca {
        Some(_) => Ok(()),
        None => Err("no CA yet: the box has not enrolled at its cloud".into()),
    });
    let problems = problems.clone();
    health.register_fn("degraded", CheckKind::Degradation, move || match problems.list().first() {
        Some(problem) => Err(problem.what.clone()),
        None => Ok(()),
    });
    Arc::new(health)
}

/// Registers the metrics of the identity server.
pub(crate) fn issuer_metrics(metrics: &Metrics, issuer: &Issuer) {
    let source = issuer.clone();
    metrics.collect_one(
        "midge_lease_seconds",
        "How long this process can act alone.",
        MetricKind::Gauge,
        move || source.snapshot().lease.remaining.as_secs_f64(),
    );
    let source = issuer.clone();
    metrics.collect_one("midge_entries", "Registration entries.", MetricKind::Gauge, move || {
        number(source.snapshot().entries)
    });
    let source = issuer.clone();
    metrics.collect_one("midge_degraded", "Problems of the identity server.", MetricKind::Gauge, move || {
        number(source.snapshot().degraded.len())
    });
}

/// Registers the metrics of the audit logs that nodes send up.
pub(crate) fn node_audit_metrics(metrics: &Metrics, audit: &NodeAudit) {
    let source = audit.clone();
    metrics.collect_one(
        "midge_node_audit_lines_total",
        "Lines of nodes' audit logs taken.",
        MetricKind::Counter,
        move || float(source.lines()),
    );
    let source = audit.clone();
    metrics.collect_one(
        "midge_node_audit_findings",
        "What is wrong with nodes' audit logs and was not accepted.",
        MetricKind::Gauge,
        move || float(source.findings()),
    );
}

/// Registers the metrics of the MQTT broker.
pub(crate) fn broker_metrics(metrics: &Metrics, hub: &Hub, audit: &AuditLog) {
    type Value = fn(&broker_core::Metrics) -> u64;
    let gauges: [(&str, &str, Value); 5] = [
        ("midge_mqtt_connections", "MQTT connections.", |m| m.connections),
        ("midge_mqtt_sessions", "MQTT sessions, parked ones included.", |m| m.sessions),
        ("midge_mqtt_subscriptions", "Subscriptions.", |m| m.subscriptions),
        ("midge_mqtt_retained_messages", "Retained messages.", |m| m.retained_messages),
        ("midge_mqtt_retained_bytes", "Bytes of retained messages.", |m| m.retained_bytes),
    ];
    let counters: [(&str, &str, Value); 3] = [
        ("midge_mqtt_connects_total", "Connections accepted.", |m| m.connects),
        ("midge_mqtt_messages_in_total", "Messages received from clients.", |m| m.messages_in),
        ("midge_mqtt_messages_out_total", "Messages sent to clients.", |m| m.messages_out),
    ];
    let kinds = gauges
        .map(|row| (row, MetricKind::Gauge))
        .into_iter()
        .chain(counters.map(|row| (row, MetricKind::Counter)));
    for ((name, help, value), kind) in kinds {
        let hub = hub.clone();
        metrics.collect_one(name, help, kind, move || float(value(&hub.metrics())));
    }
    let source = hub.clone();
    metrics.collect(
        "midge_mqtt_denials_total",
        "Requests denied by policy.",
        MetricKind::Counter,
        move || {
            let denials = source.metrics().denials;
            let kinds = [
                ("connect", denials.connect),
                ("publish", denials.publish),
                ("subscribe", denials.subscribe),
                ("receive", denials.receive),
                ("will", denials.will),
            ];
            kinds.map(|(kind, count)| Sample::new(&[("kind", kind)], float(count))).into()
        },
    );
    let audit = audit.clone();
    metrics.collect_one("midge_audit_lost_total", "Audit records lost.", MetricKind::Counter, move || {
        float(audit.lost())
    });
}

fn number(value: usize) -> f64 {
    float(u64::try_from(value).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus values are floats")]
fn float(value: u64) -> f64 {
    value as f64
}
