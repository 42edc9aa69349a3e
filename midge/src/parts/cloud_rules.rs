//! The rules that the cloud handed out: as it handed them out, and as they hold here.

use super::policy::Fault;
use midge_policy::{Policy, Rule, RuleSource};
use midge_store::{Batch, Store};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

const RULE_PREFIX: &str = "cloud-rule/";
/// What held when the rules on disk became faulty; missing while they are not.
const HELD_KEY: &str = "cloud-rules/held";

/// Rules of the cloud.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CloudRules {
    /// Those that hold.
    pub(crate) rules: Arc<Vec<Rule>>,
    /// Why they are not those that were handed out last.
    pub(crate) faults: Arc<Vec<Fault>>,
}

impl CloudRules {
    /// Rules without a fault.
    pub(crate) fn sound(rules: Vec<Rule>) -> Self {
        Self { rules: Arc::new(rules), faults: Arc::default() }
    }
}

/// Keeps them on disk and shows which hold.
pub(super) struct HandedRules {
    store: Store,
    sender: watch::Sender<CloudRules>,
}

/// What becomes of the rules once `batch` is on disk.
pub(super) struct Planned {
    pub(super) batch: Batch,
    next: CloudRules,
}

/// Rules by their keys, as they were handed out.
type Texts = BTreeMap<String, Vec<u8>>;

impl HandedRules {
    /// Reads what was handed out before.
    pub(super) async fn open(store: Store) -> Result<Self, String> {
        let handed = Self { store, sender: watch::Sender::default() };
        let texts = handed.texts().await?;
        let next = match read(&texts) {
            Ok(rules) => CloudRules::sound(rules),
            Err(faults) => holding(handed.held().await?, &texts, faults),
        };
        handed.sender.send_replace(next);
        Ok(handed)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<CloudRules> {
        self.sender.subscribe()
    }

    /// Returns what a new set of rules does: all of them by name, so that an allow never comes before its deny.
    ///
    /// A rule that cannot be read may be a deny, or be what a deny makes an exception from: without it the others do
    /// not mean what they say. So the whole set is faulty, and what held before holds on.
    pub(super) async fn plan(&self, rules: &BTreeMap<String, Value>) -> Result<Planned, String> {
        let before = self.texts().await?;
        let text = |(name, content): (&String, &Value)| {
            (format!("{RULE_PREFIX}{name}"), content.to_string().into_bytes())
        };
        let (texts, mut batch): (Texts, _) = (rules.iter().map(text).collect(), Batch::new());
        for gone in before.keys().filter(|key| !texts.contains_key(*key)) {
            batch = batch.delete(gone.clone());
        }
        for (key, text) in texts.iter().filter(|(key, text)| before.get(*key) != Some(*text)) {
            batch = batch.put(key.clone(), text.clone());
        }
        let faults = match read(&texts) {
            Ok(rules) => {
                let next = CloudRules::sound(rules);
                return Ok(Planned { batch: batch.delete(HELD_KEY), next });
            }
            Err(faults) => faults,
        };
        let now = self.sender.borrow().clone();
        let held = if now.faults.is_empty() { now.rules } else { self.held().await? };
        let text = serde_json::to_vec(&*held).map_err(|error| error.to_string())?;
        Ok(Planned { batch: batch.put(HELD_KEY, text), next: holding(held, &texts, faults) })
    }

    /// Shows what was planned; its batch is on disk.
    pub(super) fn show(&self, next: Planned) {
        self.sender.send_replace(next.next);
    }

    async fn texts(&self) -> Result<Texts, String> {
        let records = self.store.scan(RULE_PREFIX).await.map_err(|error| error.to_string())?;
        Ok(records.into_iter().map(|(key, value)| (key, value.to_vec())).collect())
    }

    async fn held(&self) -> Result<Arc<Vec<Rule>>, String> {
        let stored = self.store.get(HELD_KEY).await.map_err(|error| error.to_string())?;
        let rules = stored.and_then(|text| serde_json::from_slice::<Vec<Rule>>(&text).ok());
        let rules = rules.unwrap_or_default().into_iter().map(|rule| rule.from_source(RuleSource::Cloud));
        Ok(Arc::new(rules.collect()))
    }
}

fn read(texts: &Texts) -> Result<Vec<Rule>, Vec<Fault>> {
    let (mut rules, mut faults) = (Vec::new(), Vec::new());
    for (key, text) in texts {
        match serde_json::from_slice::<Rule>(text) {
            Ok(rule) => rules.push(rule.from_source(RuleSource::Cloud)),
            Err(error) => faults.push(Fault {
                rule: Some(name_of(key).to_owned()),
                ..Fault::new(RuleSource::Cloud, format!("this version cannot read it: {error}"))
            }),
        }
    }
    if let Err(errors) = Policy::compile(rules.clone(), 1) {
        faults.extend(errors.iter().map(Fault::from));
    }
    if faults.is_empty() { Ok(rules) } else { Err(faults) }
}

/// What holds in place of a faulty set: what held before. Where nothing did, the denies and quotas of those that can
/// be read.
fn holding(held: Arc<Vec<Rule>>, texts: &Texts, mut faults: Vec<Fault>) -> CloudRules {
    let rules = if held.is_empty() {
        let message = "none held before: of those that can be read only denies and quotas hold";
        faults.push(Fault::new(RuleSource::Cloud, message.into()));
        Arc::new(texts.iter().filter_map(denies_of).collect())
    } else {
        held
    };
    CloudRules { rules, faults: Arc::new(faults) }
}

fn denies_of((key, text): (&String, &Vec<u8>)) -> Option<Rule> {
    let rule: Rule = serde_json::from_slice(text).ok()?;
    // Keys differ, whatever the names within.
    let denies = Rule { name: name_of(key).to_owned(), ..rule.denies_only().from_source(RuleSource::Cloud) };
    // Without either there is nothing left of it, which is a fault of its own. A faulty quota takes no deny away.
    let is_sound = |rule: &Rule| rule.check().is_ok();
    [denies.clone(), Rule { quota: None, ..denies }].into_iter().find(is_sound)
}

fn name_of(key: &str) -> &str {
    key.strip_prefix(RULE_PREFIX).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_store::{Durability, StoreInfo};
    use serde_json::json;

    struct Stage {
        dir: tempfile::TempDir,
        handed: HandedRules,
        set: BTreeMap<String, Value>,
    }

    impl Stage {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path().join("s.db"), &StoreInfo::new("edge", "td")).unwrap();
            Self { dir, handed: HandedRules::open(store).await.unwrap(), set: BTreeMap::new() }
        }

        /// Hands out these rules, beside those of before unless they `replace` them; null takes one back.
        async fn apply(&mut self, replace: bool, rules: &[(&str, Value)]) {
            if replace {
                self.set.clear();
            }
            self.set.extend(rules.iter().map(|(name, content)| ((*name).to_owned(), content.clone())));
            self.set.retain(|_, content| !content.is_null());
            let planned = self.handed.plan(&self.set).await.unwrap();
            self.handed.store.commit(planned.batch.clone(), Durability::PowerLoss).await.unwrap();
            self.handed.show(planned);
        }

        async fn restart(self) -> Self {
            self.handed.store.close().await.unwrap();
            let store = Store::open(self.dir.path().join("s.db"), &StoreInfo::new("edge", "td")).unwrap();
            Self { handed: HandedRules::open(store).await.unwrap(), ..self }
        }

        fn names(&self) -> Vec<String> {
            self.handed.sender.borrow().rules.iter().map(|rule| rule.name.clone()).collect()
        }

        fn faults(&self) -> Vec<String> {
            self.handed.sender.borrow().faults.iter().map(ToString::to_string).collect()
        }
    }

    fn allow() -> Value {
        json!({"name": "line", "id": "spiffe://td/**", "publish": ["line/#"]})
    }

    fn deny() -> Value {
        json!({"name": "no-set", "id": "spiffe://td/**", "deny-publish": ["line/+/setpoint"]})
    }

    fn newer() -> Value {
        json!({"name": "no-set", "id": "spiffe://td/**", "deny-publish": ["line/+/setpoint"], "during": "night"})
    }

    // F25
    #[tokio::test]
    async fn a_rule_that_cannot_be_read_leaves_those_of_before_in_force_also_after_a_restart() {
        let mut stage = Stage::new().await;
        stage.apply(true, &[("line", allow()), ("no-set", deny())]).await;
        assert_eq!((stage.names(), stage.faults()), (vec!["line".into(), "no-set".into()], vec![]));

        stage.apply(false, &[("no-set", newer())]).await;
        for _ in 0..2 {
            assert_eq!(stage.names(), ["line", "no-set"]);
            let [fault] = &*stage.faults() else { panic!("{:?}", stage.faults()) };
            assert!(fault.contains("no-set") && fault.contains("during"), "{fault}");
            stage = stage.restart().await;
        }
        // One that comes meanwhile waits for the others; one more fault changes nothing.
        let more = json!({"name": "more", "id": "spiffe://td/**", "publish": ["more"]});
        stage.apply(false, &[("more", more.clone())]).await;
        stage.apply(false, &[("worse", json!({}))]).await;
        assert_eq!((stage.names(), stage.faults().len()), (vec!["line".into(), "no-set".into()], 2));
        stage.apply(false, &[("worse", Value::Null), ("no-set", deny())]).await;
        assert_eq!((stage.names().len(), stage.faults()), (3, vec![]));
        assert_eq!(stage.handed.store.get(HELD_KEY).await.unwrap(), None);
        stage.apply(true, &[("more", more)]).await;
        let stage = stage.restart().await;
        assert_eq!((stage.names(), stage.faults()), (vec!["more".into()], vec![]));
    }

    #[tokio::test]
    async fn of_a_first_set_with_a_rule_that_cannot_be_read_only_the_denies_hold() {
        let mut stage = Stage::new().await;
        let other = json!({"name": "x", "id": "spiffe://td/**", "client-id": ["a"], "publish": ["x"]});
        let set = [("line", allow()), ("no-set", deny()), ("other", other), ("new", json!({"name": "new"}))];
        stage.apply(true, &set).await;
        for _ in 0..2 {
            assert_eq!(stage.names(), ["no-set"]);
            assert!(stage.faults().len() == 2 && stage.faults()[0].contains("new"), "{:?}", stage.faults());
            stage.apply(false, &[("no-set", deny())]).await;
            stage = stage.restart().await;
        }
        // Each kind of deny, with its exception and its listener.
        let list = |kind: &str| {
            json!({"name": kind, "id": "spiffe://td/**", kind: ["line/+"], "publish": ["line/#"],
            "unless": ["spiffe://td/x"], "listener": ["tls"]})
        };
        let quota = |max: u32| json!({"name": "q", "id": "spiffe://td/a", "publish": ["x"], "quota": {"sessions": max}});
        let faulty =
            json!({"name": "z", "id": "spiffe://td/a", "deny-publish": ["x"], "quota": {"sessions": 0}});
        let mut stage = Stage::new().await;
        stage.apply(true, &[("q", quota(2)), ("z", faulty), ("none", quota(0))]).await;
        let expected = json!([{"name": "q", "id": "spiffe://td/a", "quota": {"sessions": 2}},
            {"name": "z", "id": "spiffe://td/a", "deny-publish": ["x"]}]);
        let rules = stage.handed.sender.borrow().rules.clone();
        assert_eq!(serde_json::to_value(&*rules).unwrap(), expected);
        for kind in ["deny-publish", "deny-subscribe", "deny-receive", "deny-subscribe-literal"] {
            let mut stage = Stage::new().await;
            stage.apply(true, &[("kind", list(kind)), ("new", json!({"name": "new"}))]).await;
            let expected = json!([{"name": "kind", "id": "spiffe://td/**", kind: ["line/+"],
                "unless": ["spiffe://td/x"], "listener": ["tls"]}]);
            let rules = stage.handed.sender.borrow().rules.clone();
            assert_eq!(serde_json::to_value(&*rules).unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn what_does_not_compile_is_as_faulty_as_what_cannot_be_read() {
        let mut stage = Stage::new().await;
        stage.apply(true, &[("line", allow())]).await;
        let twice = json!({"name": "line", "id": "spiffe://td/**", "publish": ["other/#"]});
        for faulty in [json!({"name": "b", "id": "spiffe://td/**", "publish": ["#/x"]}), twice] {
            stage.apply(false, &[("b", faulty)]).await;
            assert!(stage.names() == ["line"] && stage.faults().len() == 1, "{:?}", stage.faults());
        }
        stage.apply(false, &[("b", Value::Null)]).await;
        assert_eq!((stage.names(), stage.faults()), (vec!["line".into()], vec![]));
    }
}
