//! The policy as Prometheus sees it.

use super::{Lint, Origin, PolicyHandle, PolicyState};
use midge_runtime::{MetricKind, Metrics, Sample};

/// Registers the metrics of the policy.
pub(crate) fn policy_metrics(metrics: &Metrics, policy: &PolicyHandle) {
    type Value = fn(&PolicyState) -> f64;
    let gauges: [(&str, &str, Value); 4] = [
        ("midge_policy_epoch", "Number of the policy in force.", |s| float(s.epoch)),
        ("midge_policy_rules", "Rules in force.", |s| count(s.rules)),
        ("midge_policy_changed_timestamp_seconds", "When a change was put in force last.", |s| {
            float(s.taken_at.0) / 1_000.0
        }),
        ("midge_policy_warnings", "Warnings about the rules of files.", |s| match &s.lint {
            Lint::Known(findings) => count(findings.len()),
            Lint::Unknown | Lint::TooMany(_) => 0.0,
        }),
    ];
    for (name, help, value) in gauges {
        let state = policy.state.clone();
        metrics.collect_one(name, help, MetricKind::Gauge, move || value(&state.borrow()));
    }
    let state = policy.state.clone();
    let (name, help) =
        ("midge_policy_changes_total", "Changes of policy by source, put in force or refused.");
    metrics.collect(name, help, MetricKind::Counter, move || {
        let state = state.borrow();
        let of = |origin: Origin| {
            let changes = state.changes_of(origin);
            let labels = |result| [("source", origin.name()), ("result", result)];
            [
                Sample::new(&labels("taken"), float(changes.taken)),
                Sample::new(&labels("refused"), float(changes.refused)),
            ]
        };
        Origin::ALL.into_iter().flat_map(of).collect()
    });
    let watchers = policy.watchers.clone();
    let (name, help) =
        ("midge_policy_shadow_decisions_total", "Decisions that a candidate policy was asked too.");
    metrics.collect(name, help, MetricKind::Counter, move || {
        watchers.shadow().map(|shadow| Sample::new(&[], float(shadow.asked))).into_iter().collect()
    });
    let watchers = policy.watchers.clone();
    let (name, help) = ("midge_policy_shadow_differences_total", "Decisions that it would make otherwise.");
    metrics.collect(name, help, MetricKind::Counter, move || {
        let kinds =
            |shadow: crate::parts::watchers::ShadowCounts| [("gained", shadow.gained), ("lost", shadow.lost)];
        let counts = watchers.shadow().map(kinds).into_iter().flatten();
        counts.map(|(kind, count)| Sample::new(&[("kind", kind)], float(count))).collect()
    });
}

fn count(value: usize) -> f64 {
    float(u64::try_from(value).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus values are floats")]
fn float(value: u64) -> f64 {
    value as f64
}
