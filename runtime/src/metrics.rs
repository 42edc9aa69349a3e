use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

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

/// A number that only grows; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `by`, which may be negative.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
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
    series: BTreeMap<Vec<(String, String)>, Series>,
    collectors: Vec<Collect>,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
}

impl Metrics {
    /// Returns an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the counter of this name and these labels, the same for every call. Counters are named `…_total`.
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        let made = self.series(name, help, MetricKind::Counter, labels, Series::Counter(Counter::default()));
        match made {
            Series::Counter(counter) => counter,
            Series::Gauge(_) => Counter::default(),
        }
    }

    /// Returns the gauge of this name and these labels, the same for every call.
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Gauge {
        let made = self.series(name, help, MetricKind::Gauge, labels, Series::Gauge(Gauge::default()));
        match made {
            Series::Gauge(gauge) => gauge,
            Series::Counter(_) => Gauge::default(),
        }
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

    fn series(
        &self,
        name: &str,
        help: &str,
        kind: MetricKind,
        labels: &[(&str, &str)],
        fresh: Series,
    ) -> Series {
        let mut labels = Sample::new(labels, 0.0).labels;
        labels.sort();
        let mut families = self.families.lock();
        family(&mut families, name, help, kind).series.entry(labels).or_insert(fresh).clone()
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
        series: BTreeMap::new(),
        collectors: Vec::new(),
    })
}

impl Series {
    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
    fn sample(&self, labels: &[(String, String)]) -> Sample {
        let value = match self {
            Self::Counter(counter) => counter.value() as f64,
            Self::Gauge(gauge) => gauge.value() as f64,
        };
        Sample { labels: labels.to_vec(), value }
    }
}

fn render_family(text: &mut String, name: &str, family: &Family) {
    let kind = match family.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    };
    text.push_str(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", escape(&family.help, false)));
    for (labels, series) in &family.series {
        render_sample(text, name, &series.sample(labels));
    }
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

    #[test]
    fn renders_prometheus_text() {
        let metrics = Metrics::new();
        let tls = metrics.counter("midge_connections_total", "Connections accepted", &[("listener", "tls")]);
        metrics.counter("midge_connections_total", "ignored", &[("listener", "local")]).add(2);
        metrics.gauge("midge_sessions", "Sessions", &[]).set(-3);
        metrics.collect_one("midge_lease_seconds", "Lease left", MetricKind::Gauge, || 12.5);
        tls.increment();
        metrics.counter("midge_connections_total", "", &[("listener", "tls")]).increment();
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
        assert_eq!(tls.value(), 2);
    }

    #[test]
    fn label_order_does_not_matter_and_values_cannot_break_out() {
        let metrics = Metrics::new();
        metrics.counter("denied_total", "a\\b\nc", &[("b", "x"), ("a", "\"} 1\n\\")]).increment();
        metrics.counter("denied_total", "", &[("a", "\"} 1\n\\"), ("b", "x")]).increment();
        assert_eq!(
            metrics.render(),
            "# HELP denied_total a\\\\b\\nc\n# TYPE denied_total counter\n\
             denied_total{a=\"\\\"} 1\\n\\\\\",b=\"x\"} 2\n"
        );
    }

    #[test]
    fn collectors_are_asked_at_each_scrape() {
        let metrics = Metrics::new();
        let source = Gauge::default();
        let seen = source.clone();
        metrics.collect("rule_hits", "Hits by rule", MetricKind::Counter, move || {
            vec![
                Sample::new(&[("rule", "own")], 1.0),
                Sample::new(&[("rule", "bus")], f64::from(i32::try_from(seen.value()).unwrap())),
            ]
        });
        source.add(4);
        source.add(-1);
        let text = metrics.render();
        assert!(
            text.contains("rule_hits{rule=\"own\"} 1\n") && text.contains("rule_hits{rule=\"bus\"} 3\n"),
            "{text}"
        );
    }
}
