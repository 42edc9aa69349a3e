//! The policy of an edge: built-in rules, files, rules from the cloud, grants of entries. Deny
//! wins over allow whatever the source, so their order does not matter.

use super::problems::{Problem, Problems};
use crate::config::PolicyConfig;
use anyhow::Context as _;
use issuer_core::RegistrationEntry;
use midge_issuer::IssuerView;
use midge_policy::{CheckedRule, DEFAULT_POLICY, Policy, PolicyError, Rule};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Rules that the cloud handed out, as last synced.
pub(crate) type CloudRules = Arc<Vec<Rule>>;

/// Reads the rules of the configuration: built-in ones and those of the directory.
pub(crate) fn file_rules(config: &PolicyConfig) -> anyhow::Result<Vec<CheckedRule>> {
    let mut rules = Vec::new();
    if config.builtin {
        rules.extend(parse(DEFAULT_POLICY, "built-in")?);
    }
    if let Some(dir) = &config.dir {
        rules.extend(dir_rules(dir)?);
    }
    Ok(rules)
}

/// Returns the policy files of a directory in the order in which they are read.
pub(crate) fn policy_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || format!("cannot read the policy directory {} (policy.dir)", dir.display());
    let mut files = Vec::new();
    for item in std::fs::read_dir(dir).with_context(context)? {
        let path = item.with_context(context)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn dir_rules(dir: &Path) -> anyhow::Result<Vec<CheckedRule>> {
    let mut rules = Vec::new();
    for file in policy_files(dir)? {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        rules.extend(parse(&text, &file.display().to_string())?);
    }
    Ok(rules)
}

fn parse(text: &str, file: &str) -> anyhow::Result<Vec<CheckedRule>> {
    let rules = Rule::from_toml_str(text, file).map_err(|errors| anyhow::Error::msg(listed(&errors)))?;
    let checked: Result<Vec<_>, _> = rules.iter().map(Rule::check).collect();
    checked.map_err(|errors| anyhow::Error::msg(listed(&errors)))
}

fn listed(errors: &[PolicyError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Keeps the policy in step with entries and cloud rules.
pub(crate) struct PolicyTask {
    fixed: Vec<CheckedRule>,
    grants: HashMap<String, (Arc<RegistrationEntry>, CheckedRule)>,
    current: Vec<CheckedRule>,
    epoch: u64,
    sender: watch::Sender<Arc<Policy>>,
    problems: Problems,
}

impl PolicyTask {
    /// Returns the task and where its policies appear; the first one is complete already.
    pub(crate) fn new(
        fixed: Vec<CheckedRule>,
        view: &IssuerView,
        cloud: &CloudRules,
        problems: Problems,
    ) -> (Self, watch::Receiver<Arc<Policy>>) {
        let (sender, receiver) = watch::channel(Arc::new(Policy::deny_all()));
        let (grants, current) = (HashMap::new(), Vec::new());
        let mut task = Self { fixed, grants, current, epoch: 0, sender, problems };
        task.update(view, cloud);
        (task, receiver)
    }

    /// Follows its sources until one of them ends.
    pub(crate) async fn run(
        mut self,
        mut view: watch::Receiver<Arc<IssuerView>>,
        mut cloud: watch::Receiver<CloudRules>,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                changed = view.changed() => changed?,
                // The task that feeds it has ended, and tells why itself; that reason must come first.
                changed = cloud.changed() => if changed.is_err() { return std::future::pending().await },
            }
            let (view, cloud) =
                (Arc::clone(&view.borrow_and_update()), Arc::clone(&cloud.borrow_and_update()));
            self.update(&view, &cloud);
        }
    }

    /// A faulty rule is left out, loudly; it never changes what the others say.
    fn update(&mut self, view: &IssuerView, cloud: &CloudRules) {
        let mut faults = Vec::new();
        let mut rules = self.fixed.clone();
        for rule in cloud.iter() {
            match rule.check() {
                Ok(rule) => rules.push(rule),
                Err(errors) => faults.extend(errors),
            }
        }
        let mut grants = HashMap::with_capacity(self.grants.len());
        for entry in view.entries.iter().filter(|entry| has_grants(entry)) {
            match self.grant(entry) {
                Ok(rule) => {
                    rules.push(rule.clone());
                    grants.insert(entry.id.clone(), (Arc::clone(entry), rule));
                }
                Err(errors) => faults.extend(errors),
            }
        }
        self.grants = grants;
        if rules != self.current || self.epoch == 0 {
            match Policy::of(rules.iter().cloned(), self.epoch + 1) {
                Ok(policy) => {
                    self.epoch += 1;
                    self.current = rules;
                    tracing::debug!(epoch = self.epoch, rules = policy.rules(), "policy");
                    self.sender.send_replace(Arc::new(policy));
                }
                Err(errors) => faults.extend(errors),
            }
        }
        let problem = (!faults.is_empty()).then(|| Problem {
            what: format!("policy: {}", listed(&faults)),
            remedy: "correct the rule at its source; until then it is left out".into(),
        });
        self.problems.set("policy", problem);
    }

    fn grant(&self, entry: &Arc<RegistrationEntry>) -> Result<CheckedRule, Vec<PolicyError>> {
        match self.grants.get(&entry.id) {
            Some((known, rule)) if Arc::ptr_eq(known, entry) || known == entry => Ok(rule.clone()),
            _ => Rule::grant(&entry.id, &entry.spiffe_id, &entry.publish, &entry.subscribe).check(),
        }
    }
}

fn has_grants(entry: &RegistrationEntry) -> bool {
    !entry.publish.is_empty() || !entry.subscribe.is_empty()
}
