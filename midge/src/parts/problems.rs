//! What is not as it should be, for `status`, the readiness checks and the metrics: the same in all three.

use midge_audit::AuditLog;
use midge_broker::Hub;
use midge_issuer::Issuer;
use midge_store::Store;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One problem and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// The problems of this process, by the part that has them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems(Arc<Mutex<BTreeMap<&'static str, Problem>>>);

impl Problems {
    /// Notes or clears the problem of a part; a new one is logged once.
    pub(crate) fn set(&self, part: &'static str, problem: Option<Problem>) {
        let mut problems = self.0.lock();
        match problem {
            Some(problem) => {
                if problems.get(part) != Some(&problem) {
                    tracing::warn!(part, what = %problem.what, remedy = %problem.remedy, "degraded");
                }
                problems.insert(part, problem);
            }
            None => {
                if problems.remove(part).is_some() {
                    tracing::info!(part, "recovered");
                }
            }
        }
    }

    /// Returns all problems.
    pub(crate) fn list(&self) -> Vec<Problem> {
        self.0.lock().values().cloned().collect()
    }
}

/// Whoever may have a problem. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Condition {
    pub(crate) problems: Problems,
    pub(crate) issuer: Issuer,
    pub(crate) store: Store,
    pub(crate) hub: Option<Hub>,
    pub(crate) audit: AuditLog,
}

impl Condition {
    /// Returns everything that is not as it should be now.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let issuer = self.issuer.snapshot().degraded.into_iter();
        let issuer = issuer.map(|problem| Problem { what: problem.what, remedy: problem.remedy });
        let store = self.store.snapshot().failing.map(|error| Problem {
            what: format!("the store fails: {error}"),
            remedy: "nothing acknowledged is lost; make room on the disk, or see to the data directory"
                .into(),
        });
        let mqtt_store = self.hub.as_ref().and_then(Hub::store_failure).map(|error| Problem {
            what: format!("MQTT state cannot be stored: {error}"),
            remedy: "messages that would have to be stored are refused meanwhile; make room on the disk"
                .into(),
        });
        let audit = self.audit.status();
        let unwritten = audit.failing.map(|error| Problem {
            what: format!("nothing can be audited: {error}"),
            remedy: "make room on the disk, or see to the data directory; what is lost is counted".into(),
        });
        let found = audit.found.map(|what| Problem {
            what,
            remedy: "find out who did it, with `midge audit verify`; a restart ends this message".into(),
        });
        let others = [store, mqtt_store, unwritten, found].into_iter().flatten();
        self.problems.list().into_iter().chain(issuer).chain(others).collect()
    }
}
