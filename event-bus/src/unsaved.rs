//! What the disk and the spool have not taken yet: kept in order until they have, and only then acknowledged.

use crate::mqtt::Delivery;
use bridge_core::UpwardItem;
use bridge_core::twin::TwinEffect;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(crate) struct Unsaved {
    /// The last try failed.
    pub(crate) failing: bool,
    /// Twins by key; none to delete.
    pub(crate) twins: BTreeMap<String, Option<Vec<u8>>>,
    /// For the cloud.
    pub(crate) reports: Vec<UpwardItem>,
    /// Topics and payloads to publish.
    pub(crate) news: Vec<(String, String)>,
    /// What all of that came of, to be acknowledged.
    pub(crate) deliveries: Vec<Delivery>,
}

impl Unsaved {
    pub(crate) fn add(&mut self, effect: TwinEffect) {
        match effect {
            TwinEffect::Persist { key, value } => {
                self.twins.insert(key, value);
            }
            TwinEffect::Up(item) => self.reports.push(item),
            TwinEffect::Publish { topic, payload } => self.news.push((topic, payload)),
        }
    }

    /// Takes out the reports that were stored, up to the first that was not: a later one must not be overtaken by an
    /// older one of the same device. Of what stays, the newest of each device is enough.
    pub(crate) fn reported(&mut self, results: &[Result<(), String>]) {
        let stored = results.iter().position(Result::is_err).unwrap_or(results.len());
        self.reports.drain(..stored);
        let mut newer = BTreeSet::new();
        self.reports.reverse();
        self.reports.retain(|item| item.key.as_ref().is_none_or(|key| newer.insert(key.clone())));
        self.reports.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn twin(device: &str, value: u8) -> UpwardItem {
        UpwardItem::twin(&device.parse().unwrap(), value.into())
    }

    #[test]
    fn from_the_first_failure_on_all_stays_but_what_is_told_anew() {
        let upload = |payload: &str| UpwardItem::upload("a/user/b", payload.into());
        let reports =
            vec![twin("led", 1), upload("1"), twin("led", 2), upload("2"), twin("fan", 3), twin("led", 4)];
        let mut unsaved = Unsaved { reports, ..Unsaved::default() };
        let full = || Err("full".to_owned());
        unsaved.reported(&[Ok(()), full(), Ok(()), full(), full(), full()]);
        let left: Vec<_> = unsaved.reports.iter().map(|item| item.content.clone()).collect();
        assert_eq!(left, [json!("1"), json!("2"), json!(3), json!(4)]);
        unsaved.reported(&[Ok(()), Ok(()), Ok(()), Ok(())]);
        assert!(unsaved.reports.is_empty());
    }
}
