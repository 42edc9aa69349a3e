//! The named checks of a process, of which `endpoints.rs` makes answers.

use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a failing check means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// The process is stuck and is to be restarted.
    Liveness,
    /// The process does not serve now, and will again by itself.
    Readiness,
    /// The process serves, with something an operator should know.
    Degradation,
}

/// The named checks of a process.
#[derive(Default)]
pub struct Health {
    checks: Arc<RwLock<BTreeMap<String, Entry>>>,
}

struct Entry {
    kind: CheckKind,
    probe: Probe,
}

#[derive(Clone)]
enum Probe {
    State(Result<(), String>),
    Ask(Arc<dyn Fn() -> Result<(), String> + Send + Sync>),
}

/// What the checks of one question say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether none fails.
    pub ok: bool,
    /// Names of the failing checks with the reason each gives, in order of names.
    pub failing: Vec<(String, String)>,
}

/// Sets the state of one check; clones set the same.
#[derive(Clone)]
pub struct Check {
    name: String,
    checks: Arc<RwLock<BTreeMap<String, Entry>>>,
}

impl Health {
    /// Returns a health without checks: live and ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check; it fails as "starting" until set, or is well at once when it only tells of degradation.
    /// A name used before is replaced.
    pub fn register(&self, name: impl Into<String>, kind: CheckKind) -> Check {
        let name = name.into();
        let state = match kind {
            CheckKind::Liveness | CheckKind::Degradation => Ok(()),
            CheckKind::Readiness => Err("starting".to_owned()),
        };
        self.checks.write().insert(name.clone(), Entry { kind, probe: Probe::State(state) });
        Check { name, checks: Arc::clone(&self.checks) }
    }

    /// Adds a check that is asked whenever the health is; it must not block.
    pub fn register_fn(
        &self,
        name: impl Into<String>,
        kind: CheckKind,
        probe: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.checks.write().insert(name.into(), Entry { kind, probe: Probe::Ask(Arc::new(probe)) });
    }

    /// Whether the process should go on running.
    pub fn live(&self) -> HealthReport {
        self.report(|kind| kind == CheckKind::Liveness)
    }

    /// Whether the process serves: every liveness and readiness check is well.
    pub fn ready(&self) -> HealthReport {
        self.report(|kind| kind != CheckKind::Degradation)
    }

    /// Everything that is not well, of any kind.
    pub fn all(&self) -> HealthReport {
        self.report(|_| true)
    }

    fn report(&self, asked: impl Fn(CheckKind) -> bool) -> HealthReport {
        let probes: Vec<(String, Probe)> = self
            .checks
            .read()
            .iter()
            .filter(|(_, entry)| asked(entry.kind))
            .map(|(name, entry)| (name.clone(), entry.probe.clone()))
            .collect();
        // Outside the lock: a probe may itself look at the health.
        let failing: Vec<(String, String)> =
            probes.into_iter().filter_map(|(name, probe)| Some((name, probe.ask().err()?))).collect();
        HealthReport { ok: failing.is_empty(), failing }
    }
}

impl Probe {
    fn ask(self) -> Result<(), String> {
        match self {
            Self::State(state) => state,
            Self::Ask(probe) => probe(),
        }
    }
}

impl Check {
    /// Says that all is well.
    pub fn ok(&self) {
        self.set(Ok(()));
    }

    /// Says what is wrong.
    pub fn failing(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        if let Some(entry) = self.checks.write().get_mut(&self.name) {
            entry.probe = Probe::State(state);
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Health").field("failing", &self.all().failing).finish_non_exhaustive()
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Display for HealthReport {
    /// `ok`, or one line per failing check.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ok {
            return writeln!(formatter, "ok");
        }
        for (name, reason) in &self.failing {
            writeln!(formatter, "{name}: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_fails_until_set_and_says_why_it_fails_again() {
        let health = Health::new();
        let store = health.register("store", CheckKind::Readiness);
        assert_eq!(health.ready().to_string(), "store: starting\n");
        store.ok();
        assert_eq!(health.ready().to_string(), "ok\n");
        store.clone().failing("disk full");
        assert_eq!(health.ready().failing, [("store".to_owned(), "disk full".to_owned())]);
        assert!(health.live().ok);
    }

    #[test]
    fn a_dead_process_is_not_ready_and_a_degraded_one_is_both() {
        let health = Health::new();
        let hub = health.register("hub", CheckKind::Liveness);
        let cloud = health.register("cloud", CheckKind::Degradation);
        cloud.failing("unreachable for 10 s");
        assert!(health.live().ok && health.ready().ok);
        assert_eq!(health.all().to_string(), "cloud: unreachable for 10 s\n");
        hub.failing("no tick for 30 s");
        assert!(!health.live().ok && !health.ready().ok);
    }

    #[test]
    fn a_probe_is_asked_each_time_and_may_look_at_the_health() {
        let health = Arc::new(Health::new());
        let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let (asked, inner) = (Arc::clone(&count), Arc::downgrade(&health));
        health.register_fn("asked", CheckKind::Readiness, move || {
            asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            inner.upgrade().map_or(Err("gone".to_owned()), |health| {
                if health.live().ok { Ok(()) } else { Err("dead".to_owned()) }
            })
        });
        assert!(health.ready().ok && health.ready().ok);
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 2);
    }
}
