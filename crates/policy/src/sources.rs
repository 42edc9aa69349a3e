//! Where rules come from: files, the built-in ones, the cloud, and the grants of registration entries.

use crate::{CheckedRule, DEFAULT_POLICY, DEFAULT_POLICY_NAME, Policy, PolicyError, Rule, RuleSource};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The rules of all sources and the policy that they make. A source is replaced as a whole: when
/// anything in it is faulty, nothing changes and everything that is faulty is told.
///
/// A deny wins whatever its source. Among rules that agree, the one that is named comes first by
/// precedence: files in the order of their names, each from top to bottom; then the built-in rules; then
/// the cloud's by name; then grants by entry.
#[derive(Debug)]
pub struct Sources {
    files: Vec<CheckedRule>,
    cloud: Vec<CheckedRule>,
    /// By the name of the rule.
    grants: HashMap<Arc<str>, CheckedRule>,
    policy: Arc<Policy>,
}

/// How many rules there are of each source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// Of policy files.
    pub files: usize,
    /// Built-in ones.
    pub builtin: usize,
    /// Of the cloud.
    pub cloud: usize,
    /// Grants of registration entries.
    pub entries: usize,
}

impl Default for Sources {
    fn default() -> Self {
        let policy = Arc::new(Policy::deny_all());
        Self { files: Vec::new(), cloud: Vec::new(), grants: HashMap::new(), policy }
    }
}

impl Sources {
    /// The policy that all rules make together. Its epoch grows by one with every change.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Returns how many rules there are of each source.
    pub fn counts(&self) -> SourceCounts {
        let is_builtin = |rule: &&CheckedRule| matches!(rule.name().source(), RuleSource::File { file, .. } if **file == *DEFAULT_POLICY_NAME);
        let builtin = self.files.iter().filter(is_builtin).count();
        SourceCounts {
            files: self.files.len() - builtin,
            builtin,
            cloud: self.cloud.len(),
            entries: self.grants.len(),
        }
    }

    /// Returns the rules of files, and the built-in ones where they are wanted.
    pub fn file_rules(&self) -> &[CheckedRule] {
        &self.files
    }

    /// Replaces the rules of files, each given by its name and its text, and says whether the built-in
    /// ones are wanted.
    ///
    /// # Errors
    /// Every fault found, with file and line, when there is one.
    pub fn set_files(&mut self, files: &[(&str, &str)], builtin: bool) -> Result<(), Vec<PolicyError>> {
        let own = builtin.then_some((DEFAULT_POLICY_NAME, DEFAULT_POLICY));
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for (name, text) in files.iter().copied().chain(own) {
            match Rule::from_toml_str(text, name) {
                Ok(mut found) => rules.append(&mut found),
                Err(mut found) => errors.append(&mut found),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let rules = checked(&rules, &self.files)?;
        self.policy = self.with(&self.files, &rules)?;
        self.files = rules;
        Ok(())
    }

    /// Replaces the rules of the cloud.
    ///
    /// # Errors
    /// Every fault found, when there is one.
    pub fn set_cloud(&mut self, rules: &[Rule]) -> Result<(), Vec<PolicyError>> {
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.clone().from_source(RuleSource::Cloud)).collect();
        let rules = checked(&rules, &self.cloud)?;
        self.policy = self.with(&self.cloud, &rules)?;
        self.cloud = rules;
        Ok(())
    }

    /// Adds or replaces grants, made by [`Rule::grant`], and removes those of the entries that are gone.
    /// Costs these grants alone, however many others there are. A faulty one is left out and told, and
    /// what its entry granted before ends: it is no longer said anywhere, so nobody could take it away.
    pub fn set_grants<'a>(
        &mut self,
        grants: &[Rule],
        gone: impl IntoIterator<Item = &'a str>,
    ) -> Vec<PolicyError> {
        let (mut before, mut after, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        before.extend(gone.into_iter().filter_map(|entry| self.grants.remove(&*Rule::grant_name(entry))));
        for grant in grants {
            let grant = grant.clone().from_source(RuleSource::Entry);
            match grant.check() {
                Ok(rule) => {
                    before.extend(self.grants.insert(Arc::clone(rule.name().text()), rule.clone()));
                    after.push(rule);
                }
                Err(mut found) => {
                    before.extend(self.grants.remove(&*grant.name));
                    errors.append(&mut found);
                }
            }
        }
        match self.with(&before, &after) {
            Ok(policy) => self.policy = policy,
            Err(mut found) => errors.append(&mut found),
        }
        errors
    }

    /// Returns the policy with some rules in place of others: the same one when these are the same.
    fn with(&self, before: &[CheckedRule], after: &[CheckedRule]) -> Result<Arc<Policy>, Vec<PolicyError>> {
        let (old, new) = (Identities::of(before), Identities::of(after));
        let (gone, come) = (new.others(before), old.others(after));
        if gone.is_empty() && come.is_empty() {
            return Ok(Arc::clone(&self.policy));
        }
        self.policy.changed(&gone, come, self.policy.epoch() + 1).map(Arc::new)
    }
}

/// Rules by where they are in memory.
struct Identities(HashSet<usize>);

impl Identities {
    fn of(rules: &[CheckedRule]) -> Self {
        Self(rules.iter().map(address).collect())
    }

    /// Returns the rules that are not among these.
    fn others(&self, rules: &[CheckedRule]) -> Vec<CheckedRule> {
        rules.iter().filter(|rule| !self.0.contains(&address(rule))).cloned().collect()
    }
}

fn address(rule: &CheckedRule) -> usize {
    Arc::as_ptr(&rule.0).addr()
}

/// Checks rules; one that was known before stays the same value, so that it is known not to have changed.
fn checked(rules: &[Rule], known: &[CheckedRule]) -> Result<Vec<CheckedRule>, Vec<PolicyError>> {
    let known: HashMap<&str, &CheckedRule> = known.iter().map(|rule| (&**rule.name().text(), rule)).collect();
    let (mut checked, mut errors) = (Vec::with_capacity(rules.len()), Vec::new());
    for rule in rules {
        match known.get(&*rule.name).filter(|known| known.rule() == rule) {
            Some(known) => checked.push((*known).clone()),
            None => match rule.check() {
                Ok(rule) => checked.push(rule),
                Err(mut found) => errors.append(&mut found),
            },
        }
    }
    if errors.is_empty() { Ok(checked) } else { Err(errors) }
}
