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
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often policy files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Rules that the cloud handed out, as last synced.
pub(crate) type CloudRules = Arc<Vec<Rule>>;

/// Reads the rules of the configuration: those of the directory and built-in ones.
pub(crate) fn file_rules(config: &PolicyConfig) -> anyhow::Result<Sources> {
    let mut sources = Sources::default();
    take_files(&mut sources, config)?;
    Ok(sources)
}

/// Reads the policy files and puts their rules in place of those before; what is faulty changes nothing.
fn take_files(sources: &mut Sources, config: &PolicyConfig) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for file in config.dir.as_deref().map(policy_files).transpose()?.unwrap_or_default() {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        files.push((file.display().to_string(), text));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    sources.set_files(&files, config.builtin).map_err(|errors| anyhow::Error::msg(listed(&errors)))
}

/// What tells whether policy files have changed without reading them; unset where they cannot be listed.
type Marks = Option<Vec<(PathBuf, Option<SystemTime>, u64)>>;

fn marks(config: &PolicyConfig) -> Marks {
    let files = config.dir.as_deref().map(policy_files).transpose().ok()?.unwrap_or_default();
    let mark = |file: PathBuf| {
        let metadata = std::fs::metadata(&file).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        (file, modified, metadata.map_or(0, |metadata| metadata.len()))
    };
    Some(files.into_iter().map(mark).collect())
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
    config: PolicyConfig,
    /// The files as last taken over, and as last looked at.
    taken: Marks,
    seen: Marks,
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
        (config, sources): (PolicyConfig, Sources),
        view: &IssuerView,
        cloud: &CloudRules,
        problems: Problems,
    ) -> (Self, watch::Receiver<Arc<Policy>>) {
        let (sender, receiver) = watch::channel(Arc::clone(sources.policy()));
        let (entries, none) = (HashMap::new(), CloudRules::default());
        let taken = marks(&config);
        let (seen, cloud_faults) = (taken.clone(), Vec::new());
        let mut task = Self {
            config,
            taken,
            seen,
            sources,
            cloud: none,
            cloud_faults,
            entries,
            sender,
            problems,
            trail: None,
        };
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
        let mut hangup = signal(SignalKind::hangup())?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                changed = view.changed() => changed?,
                // The task that feeds it has ended, and tells why itself; that reason must come first.
                changed = cloud.changed() => if changed.is_err() { return std::future::pending().await },
                _ = look.tick() => {
                    self.look();
                    continue;
                }
                _ = hangup.recv() => {
                    self.reload();
                    continue;
                }
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
        self.publish();
        let of_entries = self.entries.values().flat_map(|(_, faults)| faults);
        let faults: Vec<PolicyError> = self.cloud_faults.iter().chain(of_entries).cloned().collect();
        let problem = (!faults.is_empty()).then(|| Problem {
            what: format!("policy: {}", listed(&faults)),
            remedy: "correct the rule at its source; until then what held before holds on".into(),
        });
        self.problems.set("policy", problem);
    }

    fn publish(&self) {
        if !Arc::ptr_eq(&self.sender.borrow(), self.sources.policy()) {
            let policy = Arc::clone(self.sources.policy());
            tracing::debug!(epoch = policy.epoch(), rules = policy.rules(), "policy");
            let before = self.sender.send_replace(Arc::clone(&policy));
            if let Some(trail) = &self.trail {
                trail.policy_changed(&before, &policy);
            }
        }
    }

    /// Looks whether policy files have changed. They are taken over once two looks find the same: who writes
    /// them may be in the middle of it, and half a policy could be valid.
    fn look(&mut self) {
        let now = marks(&self.config);
        if now == self.seen && now != self.taken {
            self.reload();
        }
        self.seen = now;
    }

    /// Takes over the policy files as they are. What is faulty changes nothing, loudly.
    fn reload(&mut self) {
        self.taken = marks(&self.config);
        let taken = take_files(&mut self.sources, &self.config);
        if taken.is_ok() {
            let policy = self.sources.policy();
            tracing::info!(epoch = policy.epoch(), rules = policy.rules(), "policy files taken over");
        }
        self.publish();
        let problem = taken.err().map(|error| Problem {
            what: format!("policy files: {error:#}"),
            remedy: "correct them (`midge policy check` names every fault); until then the policy of before holds on"
                .into(),
        });
        self.problems.set("policy-files", problem);
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

#[cfg(test)]
mod tests {
    use super::*;
    use midge_identity::SpiffeId;
    use mqtt_proto::TopicName;

    fn rule(publish: &str) -> String {
        format!("[[rule]]\nname = \"a\"\nid = \"spiffe://td/a\"\npublish = [\"{publish}\"]\n")
    }

    struct Stage {
        dir: tempfile::TempDir,
        task: PolicyTask,
        policy: watch::Receiver<Arc<Policy>>,
        problems: Problems,
    }

    impl Stage {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("a.toml"), rule("one")).unwrap();
            let config = PolicyConfig { dir: Some(dir.path().into()), builtin: false };
            let (sources, problems) = (file_rules(&config).unwrap(), Problems::default());
            let (sender, policy) = watch::channel(Arc::clone(sources.policy()));
            let (taken, seen) = (marks(&config), marks(&config));
            let task = PolicyTask {
                config,
                taken,
                seen,
                sources,
                cloud: CloudRules::default(),
                cloud_faults: Vec::new(),
                entries: HashMap::new(),
                sender,
                problems: problems.clone(),
                trail: None,
            };
            Self { dir, task, policy, problems }
        }

        fn write(&self, text: &str) {
            std::fs::write(self.dir.path().join("a.toml"), text).unwrap();
        }

        fn allows(&self, topic: &str) -> bool {
            let id = SpiffeId::new("spiffe://td/a").unwrap();
            let rights = self.policy.borrow().rights(&id);
            rights.publish(&TopicName::new(topic).unwrap(), midge_policy::PublishFacts::default()).is_ok()
        }
    }

    // F25
    #[test]
    fn files_are_taken_over_once_they_rest_and_faulty_ones_change_nothing() {
        let mut stage = Stage::new();
        stage.write(&rule("another"));
        stage.task.look();
        assert!(stage.allows("one") && !stage.allows("another"), "it may be half written");
        stage.task.look();
        assert!(!stage.allows("one") && stage.allows("another"));
        assert_eq!(stage.problems.list(), []);

        for faulty in ["[[rule]]", "allow = true", &rule("#/x"), "\u{0}"] {
            stage.write(faulty);
            stage.task.reload();
            assert!(stage.allows("another") && !stage.allows("one"), "{faulty}");
            assert!(stage.problems.list()[0].what.contains("a.toml"), "{:?}", stage.problems.list());
        }
        stage.write(&rule("one"));
        stage.task.reload();
        assert!(stage.allows("one") && !stage.allows("another"));
        assert_eq!(stage.problems.list(), []);
    }

    #[test]
    fn a_directory_that_is_gone_changes_nothing_and_an_empty_one_takes_its_rules_away() {
        let mut stage = Stage::new();
        let path = stage.dir.path().join("a.toml");
        std::fs::rename(stage.dir.path(), stage.dir.path().with_extension("away")).unwrap();
        stage.task.look();
        stage.task.look();
        assert!(stage.allows("one") && stage.problems.list().len() == 1);
        std::fs::rename(stage.dir.path().with_extension("away"), stage.dir.path()).unwrap();
        std::fs::remove_file(path).unwrap();
        stage.task.look();
        stage.task.look();
        assert!(!stage.allows("one"));
        assert_eq!(stage.problems.list(), []);
    }
}
