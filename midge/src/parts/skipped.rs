//! What the cloud said that nobody here understands: kept, so that it is told and asked for again.

use super::problems::{Problem, Problems};
use bridge_core::Extent;
use midge_store::{Batch, Store};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};

const KEY: &str = "cloud/skipped";

/// Resources that were skipped, and why.
type Resources = BTreeMap<String, String>;

pub(super) struct Skipped {
    resources: Mutex<Resources>,
    problems: Problems,
}

/// What is skipped once its batch is on disk.
pub(super) struct Planned(Option<(Resources, Vec<u8>)>);

impl Skipped {
    /// Reads what was skipped before.
    pub(super) async fn open(store: &Store, problems: Problems) -> Result<Self, String> {
        let stored = store.get(KEY).await.map_err(|error| error.to_string())?;
        let resources = stored.map(|text| serde_json::from_slice(&text)).transpose();
        let resources = resources.map_err(|error| format!("{KEY}: {error}"))?.unwrap_or_default();
        let skipped = Self { resources: Mutex::default(), problems };
        skipped.set(resources);
        Ok(skipped)
    }

    pub(super) fn is_any(&self) -> bool {
        !self.resources.lock().is_empty()
    }

    /// Returns what changes of these resources do, of which some were skipped.
    pub(super) fn plan(
        &self,
        changed: &BTreeSet<String>,
        skipped: &Resources,
        extent: Extent,
    ) -> Result<Planned, String> {
        let before = self.resources.lock();
        let mut next = match extent {
            Extent::Snapshot => Resources::new(),
            Extent::Changes => before.clone(),
        };
        next.retain(|resource, _| !changed.contains(resource));
        next.extend(skipped.clone());
        if next == *before {
            return Ok(Planned(None));
        }
        let text = serde_json::to_vec(&next).map_err(|error| error.to_string())?;
        Ok(Planned(Some((next, text))))
    }

    /// Shows what was planned; its batch is on disk.
    pub(super) fn show(&self, planned: Planned) {
        if let Some((next, _)) = planned.0 {
            self.set(next);
        }
    }

    fn set(&self, resources: Resources) {
        let told: Vec<String> =
            resources.iter().map(|(resource, why)| format!("{}: {why}", resource.escape_debug())).collect();
        let problem = (!told.is_empty()).then(|| Problem {
            what: format!("skipped of what the cloud said: {}", told.join("\n")),
            remedy: "update this box if its cloud is newer; at its next start it asks for everything again"
                .into(),
        });
        self.problems.set("cloud-changes", problem);
        *self.resources.lock() = resources;
    }
}

impl Planned {
    pub(super) fn batch(&self, batch: Batch) -> Batch {
        match &self.0 {
            None => batch,
            Some((next, _)) if next.is_empty() => batch.delete(KEY),
            Some((_, text)) => batch.put(KEY, text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_store::{Durability, StoreInfo};

    #[tokio::test]
    async fn what_was_skipped_is_told_until_it_is_gone_or_understood_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("s.db"), &StoreInfo::new("edge", "td")).unwrap();
        let problems = Problems::default();
        let mut skipped = Skipped::open(&store, problems.clone()).await.unwrap();
        let steps: [(&[&str], &[&str], Extent, usize); 6] = [
            (&["a", "b"], &["b"], Extent::Snapshot, 1),
            (&["c"], &["c"], Extent::Changes, 2),
            (&["b"], &[], Extent::Changes, 1),
            (&["d"], &[], Extent::Changes, 1),
            (&["c", "e"], &["e"], Extent::Snapshot, 1),
            (&[], &[], Extent::Snapshot, 0),
        ];
        for (changed, new, extent, left) in steps {
            let changed = changed.iter().map(ToString::to_string).collect();
            let new = new.iter().map(|name| ((*name).to_owned(), "new".to_owned())).collect();
            let planned = skipped.plan(&changed, &new, extent).unwrap();
            store.commit(planned.batch(Batch::new()).put("x", "x"), Durability::PowerLoss).await.unwrap();
            skipped.show(planned);
            for _ in 0..2 {
                let told = problems.list();
                assert_eq!((skipped.is_any(), told.len()), (left > 0, usize::from(left > 0)), "{changed:?}");
                let lines = told.first().map_or(0, |problem| problem.what.lines().count());
                assert_eq!(lines, left, "{told:?}");
                skipped = Skipped::open(&store, problems.clone()).await.unwrap();
            }
        }
        assert_eq!(store.get(KEY).await.unwrap(), None);
    }
}
