//! The candidate: the policy that the box would have with other files.

use super::super::watchers::Watchers;
use super::files::{Builtin, Read};
use super::state::Fault;
use super::take_files;
use midge_identity::UnixMillis;
use midge_policy::{Rule, Sources};

/// Rules of another directory in place of the policy files; everything else as it is in force.
pub(super) struct Candidate {
    builtin: Builtin,
    sources: Sources,
    is_there: bool,
}

impl Candidate {
    pub(super) fn new(builtin: Builtin) -> Self {
        Self { builtin, sources: Sources::default(), is_there: false }
    }

    pub(super) fn set_cloud(&mut self, rules: &[Rule]) {
        // What is faulty is refused here as it is by the policy in force, which tells it.
        drop(self.sources.set_cloud(rules));
    }

    pub(super) fn set_grants(&mut self, grants: &[Rule], gone: &[String]) {
        self.sources.set_grants(grants, gone.iter().map(String::as_str));
    }

    /// Takes its files and tells whether it is another now. It is evaluated while there are any, and counts begin anew;
    /// what is faulty changes nothing.
    pub(super) fn take(
        &mut self,
        Read { are_there, texts }: Read,
        watchers: &Watchers,
        now: UnixMillis,
    ) -> Result<bool, Vec<Fault>> {
        if !are_there {
            watchers.drop_candidate();
            return Ok(std::mem::take(&mut self.is_there));
        }
        let before = self.sources.policy().epoch();
        take_files(&mut self.sources, texts, &self.builtin)?;
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
