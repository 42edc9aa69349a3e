//! What is not as it should be, for `status` and `/ready`.

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
