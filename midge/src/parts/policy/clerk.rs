//! What is written about changes of the policy, beside the task that makes them: what differs, for the audit
//! log, and what the rules do not do. Both may cost seconds, and no change waits for them.

use super::super::trail::Trail;
use super::state::{Lint, State};
use midge_identity::UnixMillis;
use midge_policy::{CheckedRule, Policy};
use midge_policy_tools::{Finding, PolicyChange, Ruleset, Severity, check_beside};
use midge_runtime::CancellationToken;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// Changes that wait to be recorded; beyond it the last ones are recorded as one.
const CHANGES_MAX: usize = 256;

/// Most rules of files that are looked at: it takes some KiB of memory for each meanwhile.
const RULES_MAX: usize = 6_000;

/// Findings that are logged.
const LOGGED_MAX: usize = 20;

/// Writes about changes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Clerk(Arc<Shared>);

struct Shared {
    jobs: Mutex<Jobs>,
    has_come: Notify,
    state: State,
    trail: Option<Arc<Trail>>,
}

#[derive(Default)]
struct Jobs {
    changes: VecDeque<Change>,
    /// Only the newest rules are worth looking at.
    lint: Option<(u64, Vec<CheckedRule>)>,
}

struct Change {
    before: Arc<Policy>,
    after: Arc<Policy>,
    at: UnixMillis,
}

enum Job {
    Record(Change),
    Lint(u64, Vec<CheckedRule>),
}

impl Clerk {
    pub(super) fn new(state: State, trail: Option<Arc<Trail>>) -> Self {
        Self(Arc::new(Shared { jobs: Mutex::default(), has_come: Notify::new(), state, trail }))
    }

    /// Has a change recorded.
    pub(super) fn record(&self, before: Arc<Policy>, after: Arc<Policy>, at: UnixMillis) {
        {
            let changes = &mut self.0.jobs.lock().changes;
            let is_full = changes.len() >= CHANGES_MAX;
            match changes.back_mut().filter(|_| is_full) {
                Some(last) => last.after = after,
                None => changes.push_back(Change { before, after, at }),
            }
        }
        self.0.has_come.notify_one();
    }

    /// Has the rules of files looked at.
    pub(super) fn lint(&self, load: u64, rules: &[CheckedRule]) {
        self.0.jobs.lock().lint = Some((load, rules.to_vec()));
        self.0.has_come.notify_one();
    }

    /// Works until `token` is cancelled and every change is recorded.
    pub(crate) async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        loop {
            let job = self.next(!token.is_cancelled());
            match job {
                Some(job) => {
                    let this = self.clone();
                    tokio::task::spawn_blocking(move || this.work(job)).await?;
                }
                None if token.is_cancelled() => return Ok(()),
                None => {
                    // A cancelled token is seen above.
                    token.run_until_cancelled(self.0.has_come.notified()).await;
                }
            }
        }
    }

    fn next(&self, with_lint: bool) -> Option<Job> {
        let mut jobs = self.0.jobs.lock();
        if let Some(change) = jobs.changes.pop_front() {
            return Some(Job::Record(change));
        }
        jobs.lint.take().filter(|_| with_lint).map(|(load, rules)| Job::Lint(load, rules))
    }

    fn work(&self, job: Job) {
        match job {
            Job::Record(Change { before, after, at }) => {
                if let Some(trail) = &self.0.trail {
                    trail.policy_changed(at, &after, &PolicyChange::between(&before, &after));
                }
            }
            Job::Lint(load, rules) => {
                let lint = lint(rules);
                if self.0.state.linted(load, lint.clone()) {
                    log(&lint);
                }
            }
        }
    }
}

fn lint(rules: Vec<CheckedRule>) -> Lint {
    if rules.len() > RULES_MAX {
        return Lint::TooMany(rules.len());
    }
    let count = rules.len();
    match check_beside(&Ruleset::of(rules)) {
        Ok(findings) => {
            let warnings = findings.into_iter().filter(|finding| finding.severity == Severity::Warning);
            Lint::Known(warnings.collect())
        }
        Err(_) => Lint::TooMany(count),
    }
}

fn log(lint: &Lint) {
    match lint {
        Lint::Known(findings) => {
            for Finding { code, rule, place, message, remedy, .. } in findings.iter().take(LOGGED_MAX) {
                tracing::warn!(code, rule, place, message, remedy, "policy");
            }
            if findings.len() > LOGGED_MAX {
                tracing::warn!(more = findings.len() - LOGGED_MAX, "policy: `midge policy check` shows all");
            }
        }
        Lint::TooMany(count) => {
            tracing::info!(
                count,
                "policy files have too many rules to be looked at here: run `midge policy check`"
            );
        }
        Lint::Unknown => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::Rule;

    fn rules(text: &str) -> Vec<CheckedRule> {
        Rule::from_toml_str(text, "a.toml").unwrap().iter().map(|rule| rule.check().unwrap()).collect()
    }

    const IDLE: &str =
        "[[rule]]\nname = \"a\"\nid = \"spiffe://td/a\"\npublish = [\"x\"]\ndeny-publish = [\"#\"]\n";

    #[tokio::test]
    async fn the_newest_rules_are_looked_at_and_too_many_are_not() {
        let state = State::new((None, None), UnixMillis(0));
        let clerk = Clerk::new(state.clone(), None);
        clerk.lint(1, &rules(&IDLE.replace("deny-publish = [\"#\"]", "")));
        clerk.lint(2, &rules(IDLE));
        let token = CancellationToken::new();
        let running = tokio::spawn(clerk.clone().run(token.clone()));
        let mut seen = state.subscribe();
        let known = seen.wait_for(|state| state.linted == 2).await.unwrap().lint.clone();
        let Lint::Known(findings) = known else { panic!("{known:?}") };
        assert_eq!((findings.len(), findings[0].code), (1, "unreachable"));

        let many: Vec<CheckedRule> = std::iter::repeat_n(rules(IDLE), RULES_MAX + 1).flatten().collect();
        clerk.lint(3, &many);
        let known = seen.wait_for(|state| state.linted == 3).await.unwrap().lint.clone();
        assert_eq!(known, Lint::TooMany(RULES_MAX + 1));
        token.cancel();
        running.await.unwrap().unwrap();
    }

    #[test]
    fn changes_that_find_no_room_are_recorded_as_one() {
        let clerk = Clerk::new(State::new((None, None), UnixMillis(0)), None);
        let policy = |epoch| Arc::new(Policy::compile(Vec::new(), epoch).unwrap());
        let last = CHANGES_MAX as u64 + 5;
        for epoch in 1..=last {
            clerk.record(policy(epoch - 1), policy(epoch), UnixMillis(epoch));
        }
        let changes = &clerk.0.jobs.lock().changes;
        let newest = changes.back().unwrap();
        assert_eq!(changes.len(), CHANGES_MAX);
        assert_eq!((newest.before.epoch(), newest.after.epoch()), (CHANGES_MAX as u64 - 1, last));
    }
}
