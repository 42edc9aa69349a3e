//! The policy of an edge: built-in rules, files, rules from the cloud, grants of entries. How they
//! count together is `midge_policy::Sources`.

use super::problems::{Problem, Problems};
use super::trail::Trail;
use crate::config::PolicyConfig;
use anyhow::Context as _;
use issuer_core::RegistrationEntry;
use midge_issuer::IssuerView;
use midge_policy::{Policy, PolicyError, Rule, Sources};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Rules that the cloud handed out, as last synced.
pub(crate) type CloudRules = Arc<Vec<Rule>>;

/// Reads the rules of the configuration: those of the directory and built-in ones.
pub(crate) fn file_rules(config: &PolicyConfig) -> anyhow::Result<Sources> {
    let mut files = Vec::new();
    for file in config.dir.as_deref().map(policy_files).transpose()?.unwrap_or_default() {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        files.push((file.display().to_string(), text));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    let mut sources = Sources::default();
    sources.set_files(&files, config.builtin).map_err(|errors| anyhow::Error::msg(listed(&errors)))?;
    Ok(sources)
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

fn listed(errors: &[PolicyError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Keeps the policy in step with entries and cloud rules.
pub(crate) struct PolicyTask {
    sources: Sources,
    cloud: CloudRules,
    cloud_faults: Vec<PolicyError>,
    /// Entries that grant something, as last taken over, with the faults of their grants.
    entries: HashMap<String, (Arc<RegistrationEntry>, Vec<PolicyError>)>,
    sender: watch::Sender<Arc<Policy>>,
    problems: Problems,
    trail: Option<Arc<Trail>>,
}

impl PolicyTask {
    /// Returns the task and where its policies appear; the first one is complete already.
    pub(crate) fn new(
        sources: Sources,
        view: &IssuerView,
        cloud: &CloudRules,
        problems: Problems,
    ) -> (Self, watch::Receiver<Arc<Policy>>) {
        let (sender, receiver) = watch::channel(Arc::clone(sources.policy()));
        let (entries, none) = (HashMap::new(), CloudRules::default());
        let mut task =
            Self { sources, cloud: none, cloud_faults: Vec::new(), entries, sender, problems, trail: None };
        task.update(view, cloud);
        (task, receiver)
    }

    /// Records what is in force, and each change of it.
    pub(crate) fn recorded(self, trail: Arc<Trail>) -> Self {
        trail.policy_loaded(self.sources.policy());
        Self { trail: Some(trail), ..self }
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

    /// What is faulty changes nothing, loudly: neither the cloud's rules nor a grant.
    fn update(&mut self, view: &IssuerView, cloud: &CloudRules) {
        if self.cloud != *cloud {
            self.cloud_faults = self.sources.set_cloud(cloud).err().unwrap_or_default();
            self.cloud = Arc::clone(cloud);
        }
        self.update_grants(view);
        if !Arc::ptr_eq(&self.sender.borrow(), self.sources.policy()) {
            let policy = Arc::clone(self.sources.policy());
            tracing::debug!(epoch = policy.epoch(), rules = policy.rules(), "policy");
            let before = self.sender.send_replace(Arc::clone(&policy));
            if let Some(trail) = &self.trail {
                trail.policy_changed(&before, &policy);
            }
        }
        let of_entries = self.entries.values().flat_map(|(_, faults)| faults);
        let faults: Vec<PolicyError> = self.cloud_faults.iter().chain(of_entries).cloned().collect();
        let problem = (!faults.is_empty()).then(|| Problem {
            what: format!("policy: {}", listed(&faults)),
            remedy: "correct the rule at its source; until then what held before holds on".into(),
        });
        self.problems.set("policy", problem);
    }

    fn update_grants(&mut self, view: &IssuerView) {
        let known = |entry: &Arc<RegistrationEntry>| {
            self.entries.get(&entry.id).is_some_and(|(known, _)| Arc::ptr_eq(known, entry) || known == entry)
        };
        let granting = || view.entries.iter().filter(|entry| has_grants(entry));
        let come: Vec<_> = granting().filter(|entry| !known(entry)).cloned().collect();
        let there: HashSet<&str> = granting().map(|entry| &*entry.id).collect();
        let gone: Vec<String> = self.entries.keys().filter(|id| !there.contains(&***id)).cloned().collect();
        let grant = |e: &Arc<RegistrationEntry>| Rule::grant(&e.id, &e.spiffe_id, &e.publish, &e.subscribe);
        let grants: Vec<Rule> = come.iter().map(grant).collect();
        let faults = self.sources.set_grants(&grants, gone.iter().map(String::as_str));
        for id in &gone {
            self.entries.remove(id);
        }
        for (entry, grant) in come.into_iter().zip(&grants) {
            let own = faults.iter().filter(|fault| fault.rule.as_deref() == Some(&*grant.name)).cloned();
            self.entries.insert(entry.id.clone(), (entry, own.collect()));
        }
    }
}

fn has_grants(entry: &RegistrationEntry) -> bool {
    !entry.publish.is_empty() || !entry.subscribe.is_empty()
}
