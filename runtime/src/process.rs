//! What `/proc` says about this process.

use crate::metrics::{MetricKind, Metrics};
use std::fs;
use std::str::FromStr;

/// Adds resident memory, processor time, threads and open files, by Prometheus' usual names.
pub(crate) fn register(metrics: &Metrics) {
    let status = |key: &'static str, unit: f64| move || status_value(key).unwrap_or(f64::NAN) * unit;
    metrics.collect_one(
        "process_resident_memory_bytes",
        "Resident memory",
        MetricKind::Gauge,
        status("VmRSS:", 1024.0),
    );
    metrics.collect_one("process_cpu_seconds_total", "User and system time", MetricKind::Counter, || {
        cpu_seconds().unwrap_or(f64::NAN)
    });
    metrics.collect_one("process_threads", "Threads", MetricKind::Gauge, status("Threads:", 1.0));
    metrics.collect_one("process_open_fds", "Open file descriptors", MetricKind::Gauge, || {
        fs::read_dir("/proc/self/fd").map_or(f64::NAN, |entries| entries.map(|_| 1.0).sum())
    });
}

/// Resident memory of this process in bytes, now and at its largest, where the system tells it.
#[must_use]
pub fn memory_bytes() -> Option<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |key| Some(value_of::<u64>(&status, key)?.saturating_mul(1024));
    Some((bytes("VmRSS:")?, bytes("VmHWM:")?))
}

/// User and system time of the process so far.
fn cpu_seconds() -> Option<f64> {
    /// Ticks a second of the times in `/proc`, on all of Linux' platforms that are alive.
    const USER_HZ: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may contain anything, so it is what follows the last parenthesis that counts.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / USER_HZ)
}

fn status_value(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    value_of(&status, key)
}

fn value_of<T: FromStr>(status: &str, key: &str) -> Option<T> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_no_more_than_it_was_at_its_largest() {
        let (now, largest) = memory_bytes().unwrap();
        assert!(now >= 500_000 && largest >= now, "{now} {largest}");
    }

    #[test]
    fn this_process_has_memory_a_thread_and_a_file() {
        let metrics = Metrics::new();
        register(&metrics);
        let text = metrics.render();
        for (name, least) in [
            ("process_resident_memory_bytes", 500_000.0),
            ("process_threads", 1.0),
            ("process_open_fds", 3.0),
            ("process_cpu_seconds_total", 0.0),
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert!(value.trim().parse::<f64>().unwrap() >= least, "{name}{value}");
        }
    }
}
