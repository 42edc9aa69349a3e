//! The candidate: the policy that the box would have with other files.

use super::super::watchers::Watchers;
use super::files::Files;
use super::state::Fault;
use midge_identity::UnixMillis;
use midge_policy::{Rule, Sources};
use std::path::Path;

/// Rules of another directory in place of the policy files; everything else as it is in force.
pub(super) struct Candidate {
    files: Files,
    sources: Sources,
    is_there: bool,
}

impl Candidate {
    pub(super) fn new(dir: &Path, builtin: bool) -> Self {
        Self { files: Files::new(Some(dir), builtin), sources: Sources::default(), is_there: false }
    }

    pub(super) fn set_cloud(&mut self, rules: &[Rule]) {
        // What is faulty is refused here as it is by the policy in force, which tells it.
        drop(self.sources.set_cloud(rules));
    }

    pub(super) fn set_grants(&mut self, grants: &[Rule], gone: &[String]) {
        self.sources.set_grants(grants, gone.iter().map(String::as_str));
    }

    /// Tells whether its files have changed, or come or gone.
    pub(super) fn look(&mut self) -> bool {
        self.files.look()
    }

    /// Reads its files and tells whether it is another now. It is evaluated while there are any, and counts begin anew;
    /// what is faulty changes nothing.
    pub(super) fn take(&mut self, watchers: &Watchers, now: UnixMillis) -> Result<bool, Vec<Fault>> {
        if !self.files.are_there() {
            self.files.forget();
            watchers.drop_candidate();
            return Ok(std::mem::take(&mut self.is_there));
        }
        let before = self.sources.policy().epoch();
        self.files.take(&mut self.sources)?;
        let is_other = !self.is_there || self.sources.policy().epoch() != before;
        if is_other {
            self.is_there = true;
            watchers.set_candidate(self.sources.policy(), now);
        }
        Ok(is_other)
    }

    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    /// Goes on with what entries and the cloud have changed.
    pub(super) fn follow(&self, watchers: &Watchers) {
        if self.is_there {
            watchers.follow_candidate(self.sources.policy());
        }
    }
}
