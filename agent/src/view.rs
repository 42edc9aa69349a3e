//! What an agent may serve, and which of it a workload is entitled to.
//!
//! Owns the matching of selectors to registration entries and the choice among them. Pure.

use crate::attest::Needs;
use issuer_core::{Origin, RegistrationEntry, Selector};
use midge_identity::{BundleSet, TrustDomain};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// The entries and bundles an agent serves from, complete and unchanging; a change makes a new view.
#[derive(Clone, Debug)]
pub struct AgentView {
    revision: u64,
    trust_domain: TrustDomain,
    entries: Arc<Vec<Arc<RegistrationEntry>>>,
    bundles: Arc<BundleSet>,
    good_authorities: Arc<BTreeSet<String>>,
    needs: Needs,
    // Each entry under the rarest of its selectors: a workload's candidates are few however many
    // entries there are.
    by_selector: HashMap<Selector, Vec<Arc<RegistrationEntry>>>,
}

impl AgentView {
    /// Returns a view of these entries and bundles. `trust_domain` is the agent's own.
    pub fn new(
        revision: u64,
        trust_domain: TrustDomain,
        entries: Arc<Vec<Arc<RegistrationEntry>>>,
        bundles: Arc<BundleSet>,
    ) -> Self {
        let mut uses: HashMap<&Selector, usize> = HashMap::new();
        for selector in entries.iter().flat_map(|entry| &entry.selectors) {
            *uses.entry(selector).or_default() += 1;
        }
        let mut by_selector: HashMap<Selector, Vec<Arc<RegistrationEntry>>> = HashMap::new();
        for entry in entries.iter().filter(|entry| serves_workloads(entry)) {
            let rarest = entry.selectors.iter().min_by_key(|selector| uses.get(selector));
            // An entry without selectors would match every workload: it matches none.
            if let Some(selector) = rarest {
                by_selector.entry(selector.clone()).or_default().push(Arc::clone(entry));
            }
        }
        let needs = Needs::of(by_selector.values().flatten().map(Arc::as_ref));
        let good_authorities = Arc::default();
        Self { revision, trust_domain, entries, bundles, good_authorities, needs, by_selector }
    }

    /// Returns the view with the IDs of the authorities whose SVIDs may be kept until they are due: one of any other is
    /// signed anew. Without any, all may.
    #[must_use]
    pub fn with_good_authorities(self, good_authorities: Arc<BTreeSet<String>>) -> Self {
        Self { good_authorities, ..self }
    }

    /// Returns a view that serves nobody.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self::new(0, trust_domain, Arc::default(), Arc::new(BundleSet::new()))
    }

    /// Goes up when something changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The agent's trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// IDs of the authorities whose SVIDs may be kept; none when all may.
    pub fn good_authorities(&self) -> &Arc<BTreeSet<String>> {
        &self.good_authorities
    }

    /// All entries, also those no workload can match.
    pub fn entries(&self) -> &Arc<Vec<Arc<RegistrationEntry>>> {
        &self.entries
    }

    /// Bundles of the own and of federated trust domains.
    pub fn bundles(&self) -> &Arc<BundleSet> {
        &self.bundles
    }

    /// What must be known of a workload to match it.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Entries a workload with these selectors is entitled to, in the order of their IDs: those whose
    /// selectors it all has. Builtin entries belong to the server's own parts and match nobody.
    pub fn matching(&self, selectors: &[Selector]) -> Vec<Arc<RegistrationEntry>> {
        let held: BTreeSet<&Selector> = selectors.iter().collect();
        let mut matches: Vec<Arc<RegistrationEntry>> = held
            .iter()
            .filter_map(|selector| self.by_selector.get(*selector))
            .flatten()
            .filter(|entry| entry.selectors.iter().all(|selector| held.contains(selector)))
            .cloned()
            .collect();
        matches.sort_by(|a, b| a.id.cmp(&b.id));
        matches
    }
}

/// Chooses the one identity of a connection that can have only one.
///
/// `wanted` may name a SPIFFE ID or a hint among the matches. A SPIFFE ID that is not among them
/// is refused; any other text that is no hint is not meant for this and is ignored. Then the entry
/// with the most selectors is chosen, of equals the one whose ID comes first.
pub fn choose_entry(
    matches: &[Arc<RegistrationEntry>],
    wanted: Option<&str>,
) -> Option<Arc<RegistrationEntry>> {
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
        let named = matches.iter().filter(|entry| entry.spiffe_id.to_string() == wanted);
        if let Some(entry) = most_specific(named) {
            return Some(entry);
        }
        if wanted.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://")) {
            return None;
        }
        let hinted = unique_hints(matches.to_vec()).into_iter().find(|entry| entry.hint == wanted);
        if hinted.is_some() {
            return hinted;
        }
    }
    most_specific(matches.iter())
}

fn most_specific<'a>(
    entries: impl Iterator<Item = &'a Arc<RegistrationEntry>>,
) -> Option<Arc<RegistrationEntry>> {
    entries.min_by_key(|entry| (Reverse(entry.selectors.len()), &entry.id)).cloned()
}

/// Drops entries whose hint another one has too: the oldest keeps it, of equals the one whose ID
/// comes first. Keeps the order. Workload API §5.2.1
pub(crate) fn unique_hints(entries: Vec<Arc<RegistrationEntry>>) -> Vec<Arc<RegistrationEntry>> {
    let mut owners: BTreeMap<&str, &Arc<RegistrationEntry>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.hint.is_empty()) {
        let owner = owners.entry(&entry.hint).or_insert(entry);
        if (entry.created_at, &entry.id) < (owner.created_at, &owner.id) {
            *owner = entry;
        }
    }
    let owns = |entry: &Arc<RegistrationEntry>| {
        owners.get(entry.hint.as_str()).is_none_or(|owner| owner.id == entry.id)
    };
    let kept: Vec<bool> = entries.iter().map(owns).collect();
    entries.into_iter().zip(kept).filter_map(|(entry, kept)| kept.then_some(entry)).collect()
}

fn serves_workloads(entry: &RegistrationEntry) -> bool {
    // As in SPIRE, what is to be stored elsewhere is not handed out here.
    entry.origin != Origin::Builtin && !entry.store_svid
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn selector(text: &str) -> Selector {
        let (kind, value) = text.split_once(':').unwrap();
        Selector { kind: kind.to_owned(), value: value.to_owned() }
    }

    pub(crate) fn entry(id: &str, spiffe_id: &str, selectors: &[&str]) -> RegistrationEntry {
        let of = |text: &str| midge_identity::SpiffeId::new(text).unwrap();
        let selectors = selectors.iter().map(|text| selector(text)).collect();
        RegistrationEntry::new(id, of(spiffe_id), of("spiffe://t/edge/box"), selectors)
    }

    pub(crate) fn view(revision: u64, entries: Vec<RegistrationEntry>) -> AgentView {
        let entries = Arc::new(entries.into_iter().map(Arc::new).collect::<Vec<_>>());
        AgentView::new(revision, TrustDomain::new("t").unwrap(), entries, Arc::default())
    }

    fn ids(entries: &[Arc<RegistrationEntry>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.id.as_str()).collect()
    }

    fn matched(selectors: &[&str], view: &AgentView) -> Vec<String> {
        let selectors: Vec<Selector> = selectors.iter().map(|text| selector(text)).collect();
        ids(&view.matching(&selectors)).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn an_entry_matches_when_all_its_selectors_hold() {
        let view = view(
            1,
            vec![
                entry("c", "spiffe://t/c", &["unix:uid:1"]),
                entry("a", "spiffe://t/a", &["unix:uid:1", "unix:gid:1"]),
                entry("b", "spiffe://t/b", &["unix:uid:1", "unix:path:/x"]),
                entry("d", "spiffe://t/d", &["docker:uid:1"]),
                entry("none", "spiffe://t/none", &[]),
            ],
        );
        assert_eq!(matched(&["unix:uid:1"], &view), ["c"]);
        assert_eq!(matched(&["unix:uid:1", "unix:gid:1"], &view), ["a", "c"]);
        assert_eq!(matched(&["unix:path:/x", "unix:gid:1", "unix:uid:1"], &view), ["a", "b", "c"]);
        assert_eq!(matched(&["unix:uid:2", "unix:gid:1"], &view), [""; 0]);
        assert_eq!(matched(&[], &view), [""; 0]);
    }

    #[test]
    fn builtin_and_stored_entries_match_nobody() {
        let builtin =
            RegistrationEntry { origin: Origin::Builtin, ..entry("a", "spiffe://t/a", &["unix:uid:1"]) };
        let stored = RegistrationEntry { store_svid: true, ..entry("b", "spiffe://t/b", &["unix:uid:1"]) };
        let cloud =
            RegistrationEntry { origin: Origin::Cloud, ..entry("c", "spiffe://t/c", &["unix:uid:1"]) };
        let view = view(1, vec![builtin, stored, cloud]);
        assert_eq!(matched(&["unix:uid:1"], &view), ["c"]);
    }

    #[test]
    fn entries_nobody_can_match_need_nothing_read() {
        let builtin =
            RegistrationEntry { origin: Origin::Builtin, ..entry("a", "spiffe://t/a", &["unix:sha256:1"]) };
        assert_eq!(view(1, vec![builtin]).needs(), Needs::default());
        assert!(view(1, vec![entry("a", "spiffe://t/a", &["unix:sha256:1"])]).needs().sha256);
    }

    proptest::proptest! {
        #[test]
        fn the_index_finds_what_a_scan_finds(
            entries in proptest::collection::vec(proptest::collection::btree_set(0_u8..6, 0..4), 0..20),
            held in proptest::collection::btree_set(0_u8..6, 0..6),
        ) {
            let text = |n: &u8| format!("unix:uid:{n}");
            let entries: Vec<RegistrationEntry> = entries
                .iter()
                .enumerate()
                .map(|(index, selectors)| {
                    let selectors: Vec<String> = selectors.iter().map(text).collect();
                    let selectors: Vec<&str> = selectors.iter().map(String::as_str).collect();
                    entry(&format!("{index:02}"), "spiffe://t/a", &selectors)
                })
                .collect();
            let held: Vec<Selector> = held.iter().map(|n| selector(&text(n))).collect();
            let scanned: Vec<String> = entries
                .iter()
                .filter(|entry| !entry.selectors.is_empty())
                .filter(|entry| entry.selectors.iter().all(|one| held.contains(one)))
                .map(|entry| entry.id.clone())
                .collect();
            let view = view(1, entries);
            let matched = view.matching(&held);
            proptest::prop_assert_eq!(ids(&matched), scanned);
        }
    }

    fn choices() -> Vec<Arc<RegistrationEntry>> {
        let one = entry("one", "spiffe://t/one", &["unix:uid:1"]);
        let two = RegistrationEntry {
            hint: "inner".to_owned(),
            created_at: 20,
            ..entry("two", "spiffe://t/two", &["unix:uid:1", "unix:gid:1"])
        };
        let three = RegistrationEntry {
            hint: "inner".to_owned(),
            created_at: 10,
            ..entry("three", "spiffe://t/three", &["unix:uid:1", "unix:gid:1"])
        };
        [one, three, two].into_iter().map(Arc::new).collect()
    }

    fn chosen(wanted: Option<&str>) -> Option<String> {
        choose_entry(&choices(), wanted).map(|entry| entry.id.clone())
    }

    #[test]
    fn the_most_specific_entry_is_chosen_unless_one_is_named() {
        assert_eq!(chosen(None).as_deref(), Some("three"));
        assert_eq!(chosen(Some("")).as_deref(), Some("three"));
        assert_eq!(chosen(Some("spiffe://t/one")).as_deref(), Some("one"));
        assert_eq!(chosen(Some("inner")).as_deref(), Some("three"));
        assert_eq!(chosen(Some("admin")).as_deref(), Some("three"));
        assert_eq!(choose_entry(&[], None), None);
    }

    #[test]
    fn an_identity_that_is_not_the_callers_is_refused() {
        assert_eq!(chosen(Some("spiffe://t/other")), None);
        assert_eq!(chosen(Some("SPIFFE://t/other")), None);
    }

    #[test]
    fn of_one_hint_the_oldest_entry_keeps_it() {
        assert_eq!(ids(&unique_hints(choices())), ["one", "three"]);
        let same_age: Vec<_> = choices()
            .iter()
            .map(|entry| Arc::new(RegistrationEntry { created_at: 5, ..RegistrationEntry::clone(entry) }))
            .collect();
        assert_eq!(ids(&unique_hints(same_age)), ["one", "three"]);
    }
}
