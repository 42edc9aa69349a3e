//! Health and metrics of a process.

use super::edge_cloud::LinkView;
use super::node_audit::NodeAudit;
use super::problems::Condition;
use crate::exit::{self, WithCode};
use anyhow::Context as _;
use broker_core::Dropped;
use cloud_bridge::edgehub::LinkStatus;
use midge_audit::AuditLog;
use midge_broker::{Hub, SocketsLost};
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
pub(crate) fn health(condition: &Condition) -> Arc<Health> {
    let health = Health::new();
    let authority = condition.issuer.clone();
    health.register_fn("authority", CheckKind::Readiness, move || match authority.snapshot().ca {
        Some(_) => Ok(()),
        None => Err("no CA yet: the box has not enrolled at its cloud".into()),
    });
    let condition = condition.clone();
    health.register_fn("degraded", CheckKind::Degradation, move || match condition.problems().first() {
        Some(problem) => Err(problem.what.clone()),
        None => Ok(()),
    });
    Arc::new(health)
}

/// Registers the metrics of the identity server, and how many problems there are.
pub(crate) fn issuer_metrics(metrics: &Metrics, condition: &Condition) {
    let source = condition.issuer.clone();
    metrics.collect_one(
        "midge_lease_seconds",
        "How long this process can act alone.",
        MetricKind::Gauge,
        move || source.snapshot().lease.remaining.as_secs_f64(),
    );
    let source = condition.issuer.clone();
    metrics.collect_one("midge_entries", "Registration entries.", MetricKind::Gauge, move || {
        number(source.snapshot().entries)
    });
    let source = condition.clone();
    metrics.collect_one(
        "midge_degraded",
        "Problems, as midge status lists them.",
        MetricKind::Gauge,
        move || number(source.problems().len()),
    );
}

/// Registers the metrics of the channel to the cloud.
pub(crate) fn cloud_metrics(metrics: &Metrics, link: &LinkView) {
    type Value = fn(&LinkStatus) -> u64;
    let rows: [(&str, &str, MetricKind, Value); 3] = [
        ("midge_cloud_connected", "Whether the cloud answers.", MetricKind::Gauge, |l| {
            u64::from(l.connected)
        }),
        ("midge_cloud_pending", "Reports that the cloud has not acknowledged.", MetricKind::Gauge, |l| {
            u64::try_from(l.pending).unwrap_or(u64::MAX)
        }),
        ("midge_cloud_dropped_total", "Reports lost to a full spool.", MetricKind::Counter, |l| l.dropped),
    ];
    for (name, help, kind, value) in rows {
        let status = link.status.clone();
        metrics.collect_one(name, help, kind, move || float(status.borrow().as_ref().map_or(0, value)));
    }
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
    let gauges: [(&str, &str, Value); 7] = [
        ("midge_mqtt_connections", "MQTT connections.", |m| m.connections),
        ("midge_mqtt_sessions", "MQTT sessions, parked ones included.", |m| m.sessions),
        ("midge_mqtt_subscriptions", "Subscriptions.", |m| m.subscriptions),
        ("midge_mqtt_retained_messages", "Retained messages.", |m| m.retained_messages),
        ("midge_mqtt_retained_bytes", "Bytes of retained messages.", |m| m.retained_bytes),
        ("midge_mqtt_waiting_messages", "Messages that wait, for each client.", |m| m.waiting_messages),
        ("midge_mqtt_waiting_bytes", "Bytes that waiting messages take.", |m| m.waiting_bytes),
    ];
    let counters: [(&str, &str, Value); 7] = [
        ("midge_mqtt_connects_total", "Connections accepted.", |m| m.connects),
        ("midge_mqtt_messages_in_total", "Messages received from clients.", |m| m.messages_in),
        ("midge_mqtt_messages_out_total", "Messages sent to clients.", |m| m.messages_out),
        ("midge_mqtt_payload_bytes_in_total", "Payload received from clients.", |m| m.payload_bytes_in),
        ("midge_mqtt_payload_bytes_out_total", "Payload sent to clients.", |m| m.payload_bytes_out),
        ("midge_mqtt_throttled_total", "Times a client was left unread for its rate.", |m| m.throttled),
        ("midge_mqtt_sessions_expired_total", "Sessions that ended unused.", |m| m.sessions_expired),
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
    loss_metrics(metrics, hub);
    let audit = audit.clone();
    metrics.collect_one("midge_audit_lost_total", "Audit records lost.", MetricKind::Counter, move || {
        float(audit.lost())
    });
}

/// What did not reach anyone: messages by reason, and sockets.
fn loss_metrics(metrics: &Metrics, hub: &Hub) {
    let source = hub.clone();
    let help = "Messages that did not reach a receiver.";
    metrics.collect("midge_mqtt_dropped_total", help, MetricKind::Counter, move || {
        let Dropped {
            queue_full,
            slow_reader,
            expired,
            too_large,
            no_member,
            retained_full,
            revoked,
            session_ended,
            will_too_fast,
        } = source.metrics().dropped;
        let reasons = [
            ("queue-full", queue_full),
            ("slow-reader", slow_reader),
            ("expired", expired),
            ("too-large", too_large),
            ("no-member", no_member),
            ("retained-full", retained_full),
            ("revoked", revoked),
            ("session-ended", session_ended),
            ("will-too-fast", will_too_fast),
        ];
        reasons.map(|(reason, count)| Sample::new(&[("reason", reason)], float(count))).into()
    });
    let source = hub.clone();
    let help = "Sockets that came to nothing.";
    metrics.collect("midge_mqtt_sockets_lost_total", help, MetricKind::Counter, move || {
        let SocketsLost { refused, failed } = source.sockets_lost();
        let reasons = [("limit", refused), ("accept", failed)];
        reasons.map(|(reason, count)| Sample::new(&[("reason", reason)], float(count))).into()
    });
}

fn number(value: usize) -> f64 {
    float(u64::try_from(value).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus values are floats")]
fn float(value: u64) -> f64 {
    value as f64
}
