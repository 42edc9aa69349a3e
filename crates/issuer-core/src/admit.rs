//! What an operator may newly ask for in a registration entry. Values that stand in one already are left alone, so
//! that an entry of an older server or of the cloud can still be changed in other ways.

use crate::{EntryError, EntryRules, RegistrationEntry, Selector};
use midge_identity::{SpiffeId, UnixMillis, node_of};
use std::collections::BTreeSet;

/// What agents attest of a workload: the keys of `unix` selectors.
pub const UNIX_SELECTORS: [&str; 8] =
    ["uid", "gid", "user", "group", "supplementary_gid", "supplementary_group", "path", "sha256"];

impl EntryRules {
    /// Checks what is new in an entry that is made or changed here, beyond the form that every entry has. `federated`:
    /// other trust domains that have a bundle here.
    ///
    /// # Errors
    /// Names the first value that could never do what was asked for.
    pub(crate) fn admit(
        &self,
        entry: &RegistrationEntry,
        before: Option<&RegistrationEntry>,
        federated: &BTreeSet<String>,
        now: UnixMillis,
    ) -> Result<(), EntryError> {
        let is_new = before.is_none_or(|before| before.expires_at != entry.expires_at);
        if is_new && (entry.expires_at < 0 || entry.has_ended(now)) {
            return Err(EntryError::Past(entry.expires_at));
        }
        if before.is_none_or(|before| before.parent_id != entry.parent_id) {
            self.check_parent(&entry.parent_id)?;
        }
        let known = before.map_or(&[][..], |before| &before.selectors);
        for selector in entry.selectors.iter().filter(|selector| !known.contains(selector)) {
            if let Err(why) = check_attested(selector) {
                return Err(EntryError::NeverMatches { selector: selector.clone(), why });
            }
        }
        let known = before.map_or(&[][..], |before| &before.federates_with);
        for name in entry.federates_with.iter().filter(|name| !known.contains(name)) {
            // The own bundle is always here, as in SPIRE.
            if *name != self.trust_domain.as_str() && !federated.contains(name) {
                let place = if self.cloud_is_elsewhere { " at the cloud" } else { "" };
                return Err(EntryError::NoBundle { name: name.clone(), place });
            }
        }
        let (publish, subscribe) =
            before.map_or((&[][..], &[][..]), |before| (&before.publish[..], &before.subscribe[..]));
        self.check_grants("publish", &entry.publish, publish)?;
        self.check_grants("subscribe", &entry.subscribe, subscribe)
    }

    /// What stands below another box is served by nobody here.
    fn check_parent(&self, parent: &SpiffeId) -> Result<(), EntryError> {
        match (&self.own_node, node_of(parent)) {
            (Some(own), Some(node)) if own != node => Err(EntryError::OtherBox {
                parent: parent.clone(),
                own: format!("spiffe://{}/edge/{own}", self.trust_domain),
            }),
            _ => Ok(()),
        }
    }

    fn check_grants(
        &self,
        grant: &'static str,
        filters: &[String],
        known: &[String],
    ) -> Result<(), EntryError> {
        for filter in filters.iter().filter(|filter| !known.contains(filter)) {
            if let Some(why) = (self.grant_fault)(filter) {
                return Err(EntryError::Grant { grant, filter: filter.clone(), why });
            }
        }
        Ok(())
    }
}

/// Checks that a workload can have the selector. One that none has would make an entry that gives nobody anything.
fn check_attested(selector: &Selector) -> Result<(), String> {
    if selector.kind != "unix" {
        return Err("agents attest selectors of type unix only".to_owned());
    }
    let (key, value) = selector.value.split_once(':').unwrap_or((&selector.value, ""));
    if !UNIX_SELECTORS.contains(&key) {
        return Err(format!("{key} is none of {}", UNIX_SELECTORS.join(", ")));
    }
    if value.is_empty() {
        return Err(format!("a value is missing; write unix:{key}:VALUE"));
    }
    let is_number = || value.parse::<u32>().is_ok_and(|number| number.to_string() == value);
    let is_digest = || value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let (fits, wanted) = match key {
        "uid" | "gid" | "supplementary_gid" => (is_number(), "a number; for names there are user and group"),
        "sha256" => (is_digest(), "64 lower-case hex digits"),
        "path" => (value.starts_with('/'), "an absolute path"),
        _ => (true, ""),
    };
    if fits { Ok(()) } else { Err(format!("{value} is not {wanted}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntryTable, Origin};
    use midge_identity::{TrustDomain, UnixMillis};

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn table() -> EntryTable {
        EntryTable::new(EntryRules {
            trust_domain: TrustDomain::new("plant").unwrap(),
            boxes_are_scoped: true,
            cloud_is_elsewhere: false,
            own_node: None,
            grant_fault: |filter| filter.contains("##").then(|| "two hashes".to_owned()),
        })
    }

    fn entry(change: impl FnOnce(&mut RegistrationEntry)) -> RegistrationEntry {
        let mut entry = serde_json::from_value(serde_json::json!({
            "id": "e", "spiffe_id": "spiffe://plant/edge/box/app/x", "parent_id": "spiffe://plant/edge/box",
            "selectors": [{ "type": "unix", "value": "uid:1" }],
        }))
        .unwrap();
        change(&mut entry);
        entry
    }

    /// What is told of a new entry, and of one that is changed to the same.
    fn refused(change: fn(&mut RegistrationEntry)) -> String {
        let table = table();
        let made = table.plan_create(entry(change), String::new(), Origin::Edge, NOW);
        let told = made.unwrap_err().to_string();
        assert_eq!(holding(entry(|_| {})).plan_update("e", change, NOW).unwrap_err().to_string(), told);
        told
    }

    fn accepted(change: fn(&mut RegistrationEntry)) {
        table().plan_create(entry(change), String::new(), Origin::Edge, NOW).unwrap();
        holding(entry(|_| {})).plan_update("e", change, NOW).unwrap();
    }

    /// A table with an entry that nobody asked for here.
    fn holding(entry: RegistrationEntry) -> EntryTable {
        let mut table = table();
        table.restore(entry);
        table
    }

    #[test]
    fn grants_go_through_the_callers_check() {
        accepted(|entry| entry.publish = vec!["a/#".to_owned()]);
        assert_eq!(
            refused(|entry| entry.subscribe = vec!["a/##".to_owned()]),
            "invalid subscribe grant \"a/##\": two hashes"
        );
        assert!(refused(|entry| entry.publish = vec!["##".to_owned()]).starts_with("invalid publish grant"));
    }

    #[test]
    fn a_box_takes_entries_for_itself_and_its_agents() {
        let rules =
            EntryRules { own_node: Some("box".into()), boxes_are_scoped: false, ..table().rules().clone() };
        let made = |parent: &str| {
            let entry = entry(|entry| entry.parent_id = format!("spiffe://plant{parent}").parse().unwrap());
            EntryTable::new(rules.clone()).plan_create(entry, String::new(), Origin::Edge, NOW)
        };
        for own in ["/edge/box", "/edge/box/agent/annex", "/group/recorders"] {
            made(own).unwrap();
        }
        for other in ["/edge/box-2", "/edge/box-2/agent/annex"] {
            let told = made(other).unwrap_err().to_string();
            assert!(told.contains(other) && told.contains("this box, spiffe://plant/edge/box,"), "{told}");
        }
    }

    #[test]
    fn an_entry_ends_in_the_future() {
        accepted(|entry| entry.expires_at = 1_700_000_001);
        accepted(|entry| entry.expires_at = 0);
        for past in [
            |entry: &mut RegistrationEntry| entry.expires_at = 1_700_000_000,
            |entry: &mut RegistrationEntry| entry.expires_at = 1000,
        ] {
            assert!(refused(past).contains("s since 1970, is past"));
        }
        assert!(refused(|entry| entry.expires_at = -1).contains("-1 s since 1970, is past"));
        let ended = holding(entry(|entry| entry.expires_at = 1000));
        ended.plan_update("e", |entry| entry.hint = "h".to_owned(), NOW).unwrap();
    }

    fn selecting(kind: &str, value: &str) -> Result<crate::EntryChange, EntryError> {
        let selector = Selector { kind: kind.to_owned(), value: value.to_owned() };
        let asked = entry(|entry| entry.selectors = vec![selector]);
        table().plan_create(asked, String::new(), Origin::Edge, NOW)
    }

    #[test]
    fn selectors_are_those_that_workloads_can_have() {
        let digest = "0123456789abcdef".repeat(4);
        let sha256 = format!("sha256:{digest}");
        for value in
            ["uid:0", "gid:1000", "supplementary_gid:7", "user:root", "group:a:b", "path:/bin/sh", &sha256]
        {
            selecting("unix", value).unwrap();
        }
        for value in [
            "uid",
            "uid:",
            "udi:0",
            "uid:root",
            "uid:-1",
            "uid:01",
            "gid:4294967296",
            "path:bin/sh",
            "user:",
            "sha256:00",
            &sha256.to_uppercase(),
            "UID:0",
        ] {
            let error = selecting("unix", value).unwrap_err();
            assert!(matches!(error, EntryError::NeverMatches { .. }), "{value}: {error}");
        }
        let told = selecting("docker", "label:x").unwrap_err().to_string();
        let wanted = "selector docker:label:x can match nobody: agents attest selectors of type unix only";
        assert_eq!(told, wanted);
    }

    #[test]
    fn selectors_of_an_older_store_do_not_keep_an_entry_from_being_changed() {
        let old = Selector { kind: "docker".to_owned(), value: "label:x".to_owned() };
        let table = holding(entry(|entry| entry.selectors = vec![old.clone()]));
        table.plan_update("e", |entry| entry.hint = "h".to_owned(), NOW).unwrap();
        table.plan_cloud_upsert(entry(|entry| entry.selectors = vec![old])).unwrap();
    }

    #[test]
    fn what_an_entry_has_does_not_keep_it_from_being_changed() {
        let table = holding(entry(|entry| entry.publish = vec!["##".to_owned()]));
        table.plan_update("e", |entry| entry.hint = "h".to_owned(), NOW).unwrap();
        table.plan_update("e", |entry| entry.publish.push("a".to_owned()), NOW).unwrap();
        assert!(table.plan_update("e", |entry| entry.publish.push("a/##".to_owned()), NOW).is_err());
    }

    #[test]
    fn an_entry_federates_with_trust_domains_that_have_a_bundle() {
        let federating =
            |entry: &mut RegistrationEntry| entry.federates_with = vec!["spiffe://other".to_owned()];
        let told = refused(federating);
        let wanted = "unable to find federated bundle \"spiffe://other\": set it first, with `midge bundle set -id spiffe://other`";
        assert_eq!(told, wanted);
        accepted(|entry| entry.federates_with = vec!["plant".to_owned()]);
        let mut table = table();
        table.set_federated(BTreeSet::from(["other".to_owned()]));
        let made = table.plan_create(entry(federating), String::new(), Origin::Edge, NOW).unwrap();
        let all = table.plan_create_all([(entry(federating), String::new())], Origin::Edge, NOW);
        assert!(all[0].is_ok());
        table.apply(&made);
        // What stands in it already does not keep it from being changed when the bundle has gone.
        table.set_federated(BTreeSet::new());
        table.plan_update("e", |entry| entry.hint = "h".to_owned(), NOW).unwrap();
        assert!(table.plan_update("e", |entry| entry.federates_with.push("third".to_owned()), NOW).is_err());
        let sent = entry(|entry| entry.federates_with = vec!["fourth".to_owned()]);
        table.plan_cloud_upsert(sent).unwrap();
    }

    #[test]
    fn what_the_cloud_sends_is_taken_so_that_nothing_of_before_holds_on() {
        let sent = entry(|entry| entry.publish = vec!["##".to_owned()]);
        let change = table().plan_cloud_upsert(sent).unwrap();
        assert_eq!(change.after.unwrap().publish, ["##"]);
    }
}
