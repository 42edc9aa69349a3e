use super::*;
use midge_identity::TrustDomain;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://plant{path}")).unwrap()
}

fn table(cloud_is_elsewhere: bool) -> EntryTable {
    EntryTable::new(EntryRules {
        trust_domain: TrustDomain::new("plant").unwrap(),
        boxes_are_scoped: false,
        cloud_is_elsewhere,
        own_node: None,
        grant_fault: |_| None,
    })
}

fn selectors(list: &[&str]) -> Vec<Selector> {
    list.iter().map(|text| Selector { kind: "unix".to_owned(), value: (*text).to_owned() }).collect()
}

fn draft(path: &str, parent: &str, list: &[&str]) -> RegistrationEntry {
    let text = serde_json::json!({
        "id": "", "spiffe_id": id(path).to_string(), "parent_id": id(parent).to_string(),
        "selectors": selectors(list),
    });
    serde_json::from_value(text).unwrap()
}

fn create(
    table: &mut EntryTable,
    entry_id: &str,
    entry: RegistrationEntry,
    origin: Origin,
) -> Arc<RegistrationEntry> {
    let change = table.plan_create(entry, entry_id.to_owned(), origin, NOW).unwrap();
    table.apply(&change);
    change.after.unwrap()
}

fn ids(entries: &[Arc<RegistrationEntry>]) -> Vec<&str> {
    entries.iter().map(|entry| entry.id.as_str()).collect()
}

fn served(table: &EntryTable, agent: &str) -> Vec<String> {
    let agent = id(agent);
    let upwards = table.iter().filter(|entry| table.is_served_by(entry, &agent));
    let upwards: Vec<String> = upwards.map(|entry| entry.id.clone()).collect();
    assert_eq!(ids(&table.served_by(&agent)), upwards);
    upwards
}

#[test]
fn a_created_entry_has_id_time_owner_and_revision_zero() {
    let mut table = table(false);
    let mut entry = draft("/edge/b/app", "/edge/b", &["uid:1"]);
    entry.revision_number = 77;
    entry.created_at = 5;
    let made = create(&mut table, "e1", entry, Origin::Edge);
    assert_eq!((made.id.as_str(), made.revision_number, made.created_at), ("e1", 0, 1_700_000_000));
    assert_eq!(table.find("e1"), Some(&made));
    assert_eq!((table.len(), table.is_empty()), (1, false));
}

#[test]
fn planning_changes_nothing() {
    let table = table(false);
    table.plan_create(draft("/a", "/p", &["uid:1"]), "e1".to_owned(), Origin::Edge, NOW).unwrap();
    assert!(table.is_empty());
}

#[test]
fn a_given_entry_id_is_kept() {
    let mut table = table(false);
    let entry = RegistrationEntry { id: "mine".to_owned(), ..draft("/a", "/p", &["uid:1"]) };
    assert_eq!(create(&mut table, "other", entry, Origin::Edge).id, "mine");
}

#[test]
fn a_similar_entry_is_returned_instead() {
    let mut table = table(false);
    let made = create(&mut table, "e1", draft("/a", "/p", &["uid:1", "gid:2"]), Origin::Edge);
    let again = draft("/a", "/p", &["gid:2", "uid:1", "uid:1"]);
    let error = table.plan_create(again, "e2".to_owned(), Origin::Edge, NOW).unwrap_err();
    assert_eq!(error, EntryError::Similar(made));
    assert_eq!(error.to_string(), "similar entry already exists");
}

#[test]
fn entries_differ_by_id_parent_or_selectors() {
    let mut table = table(false);
    create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
    create(&mut table, "e2", draft("/b", "/p", &["uid:1"]), Origin::Edge);
    create(&mut table, "e3", draft("/a", "/q", &["uid:1"]), Origin::Edge);
    create(&mut table, "e4", draft("/a", "/p", &["uid:1", "gid:1"]), Origin::Edge);
    assert_eq!(table.len(), 4);
}

#[test]
fn an_entry_id_is_taken_once() {
    let mut table = table(false);
    create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
    let error = table.plan_create(draft("/b", "/p", &["uid:1"]), "e1".to_owned(), Origin::Edge, NOW);
    assert!(matches!(error, Err(EntryError::Similar(_))));
}

#[test]
fn entries_of_one_batch_are_held_against_each_other() {
    let table = table(false);
    let drafts = [
        (draft("/a", "/p", &["uid:1"]), "e1".to_owned()),
        (draft("/a", "/p", &["uid:1"]), "e2".to_owned()),
        (draft("", "/p", &["uid:1"]), "e3".to_owned()),
        (draft("/b", "/p", &["uid:1"]), "e4".to_owned()),
    ];
    let planned = table.plan_create_all(drafts, Origin::Edge, NOW);
    let outcome: Vec<bool> = planned.iter().map(Result::is_ok).collect();
    assert_eq!(outcome, [true, false, false, true]);
    assert!(matches!(planned.get(1), Some(Err(EntryError::Similar(first))) if first.id == "e1"));
}

#[test]
fn an_update_bumps_the_revision_and_keeps_what_is_the_servers() {
    let mut table = table(false);
    let made = create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
    let change = table
        .plan_update(
            "e1",
            |entry| {
                entry.id = "stolen".to_owned();
                entry.origin = Origin::Builtin;
                entry.created_at = 0;
                entry.revision_number = 50;
                entry.spiffe_id = id("/b");
                entry.publish = vec!["t".to_owned()];
            },
            NOW,
        )
        .unwrap();
    table.apply(&change);
    let after = table.find("e1").unwrap();
    assert_eq!((after.revision_number, after.created_at, after.origin), (1, made.created_at, Origin::Edge));
    assert_eq!(after.spiffe_id, id("/b"));
    assert!(table.is_registered(&id("/b")) && !table.is_registered(&id("/a")));
    assert_eq!(change.before, Some(made));
}

#[test]
fn an_update_follows_the_rules_too() {
    let mut table = table(false);
    create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
    assert_eq!(table.plan_update("e1", |entry| entry.selectors.clear(), NOW), Err(EntryError::NoSelectors));
    assert_eq!(table.plan_update("none", |_| {}, NOW), Err(EntryError::NotFound));
}

#[test]
fn a_deleted_entry_is_gone_from_every_index() {
    let mut table = table(false);
    create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
    let change = table.plan_delete("e1").unwrap();
    assert_eq!(change.id(), "e1");
    table.apply(&change);
    assert!(table.is_empty() && !table.is_registered(&id("/a")) && table.served_by(&id("/p")).is_empty());
    assert_eq!(table.plan_delete("e1"), Err(EntryError::NotFound));
    create(&mut table, "e2", draft("/a", "/p", &["uid:1"]), Origin::Edge);
}

#[test]
fn two_entries_of_one_identity_do_not_hide_each_other() {
    let mut table = table(false);
    create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
    create(&mut table, "e2", draft("/a", "/p", &["uid:2"]), Origin::Edge);
    let change = table.plan_delete("e1").unwrap();
    table.apply(&change);
    assert!(table.is_registered(&id("/a")));
}

#[test]
fn entries_of_the_cloud_are_read_only_on_the_edge() {
    let mut table = table(true);
    create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Cloud);
    let error = table.plan_delete("e1").unwrap_err();
    assert_eq!(error.to_string(), "entry is managed by the cloud: change it there");
    assert_eq!(table.plan_update("e1", |_| {}, NOW), Err(EntryError::ManagedByCloud));
}

#[test]
fn the_cloud_may_change_its_own() {
    let mut table = table(false);
    create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Cloud);
    assert!(table.plan_update("e1", |_| {}, NOW).is_ok() && table.plan_delete("e1").is_ok());
}

#[test]
fn builtin_entries_cannot_be_changed() {
    let mut table = table(false);
    create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Builtin);
    assert_eq!(table.plan_delete("e1"), Err(EntryError::Builtin));
}

#[test]
fn what_the_cloud_sends_replaces_and_keeps_its_revision() {
    let mut table = table(true);
    let sent = RegistrationEntry { id: "c1".to_owned(), revision_number: 7, ..draft("/a", "/p", &["uid:1"]) };
    let change = table.plan_cloud_upsert(sent.clone()).unwrap();
    table.apply(&change);
    let held = table.find("c1").unwrap();
    assert_eq!((held.revision_number, held.origin), (7, Origin::Cloud));
    let newer = RegistrationEntry { revision_number: 8, parent_id: id("/q"), ..sent };
    let change = table.plan_cloud_upsert(newer).unwrap();
    assert!(change.before.is_some());
    table.apply(&change);
    assert!(table.served_by(&id("/p")).is_empty());
    assert_eq!(served(&table, "/q"), ["c1"]);
}

#[test]
fn the_cloud_deletes_only_its_own() {
    let mut table = table(true);
    create(&mut table, "mine", draft("/a", "/p", &["uid:1"]), Origin::Edge);
    create(&mut table, "theirs", draft("/b", "/p", &["uid:1"]), Origin::Cloud);
    assert_eq!(table.plan_cloud_delete("mine"), None);
    assert_eq!(table.plan_cloud_delete("absent"), None);
    assert!(table.plan_cloud_delete("theirs").is_some());
}

#[test]
fn expired_entries_are_cleaned_away_but_not_the_clouds() {
    let mut table = table(true);
    let expiring = |path| RegistrationEntry { expires_at: 1_700_000_010, ..draft(path, "/p", &["uid:1"]) };
    create(&mut table, "e1", expiring("/a"), Origin::Edge);
    create(&mut table, "e2", expiring("/b"), Origin::Cloud);
    create(&mut table, "e3", draft("/c", "/p", &["uid:1"]), Origin::Edge);
    assert!(table.plan_expired(NOW).is_empty());
    let late = NOW.after(std::time::Duration::from_secs(10));
    let expired: Vec<String> = table.plan_expired(late).iter().map(|change| change.id().to_owned()).collect();
    assert_eq!(expired, ["e1"]);
}

#[test]
fn an_agent_serves_its_children_and_theirs() {
    let mut table = table(false);
    create(&mut table, "alias", draft("/group", "/edge/b", &["uid:1"]), Origin::Edge);
    create(&mut table, "child", draft("/app", "/group", &["uid:2"]), Origin::Edge);
    create(&mut table, "other", draft("/app", "/edge/c", &["uid:2"]), Origin::Edge);
    assert_eq!(served(&table, "/edge/b"), ["alias", "child"]);
    assert_eq!(served(&table, "/group"), ["child"]);
}

#[test]
fn a_cycle_of_parents_ends() {
    let mut table = table(false);
    create(&mut table, "e1", draft("/a", "/b", &["uid:1"]), Origin::Edge);
    create(&mut table, "e2", draft("/b", "/a", &["uid:1"]), Origin::Edge);
    assert_eq!(served(&table, "/a"), ["e1", "e2"]);
}

#[test]
fn a_box_does_not_serve_what_another_hosts_agent_attests() {
    let mut table = table(false);
    create(&mut table, "agent", draft("/edge/b/agent/h", "/edge/b", &["uid:1"]), Origin::Edge);
    create(&mut table, "there", draft("/edge/b/app/x", "/edge/b/agent/h", &["uid:2"]), Origin::Edge);
    assert_eq!(served(&table, "/edge/b"), ["agent"]);
    assert_eq!(served(&table, "/edge/b/agent/h"), ["there"]);
}

#[test]
fn filters_narrow_a_listing() {
    let mut table = table(false);
    table.set_federated(BTreeSet::from(["other".to_owned()]));
    let special = RegistrationEntry {
        hint: "h".to_owned(),
        downstream: true,
        federates_with: vec!["other".to_owned()],
        ..draft("/a", "/p", &["uid:1", "gid:1"])
    };
    create(&mut table, "e1", special, Origin::Edge);
    create(&mut table, "e2", draft("/b", "/q", &["uid:1"]), Origin::Edge);
    let chosen = |filter: EntryFilter| {
        table.iter().filter(|entry| filter.admits(entry)).map(|entry| entry.id.clone()).collect::<Vec<_>>()
    };
    let none = EntryFilter::default;
    let by = |how, list: &[&str]| Some((how, selectors(list).into_iter().collect()));
    assert_eq!(chosen(none()), ["e1", "e2"]);
    assert_eq!(chosen(EntryFilter { spiffe_id: Some(id("/a")), ..none() }), ["e1"]);
    assert_eq!(chosen(EntryFilter { parent_id: Some(id("/q")), ..none() }), ["e2"]);
    assert_eq!(chosen(EntryFilter { hint: Some("h".to_owned()), ..none() }), ["e1"]);
    assert_eq!(chosen(EntryFilter { downstream: Some(false), ..none() }), ["e2"]);
    assert_eq!(chosen(EntryFilter { selectors: by(SetMatch::Exact, &["uid:1"]), ..none() }), ["e2"]);
    assert_eq!(chosen(EntryFilter { selectors: by(SetMatch::Superset, &["uid:1"]), ..none() }), ["e1", "e2"]);
    assert_eq!(
        chosen(EntryFilter { selectors: by(SetMatch::Subset, &["uid:1", "gid:2"]), ..none() }),
        ["e2"]
    );
    assert_eq!(chosen(EntryFilter { selectors: by(SetMatch::Any, &["gid:1"]), ..none() }), ["e1"]);
    let federates_with = Some((SetMatch::Any, BTreeSet::from(["other".to_owned()])));
    assert_eq!(chosen(EntryFilter { federates_with, ..none() }), ["e1"]);
}

#[test]
fn filters_with_foreign_ids_are_refused() {
    let table = table(false);
    let foreign = SpiffeId::new("spiffe://other/a").unwrap();
    let by_parent = EntryFilter { parent_id: Some(foreign.clone()), ..EntryFilter::default() };
    assert!(matches!(by_parent.check(table.rules()), Err(EntryError::ParentId(_))));
    let by_id = EntryFilter { spiffe_id: Some(foreign), ..EntryFilter::default() };
    assert!(matches!(by_id.check(table.rules()), Err(EntryError::SpiffeId(_))));
}

#[test]
fn an_entry_survives_json() {
    let mut table = table(false);
    let entry = RegistrationEntry { publish: vec!["a/#".to_owned()], ..draft("/a", "/p", &["uid:1"]) };
    let made = create(&mut table, "e1", entry, Origin::Cloud);
    let read: RegistrationEntry = serde_json::from_slice(&serde_json::to_vec(&*made).unwrap()).unwrap();
    assert_eq!(read, *made);
    let mut restored = self::table(false);
    restored.restore(read);
    assert_eq!(restored.find("e1"), Some(&made));
}

#[test]
fn a_bundle_that_goes_takes_its_name_or_the_entries_with_it_as_asked() {
    let mut table = table(false);
    table.set_federated(BTreeSet::from(["other".to_owned(), "third".to_owned()]));
    for (id, names) in [("a", vec!["other", "third"]), ("b", vec!["third"]), ("c", vec![])] {
        let federates_with = names.into_iter().map(str::to_owned).collect();
        let entry = RegistrationEntry { federates_with, ..draft(&format!("/{id}"), "/edge/x", &["uid:1"]) };
        create(&mut table, id, entry, Origin::Edge);
    }
    let other = TrustDomain::new("other").unwrap();
    assert_eq!(table.plan_defederate(&other, DeleteMode::Restrict), Err(FederationError::InUse(1)));
    let changes = table.plan_defederate(&other, DeleteMode::Dissociate).unwrap();
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    let after = change.after.as_ref().unwrap();
    assert_eq!((change.id(), after.revision_number), ("a", 1));
    assert_eq!(after.federates_with, ["third"]);
    let changes = table.plan_defederate(&other, DeleteMode::Delete).unwrap();
    assert!(changes.len() == 1 && changes[0].id() == "a" && changes[0].after.is_none());
    let nobody = TrustDomain::new("fourth").unwrap();
    assert_eq!(table.plan_defederate(&nobody, DeleteMode::Restrict), Ok(vec![]));
}
