//! The metrics of a process, as Prometheus reads them: values are asked for at each scrape.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a value means to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only ever grows while the process runs.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Label names with their values.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// Returns a value with labels.
    pub fn new(labels: &[(&str, &str)], value: f64) -> Self {
        Self {
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            value,
        }
    }
}

/// The metrics of a process, rendered as Prometheus text.
#[derive(Default)]
pub struct Metrics {
    families: Mutex<BTreeMap<String, Family>>,
}

type Collect = Arc<dyn Fn() -> Vec<Sample> + Send + Sync>;

#[derive(Clone)]
struct Family {
    help: String,
    kind: MetricKind,
    collectors: Vec<Collect>,
}

impl Metrics {
    /// Returns an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds values that are asked for at every scrape; `collect` must not block. A peer must not be
    /// able to choose how many samples it returns.
    pub fn collect(
        &self,
        name: &str,
        help: &str,
        kind: MetricKind,
        collect: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        let mut families = self.families.lock();
        family(&mut families, name, help, kind).collectors.push(Arc::new(collect));
    }

    /// Adds one unlabelled value that is asked for at every scrape.
    pub fn collect_one(
        &self,
        name: &str,
        help: &str,
        kind: MetricKind,
        value: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.collect(name, help, kind, move || vec![Sample::new(&[], value())]);
    }

    /// Returns all metrics in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        let families: Vec<(String, Family)> =
            self.families.lock().iter().map(|(name, family)| (name.clone(), family.clone())).collect();
        // Outside the lock: a collector may register.
        let mut text = String::new();
        for (name, family) in families {
            render_family(&mut text, &name, &family);
        }
        text
    }
}

/// The first registration of a name decides its help and kind.
fn family<'a>(
    families: &'a mut BTreeMap<String, Family>,
    name: &str,
    help: &str,
    kind: MetricKind,
) -> &'a mut Family {
    families.entry(name.to_owned()).or_insert_with(|| Family {
        help: help.to_owned(),
        kind,
        collectors: Vec::new(),
    })
}

fn render_family(text: &mut String, name: &str, family: &Family) {
    let kind = match family.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    };
    text.push_str(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", escape(&family.help, false)));
    for sample in family.collectors.iter().flat_map(|collect| collect()) {
        render_sample(text, name, &sample);
    }
}

fn render_sample(text: &mut String, name: &str, Sample { labels, value }: &Sample) {
    let labels: Vec<String> =
        labels.iter().map(|(label, content)| format!("{label}=\"{}\"", escape(content, true))).collect();
    text.push_str(name);
    if !labels.is_empty() {
        text.push_str(&format!("{{{}}}", labels.join(",")));
    }
    text.push_str(&format!(" {value}\n"));
}

fn escape(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quoted { text.replace('"', "\\\"") } else { text }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Metrics")
            .field("families", &self.families.lock().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn renders_prometheus_text() {
        let metrics = Metrics::new();
        metrics.collect_one("midge_sessions", "Sessions", MetricKind::Gauge, || -3.0);
        let accepted = |listener| move || vec![Sample::new(&[("listener", listener)], 2.0)];
        let name = "midge_connections_total";
        metrics.collect(name, "Connections accepted", MetricKind::Counter, accepted("local"));
        metrics.collect(name, "ignored", MetricKind::Gauge, accepted("tls"));
        metrics.collect_one("midge_lease_seconds", "Lease left", MetricKind::Gauge, || 12.5);
        assert_eq!(
            metrics.render(),
            "# HELP midge_connections_total Connections accepted\n\
             # TYPE midge_connections_total counter\n\
             midge_connections_total{listener=\"local\"} 2\n\
             midge_connections_total{listener=\"tls\"} 2\n\
             # HELP midge_lease_seconds Lease left\n\
             # TYPE midge_lease_seconds gauge\n\
             midge_lease_seconds 12.5\n\
             # HELP midge_sessions Sessions\n\
             # TYPE midge_sessions gauge\n\
             midge_sessions -3\n"
        );
    }

    #[test]
    fn help_and_values_of_labels_cannot_break_out() {
        let metrics = Metrics::new();
        metrics.collect("denied_total", "a\\b\nc", MetricKind::Counter, || {
            vec![Sample::new(&[("a", "\"} 1\n\\"), ("b", "x")], 2.0)]
        });
        assert_eq!(
            metrics.render(),
            "# HELP denied_total a\\\\b\\nc\n# TYPE denied_total counter\n\
             denied_total{a=\"\\\"} 1\\n\\\\\",b=\"x\"} 2\n"
        );
    }

    #[test]
    fn collectors_are_asked_at_each_scrape() {
        let metrics = Metrics::new();
        let source = Arc::new(AtomicU32::new(4));
        let seen = Arc::clone(&source);
        metrics.collect_one("rule_hits", "Hits", MetricKind::Counter, move || {
            f64::from(seen.load(Ordering::Relaxed))
        });
        assert!(metrics.render().contains("rule_hits 4\n"));
        source.store(5, Ordering::Relaxed);
        assert!(metrics.render().contains("rule_hits 5\n"));
    }
}
