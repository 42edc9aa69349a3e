//! The policy of an edge: built-in rules, files, rules from the cloud, grants of entries. How they
//! count together is `midge_policy::Sources`.

mod candidate;
mod clerk;
mod files;
mod follower;
mod metrics;
mod reader;
mod state;

pub(crate) use clerk::Clerk;
pub(crate) use files::{BYTES_MAX, policy_files};
pub(crate) use follower::Follower;
pub(crate) use metrics::policy_metrics;
pub(crate) use reader::{READ_WITHIN, overdue, read_regular};
pub(crate) use state::{Fault, Lint, Origin, PolicyState};

use super::cloud_rules::CloudRules;
use super::problems::{Problem, Problems};
use super::trail::Trail;
use super::watchers::Watchers;
use crate::config::PolicyConfig;
use candidate::Candidate;
use files::{Builtin, Files, Read, Texts};
use follower::Came;
use issuer_core::RegistrationEntry;
use midge_issuer::IssuerView;
use midge_policy::{Policy, PolicyError, Rule, Sources};
use midge_runtime::Clock;
use state::{State, listed};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Operators that may wait for a reload.
const RELOADS_MAX: usize = 16;

/// All registration entries.
type Entries = [Arc<RegistrationEntry>];

/// The rules of the configuration and the files they were read from: who looks for changes has to know what was read, or
/// a change between the two goes unnoticed.
#[derive(Debug)]
pub(crate) struct FileRules {
    files: Files,
    builtin: Builtin,
    pub(crate) sources: Sources,
}

/// Reads the rules of the configuration: those of the directory and built-in ones. `own`: the trust domain that the
/// built-in ones speak of, where identities of others may connect too.
pub(crate) async fn file_rules(config: &PolicyConfig, own: Option<&str>) -> anyhow::Result<FileRules> {
    let builtin = Builtin::new(config.builtin, own);
    let mut rules =
        FileRules { files: Files::new(config.dir.as_deref()), builtin, sources: Sources::default() };
    let texts = rules.files.read().await.texts;
    let taken = take_files(&mut rules.sources, texts, &rules.builtin);
    taken.map_err(|faults| anyhow::Error::msg(listed(&faults)))?;
    Ok(rules)
}

/// Puts the rules of files in place of those before; what is faulty changes nothing.
fn take_files(sources: &mut Sources, texts: Texts, builtin: &Builtin) -> Result<(), Vec<Fault>> {
    let texts = texts?;
    let mut texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (&**name, &**text)).collect();
    texts.extend(builtin.text());
    sources.set_files(&texts, false).map_err(|errors| errors.iter().map(Fault::from).collect())
}

/// How a reload of the policy files ended: which load it was and whether something changed, or why not.
type Loaded = Result<(u64, bool), Vec<Fault>>;

/// How a reload that an operator asked for ended.
pub(crate) struct Reloaded {
    pub(crate) files: Loaded,
    /// None where none is configured.
    pub(crate) candidate: Option<ReloadedCandidate>,
}

/// How a candidate was read.
pub(crate) struct ReloadedCandidate {
    /// Whether it is evaluated.
    pub(crate) is_there: bool,
    /// Whether it is another now, or why its files were refused.
    pub(crate) taken: Result<bool, Vec<Fault>>,
}

/// The policy as the rest of the process sees it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PolicyHandle {
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
    pub(crate) state: watch::Receiver<PolicyState>,
    pub(crate) watchers: Watchers,
    reloads: mpsc::Sender<oneshot::Sender<Reloaded>>,
}

impl PolicyHandle {
    /// Has the policy files read now; none when the process stops.
    pub(crate) async fn reload(&self) -> Option<Reloaded> {
        let (answer, answered) = oneshot::channel();
        self.reloads.send(answer).await.ok()?;
        answered.await.ok()
    }

    /// Ends when the process stops.
    pub(crate) async fn ended(&self) {
        self.reloads.closed().await;
    }
}

/// What the policy task needs of others.
pub(crate) struct PolicyParts {
    pub(crate) problems: Problems,
    pub(crate) clock: Clock,
    /// Where changes are recorded.
    pub(crate) trail: Option<Arc<Trail>>,
}

/// Keeps the policy in step with files, entries and cloud rules.
pub(crate) struct PolicyTask {
    /// What was read of files.
    came: mpsc::Receiver<Came>,
    builtin: Builtin,
    sources: Sources,
    candidate: Option<Candidate>,
    cloud: CloudRules,
    cloud_faults: Vec<Fault>,
    /// Entries that grant something, as last taken over, with the faults of their grants.
    entries: HashMap<String, (Arc<RegistrationEntry>, Vec<PolicyError>)>,
    sender: watch::Sender<Arc<Policy>>,
    state: State,
    watchers: Watchers,
    clerk: Clerk,
    parts: PolicyParts,
}

impl PolicyTask {
    /// Returns the task, who has to follow the files beside it, and where its policies appear; the first one is complete
    /// already.
    pub(crate) async fn new(
        (config, FileRules { files, builtin, sources }): (&PolicyConfig, FileRules),
        entries: &Entries,
        cloud: &CloudRules,
        parts: PolicyParts,
    ) -> (Self, Follower, PolicyHandle) {
        let (sender, policy) = watch::channel(Arc::clone(sources.policy()));
        let state = State::new((config.dir.clone(), config.shadow.clone()), parts.clock.now());
        let (asked, reloads) = mpsc::channel(RELOADS_MAX);
        let watchers = Watchers::default();
        let handle =
            PolicyHandle { policy, state: state.subscribe(), watchers: watchers.clone(), reloads: asked };
        let (read, came) = mpsc::channel(1);
        let candidate = config.shadow.as_deref().map(|dir| Files::new(Some(dir)));
        let mut follower = Follower { files, candidate, reloads, came: read };
        let mut task = Self {
            came,
            candidate: follower.candidate.as_ref().map(|_| Candidate::new(builtin.clone())),
            builtin,
            sources,
            cloud: CloudRules::default(),
            cloud_faults: Vec::new(),
            entries: HashMap::new(),
            sender,
            clerk: Clerk::new(state.clone(), parts.trail.clone()),
            state,
            watchers,
            parts: PolicyParts { trail: None, problems: parts.problems.clone(), clock: parts.clock.clone() },
        };
        task.update(entries, cloud);
        if let Some(files) = &mut follower.candidate {
            drop(task.take_candidate(files.read().await));
        }
        // What is there at the start is no change.
        task.state.start(&task.sources);
        task.clerk.lint(0, task.sources.file_rules());
        if let Some(trail) = &parts.trail {
            trail.policy_loaded(task.sources.policy());
        }
        task.parts = parts;
        (task, follower, handle)
    }

    /// Returns who writes about changes; it has to be run beside the task.
    pub(crate) fn clerk(&self) -> Clerk {
        self.clerk.clone()
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
                Some(came) = self.came.recv() => {
                    self.take_over(came);
                    continue;
                }
            }
            let (view, cloud) = (Arc::clone(&view.borrow_and_update()), cloud.borrow_and_update().clone());
            self.update(&view.entries, &cloud);
        }
    }

    /// What is faulty gives nothing, loudly: of the cloud, the rules of before hold on; what an entry granted ends.
    fn update(&mut self, entries: &Entries, cloud: &CloudRules) {
        if self.cloud != *cloud {
            let mut faults = cloud.faults.to_vec();
            let taken = self.sources.set_cloud(&cloud.rules);
            faults.extend(taken.err().iter().flatten().map(Fault::from));
            if let Some(candidate) = &mut self.candidate {
                candidate.set_cloud(&cloud.rules);
            }
            self.note_faults(Origin::Cloud, (!faults.is_empty()).then_some(&*faults));
            self.cloud_faults = faults;
            self.cloud = cloud.clone();
        }
        self.update_grants(entries);
        self.publish();
        let of_entries = self.entries.values().flat_map(|(_, faults)| faults);
        let faults: Vec<Fault> =
            self.cloud_faults.iter().cloned().chain(of_entries.map(Fault::from)).collect();
        let problem = (!faults.is_empty()).then(|| Problem {
            what: format!("policy: {}", listed(&faults)),
            remedy: "correct it at its source, or update this box if its cloud is newer; until then the cloud's rules \
                     of before hold on, and a faulty entry grants nothing"
                .into(),
        });
        self.parts.problems.set("policy", problem);
    }

    /// Counts a change that was taken over, or refused for faults.
    fn note(&self, origin: Origin, errors: Option<&[PolicyError]>) {
        let faults = errors.map(|errors| errors.iter().map(Fault::from).collect::<Vec<_>>());
        self.note_faults(origin, faults.as_deref());
    }

    fn note_faults(&self, origin: Origin, faults: Option<&[Fault]>) {
        let at = self.parts.clock.now();
        let Some(faults) = faults else { return self.state.taken(origin, at) };
        self.state.refused(origin, at, faults.to_vec());
        if let Some(trail) = &self.parts.trail {
            trail.policy_refused(origin.name(), faults.iter().map(ToString::to_string));
        }
    }

    fn publish(&mut self) {
        let policy = self.sources.policy();
        if !Arc::ptr_eq(&self.sender.borrow(), policy) {
            tracing::debug!(epoch = policy.epoch(), rules = policy.rules(), "policy");
            let before = self.sender.send_replace(Arc::clone(policy));
            self.state.in_force(&self.sources);
            if self.parts.trail.is_some() {
                self.clerk.record(before, Arc::clone(policy), self.parts.clock.now());
            }
        }
        if let Some(candidate) = &self.candidate {
            candidate.follow(&self.watchers);
        }
    }

    /// Takes over what was read of files.
    fn take_over(&mut self, Came { files, candidate, asked }: Came) {
        let candidate = candidate.and_then(|read| self.take_candidate(read));
        let Some(files) = files.map(|read| self.take(read)) else { return };
        if let Some(asked) = asked {
            // Who asked may be gone; it is done all the same.
            drop(asked.send(Reloaded { candidate, files }));
        }
    }

    /// Takes over the policy files as they were read. What is faulty changes nothing, loudly.
    fn take(&mut self, read: Read) -> Loaded {
        let before = self.sources.policy().epoch();
        let taken = take_files(&mut self.sources, read.texts, &self.builtin);
        self.note_faults(Origin::Files, taken.as_ref().err().map(Vec::as_slice));
        let load = self.state.loaded();
        if taken.is_ok() {
            let policy = self.sources.policy();
            if policy.epoch() != before {
                tracing::info!(epoch = policy.epoch(), rules = policy.rules(), "policy files taken over");
            }
            self.clerk.lint(load, self.sources.file_rules());
        }
        self.publish();
        let problem = taken.as_ref().err().map(|faults| Problem {
            what: format!("policy files: {}", listed(faults)),
            remedy: "correct them (`midge policy check` names every fault); until then the policy of before holds on"
                .into(),
        });
        self.parts.problems.set("policy-files", problem);
        taken.map(|()| (load, self.sources.policy().epoch() != before))
    }

    fn take_candidate(&mut self, read: Read) -> Option<ReloadedCandidate> {
        let candidate = self.candidate.as_mut()?;
        let taken = candidate.take(read, &self.watchers, self.parts.clock.now());
        let problem = taken.as_ref().err().map(|faults| Problem {
            what: format!("candidate policy: {}", listed(faults)),
            remedy: "correct the files (policy.shadow); nothing depends on them but `midge policy shadow`"
                .into(),
        });
        self.note_faults(Origin::Shadow, taken.as_ref().err().map(Vec::as_slice));
        self.parts.problems.set("policy-shadow", problem);
        let is_there = self.candidate.as_ref().is_some_and(Candidate::is_there);
        Some(ReloadedCandidate { is_there, taken })
    }

    fn update_grants(&mut self, entries: &Entries) {
        let known = |entry: &Arc<RegistrationEntry>| {
            self.entries.get(&entry.id).is_some_and(|(known, _)| Arc::ptr_eq(known, entry) || known == entry)
        };
        let granting = || entries.iter().filter(|entry| has_grants(entry));
        let come: Vec<_> = granting().filter(|entry| !known(entry)).cloned().collect();
        let there: HashSet<&str> = granting().map(|entry| &*entry.id).collect();
        let gone: Vec<String> = self.entries.keys().filter(|id| !there.contains(&***id)).cloned().collect();
        if come.is_empty() && gone.is_empty() {
            return;
        }
        let grant = |e: &Arc<RegistrationEntry>| Rule::grant(&e.id, &e.spiffe_id, &e.publish, &e.subscribe);
        let grants: Vec<Rule> = come.iter().map(grant).collect();
        let faults = self.sources.set_grants(&grants, gone.iter().map(String::as_str));
        if let Some(candidate) = &mut self.candidate {
            candidate.set_grants(&grants, &gone);
        }
        self.note(Origin::Entries, (!faults.is_empty()).then_some(&*faults));
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
    use midge_identity::{SpiffeId, UnixMillis};
    use mqtt_proto::TopicName;

    fn rule(publish: &str) -> String {
        format!("[[rule]]\nname = \"a\"\nid = \"spiffe://td/a\"\npublish = [\"{publish}\"]\n")
    }

    struct Stage {
        dir: tempfile::TempDir,
        task: PolicyTask,
        follower: Follower,
        handle: PolicyHandle,
        problems: Problems,
    }

    impl Stage {
        async fn new() -> Self {
            Self::started(|_| ()).await
        }

        /// Does something between the first reading of the files and the start of the task.
        async fn started(meanwhile: impl FnOnce(&std::path::Path)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("a.toml"), rule("one")).unwrap();
            let config = PolicyConfig {
                dir: Some(dir.path().into()),
                shadow: Some(dir.path().join("candidate")),
                builtin: false,
            };
            let (rules, problems) = (file_rules(&config, None).await.unwrap(), Problems::default());
            meanwhile(dir.path());
            let clock = Clock::manual(UnixMillis(1_000));
            let parts = PolicyParts { problems: problems.clone(), clock, trail: None };
            let (task, follower, handle) =
                PolicyTask::new((&config, rules), &[], &CloudRules::default(), parts).await;
            Self { dir, task, follower, handle, problems }
        }

        async fn look(&mut self) {
            let came = self.follower.look().await;
            self.task.take_over(came);
        }

        async fn reload(&mut self) -> Reloaded {
            let (asked, mut answer) = oneshot::channel();
            let came = self.follower.read(Some(asked)).await;
            self.task.take_over(came);
            answer.try_recv().unwrap()
        }

        fn state(&self) -> PolicyState {
            self.handle.state.borrow().clone()
        }

        fn write(&self, text: &str) {
            std::fs::write(self.dir.path().join("a.toml"), text).unwrap();
        }

        fn allows(&self, topic: &str) -> bool {
            let id = SpiffeId::new("spiffe://td/a").unwrap();
            let rights = self.handle.policy.borrow().rights(&id);
            rights.publish(&TopicName::new(topic).unwrap(), midge_policy::PublishFacts::default()).is_ok()
        }
    }

    // F25
    #[tokio::test]
    async fn files_are_taken_over_once_they_rest_and_faulty_ones_change_nothing() {
        let mut stage = Stage::new().await;
        stage.write(&rule("another"));
        stage.look().await;
        assert!(stage.allows("one") && !stage.allows("another"), "it may be half written");
        stage.look().await;
        assert!(!stage.allows("one") && stage.allows("another"));
        assert_eq!(stage.problems.list(), []);

        for faulty in ["[[rule]]", "allow = true", &rule("#/x"), "\u{0}"] {
            stage.write(faulty);
            assert!(stage.reload().await.files.is_err());
            assert!(stage.allows("another") && !stage.allows("one"), "{faulty}");
            assert!(stage.problems.list()[0].what.contains("a.toml"), "{:?}", stage.problems.list());
        }
        let refused = stage.state().refused.unwrap();
        assert!(!refused.is_corrected && refused.faults[0].to_string().contains("a.toml"), "{refused:?}");
        stage.write(&rule("one"));
        assert_eq!(stage.reload().await.files, Ok((6, true)));
        assert!(stage.allows("one") && !stage.allows("another"));
        assert_eq!(stage.problems.list(), []);
        let state = stage.state();
        assert!(state.refused.as_ref().unwrap().is_corrected);
        let counted = state.changes_of(Origin::Files);
        assert_eq!((counted.taken, counted.refused, state.loads, state.epoch), (2, 4, 6, 3));
        assert_eq!(stage.reload().await.files, Ok((7, false)), "the same again");
    }

    #[tokio::test]
    async fn what_changes_between_the_first_reading_and_the_first_look_is_taken_over() {
        let mut stage =
            Stage::started(|dir| std::fs::write(dir.join("a.toml"), rule("another")).unwrap()).await;
        assert!(stage.allows("one") && !stage.allows("another"));
        stage.look().await;
        stage.look().await;
        assert!(!stage.allows("one") && stage.allows("another"));

        let mut stage = Stage::started(|dir| drop(std::fs::read(dir.join("a.toml")).unwrap())).await;
        for _ in 0..3 {
            stage.look().await;
        }
        assert_eq!((stage.allows("one"), stage.state().loads), (true, 0), "nothing has changed");
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_changes_nothing_and_an_empty_one_takes_its_rules_away() {
        let mut stage = Stage::new().await;
        let path = stage.dir.path().join("a.toml");
        std::fs::rename(stage.dir.path(), stage.dir.path().with_extension("away")).unwrap();
        stage.look().await;
        stage.look().await;
        assert!(stage.allows("one") && stage.problems.list().len() == 1);
        std::fs::rename(stage.dir.path().with_extension("away"), stage.dir.path()).unwrap();
        std::fs::remove_file(path).unwrap();
        stage.look().await;
        stage.look().await;
        assert!(!stage.allows("one"));
        assert_eq!(stage.problems.list(), []);
    }

    #[tokio::test]
    async fn faults_of_the_clouds_rules_are_told_until_they_are_gone_and_what_holds_meanwhile_holds() {
        let mut stage = Stage::new().await;
        let rules = Rule::from_toml_str(&rule("from-cloud").replace("\"a\"", "\"c\""), "cloud").unwrap();
        let sound = CloudRules::sound(rules);
        let fault = Fault::new(midge_policy::RuleSource::Cloud, "this version cannot read it".into());
        let faulty = CloudRules { faults: Arc::new(vec![fault]), ..sound.clone() };
        for _ in 0..2 {
            stage.task.update(&[], &sound);
            assert!(stage.allows("from-cloud") && stage.problems.list().is_empty());
            stage.task.update(&[], &faulty);
            assert!(stage.allows("from-cloud"));
            let [problem] = &*stage.problems.list() else { panic!("{:?}", stage.problems.list()) };
            assert!(problem.what.contains("cannot read"), "{problem:?}");
            assert!(!stage.state().refused.unwrap().is_corrected);
        }
        stage.task.update(&[], &CloudRules::default());
        assert!(!stage.allows("from-cloud") && stage.problems.list().is_empty());
        assert!(stage.state().refused.unwrap().is_corrected);
        assert_eq!(stage.state().changes_of(Origin::Cloud).refused, 2);
    }

    fn pipe(path: &std::path::Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    // F25
    #[tokio::test]
    async fn what_is_no_regular_file_is_a_fault_and_is_not_waited_for() {
        let mut stage = Stage::new().await;
        let dir = stage.dir.path().to_owned();
        pipe(&dir.join("z.toml"));
        std::os::unix::fs::symlink("/dev/zero", dir.join("y.toml")).unwrap();
        let candidate = dir.join("candidate");
        std::fs::create_dir(&candidate).unwrap();
        pipe(&candidate.join("c.toml"));
        for (name, what) in [("y.toml", "device"), ("z.toml", "named pipe")] {
            let Reloaded { files, candidate } = stage.reload().await;
            let told = listed(&files.unwrap_err());
            assert!(told.contains(name) && told.contains(what), "{told}");
            let faults = candidate.unwrap().taken.unwrap_err();
            assert!(listed(&faults).contains("c.toml: cannot read: it is a named pipe"), "{faults:?}");
            assert_eq!(stage.problems.list().len(), 2);
            std::fs::remove_file(dir.join(name)).unwrap();
        }
        std::fs::remove_file(candidate.join("c.toml")).unwrap();
        // A link to a regular file is as good as one: directories that are replaced as a whole are made of them.
        std::fs::write(dir.join("rules"), rule("two").replace("\"a\"", "\"b\"")).unwrap();
        std::os::unix::fs::symlink("rules", dir.join("b.toml")).unwrap();
        stage.look().await;
        stage.look().await;
        assert!(stage.allows("one") && stage.allows("two") && stage.problems.list().is_empty());
    }

    // F25
    #[tokio::test]
    async fn files_that_do_not_answer_are_told_while_entries_and_the_cloud_go_on_and_are_read_when_they_do() {
        let mut stage = Stage::new().await;
        let dir = stage.dir.path().to_owned();
        let (go_on, released) = std::sync::mpsc::channel::<()>();
        let (asked, mut questions) = mpsc::unbounded_channel();
        let (hung, at) = (dir.join("a.toml"), dir.clone());
        let find = move |with_texts, place: &reader::Place| {
            hung.clone_into(&mut place.lock());
            asked.send(()).unwrap();
            // Until the sender is gone.
            assert!(released.recv().is_err());
            files::find(&at, with_texts, place)
        };
        stage.follower.files.read_by(reader::Reader::of(&dir, std::time::Duration::from_millis(5), find));
        stage.write(&rule("another"));
        stage.look().await;
        questions.recv().await.unwrap();
        let problems = stage.problems.list();
        assert!(problems[0].what.contains("a.toml: cannot read it within"), "{problems:?}");
        for _ in 0..3 {
            stage.look().await;
            assert!(stage.reload().await.files.is_err());
        }
        assert!(questions.try_recv().is_err(), "one thread waits, once");
        assert_eq!(stage.state().changes_of(Origin::Files).refused, 4, "looks tell it once");

        let cloud = Rule::from_toml_str(&rule("from-cloud").replace("\"a\"", "\"c\""), "cloud").unwrap();
        stage.task.update(&[], &CloudRules::sound(cloud));
        assert!(stage.allows("one") && stage.allows("from-cloud") && !stage.allows("another"));
        stage.task.update(&[], &CloudRules::default());
        assert!(!stage.allows("from-cloud"));

        drop(go_on);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !stage.allows("another") {
            assert!(std::time::Instant::now() < deadline, "{:?}", stage.problems.list());
            stage.look().await;
        }
        assert!(!stage.allows("one") && stage.problems.list().is_empty());
    }

    #[tokio::test]
    async fn a_candidate_is_there_while_its_directory_has_files_and_takes_entries_and_cloud_rules_too() {
        let mut stage = Stage::new().await;
        assert!(stage.handle.watchers.shadow().is_none());
        let candidate = stage.dir.path().join("candidate");
        std::fs::create_dir(&candidate).unwrap();
        std::fs::write(candidate.join("c.toml"), rule("two")).unwrap();
        stage.look().await;
        assert!(stage.handle.watchers.shadow().is_none(), "it may be half written");
        stage.look().await;
        let cloud = Rule::from_toml_str(&rule("from-cloud").replace("\"a\"", "\"c\""), "cloud").unwrap();
        stage.task.update(&[], &CloudRules::sound(cloud));
        assert_eq!(stage.handle.watchers.shadow().map(|shadow| shadow.rules), Some(2));
        assert!(stage.allows("one") && !stage.allows("two"), "nothing else depends on it");

        std::fs::write(candidate.join("c.toml"), "[[rule]]").unwrap();
        let faulty = stage.reload().await.candidate.unwrap();
        assert!(faulty.is_there && faulty.taken.is_err_and(|faults| faults.len() == 1));
        assert_eq!(stage.handle.watchers.shadow().map(|shadow| shadow.rules), Some(2));
        assert!(stage.problems.list()[0].what.contains("c.toml"), "{:?}", stage.problems.list());
        std::fs::remove_file(candidate.join("c.toml")).unwrap();
        let gone = stage.reload().await.candidate.unwrap();
        assert!(!gone.is_there && gone.taken == Ok(true));
        assert!(stage.handle.watchers.shadow().is_none());
        assert_eq!(stage.problems.list(), []);
    }
}
