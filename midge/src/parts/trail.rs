//! What the audit log says of identities, certificates, policy and operators.

use super::audit::by;
use issuer_core::{
    Bundle, CaJournal, CaRecord, EntryChange, FederationChange, Origin, RegistrationEntry, Slot, authority_id,
};
use midge_audit::{Alike, AuditLog, Peer, Record, Sort, fingerprint};
use midge_identity::UnixMillis;
use midge_issuer::{Cause, Changed, Issued, Mutation, Witness};
use midge_policy::Policy;
use midge_policy_tools::PolicyChange;
use midge_runtime::{Actor, Clock};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::HashMap;

/// Certificates of one identity that are written in a minute, before the others are counted.
const CERTIFICATES: u32 = 600;
/// Sets of topics that a change of policy gives, and that it takes, which are written out; and bytes of each.
const ACCESS_MAX: usize = 32;
const ACCESS_BYTES_MAX: usize = 512;
/// Entries whose last serial is remembered, to tell a renewal from a first SVID.
const REMEMBERED_MAX: usize = 10_000;

/// Writes what the identity server, the policy and operators do into the audit log.
pub(crate) struct Trail {
    log: AuditLog,
    clock: Clock,
    /// Last serial by entry.
    serials: Mutex<HashMap<String, String>>,
}

impl Trail {
    pub(crate) fn new(log: AuditLog, clock: Clock) -> Self {
        Self { log, clock, serials: Mutex::default() }
    }

    fn event(&self, event: &'static str) -> Record {
        Record::new(self.clock.now(), event)
    }

    /// Records an operator's act that changes neither entries nor tokens; those record themselves.
    pub(crate) fn act(&self, event: &'static str, fill: impl FnOnce(Record) -> Record) {
        self.log.record(by(fill(self.event(event)), Actor::current().as_ref()));
    }

    /// Records a call on the admin socket that may change something, and how it ended.
    pub(crate) fn called(&self, actor: &Actor, status: &str) {
        let record = self.event("admin").with("status", status);
        self.log.record(by(record, Some(actor)));
    }

    /// Records the rules in force at the start.
    pub(crate) fn policy_loaded(&self, policy: &Policy) {
        self.log
            .record(self.event("policy-loaded").with("epoch", policy.epoch()).with("rules", policy.rules()));
    }

    /// Records a change of the policy: names of rules, and the access that it gives and takes.
    pub(crate) fn policy_changed(&self, at: UnixMillis, after: &Policy, change: &PolicyChange) {
        let record =
            Record::new(at, "policy-changed").with("epoch", after.epoch()).with("rules", after.rules());
        let record = record
            .with("added", change.added.clone())
            .with("removed", change.removed.clone())
            .with("changed", change.changed.clone())
            .with("gained", access(change, true))
            .with("lost", access(change, false))
            .with("untold", change.untold.as_ref().map(ToString::to_string));
        self.log.record(record);
    }

    /// Records a change of the policy that was not put in force.
    pub(crate) fn policy_refused(&self, source: &str, faults: impl Iterator<Item = String>) {
        let record = self.event("policy-refused").with("source", source);
        self.log.record(record.with("faults", faults.collect::<Vec<_>>()));
    }

    fn entry(&self, change: &EntryChange) -> Option<Record> {
        let (event, entry) = match (&change.before, &change.after) {
            (None, Some(entry)) => ("entry-created", entry),
            (Some(_), Some(entry)) => ("entry-updated", entry),
            (Some(entry), None) => ("entry-deleted", entry),
            (None, None) => return None,
        };
        let record = self
            .event(event)
            .with("identity", entry.spiffe_id.to_string())
            .with("entry", entry.id.as_str())
            .with("origin", if entry.origin == Origin::Cloud { "cloud" } else { "edge" });
        if change.after.is_none() {
            self.serials.lock().remove(&entry.id);
            return Some(record);
        }
        let before: BTreeMap<_, _> = change.before.iter().flat_map(|before| fields(before)).collect();
        let differing = fields(entry).into_iter().filter(|(key, value)| before.get(key) != Some(value));
        Some(differing.fold(record, |record, (key, value)| record.with(key, value)))
    }

    fn federated(&self, change: &FederationChange) -> Option<Record> {
        let event = if change.after.is_some() { "federated-bundle-set" } else { "federated-bundle-deleted" };
        let record = self.event(event).with("trust-domain", change.trust_domain()?.to_string());
        let Some(bundle) = &change.after else { return Some(record) };
        let roots: Vec<String> = bundle.roots().iter().map(|root| fingerprint(&root.certificate)).collect();
        Some(record.with("sequence", bundle.sequence()).with("roots", roots))
    }

    fn journal(&self, before: Option<&CaJournal>, after: &CaJournal) -> Record {
        let serial = |ca: Option<&CaRecord>| ca.map(|ca| ca.serial.clone());
        let active = |journal: &CaJournal| serial(journal.active().map(|(_, ca)| ca));
        let prepared = |journal: &CaJournal| serial(journal.prepared().map(|(_, ca)| ca));
        let was = |get: &dyn Fn(&CaJournal) -> Option<String>| before.and_then(get);
        let event = if active(after).is_some() && active(after) != was(&active) {
            "ca-activated"
        } else if prepared(after).is_some() && prepared(after) != was(&prepared) {
            "ca-prepared"
        } else if tainted(after) > before.map_or(0, tainted) {
            "ca-tainted"
        } else if after.request().is_some() && after.request() != before.and_then(CaJournal::request) {
            "ca-requested"
        } else {
            "ca-key-lost"
        };
        let authority = |ca: Option<(Slot, &CaRecord)>| ca.and_then(|(_, ca)| authority_id(&ca.certificate));
        self.event(event)
            .with("active-authority", authority(after.active()))
            .with("active-serial", active(after))
            .with("prepared-authority", authority(after.prepared()))
            .with("prepared-serial", prepared(after))
            .with("not-after", after.prepared().or(after.active()).map(|(_, ca)| ca.not_after.0))
    }

    /// The roots in force, and what of them changed, by the IDs that `midge localauthority` shows.
    fn bundle(&self, before: Option<&Bundle>, after: &Bundle) -> Record {
        let known = |bundle: &Bundle| -> Vec<(Option<String>, bool)> {
            bundle.roots().iter().map(|root| (authority_id(&root.certificate), root.tainted)).collect()
        };
        let (was, is) = (before.map(known).unwrap_or_default(), known(after));
        let among =
            |list: &[(Option<String>, bool)], id: &Option<String>| list.iter().any(|(it, _)| it == id);
        let added = is.iter().filter(|(id, _)| before.is_some() && !among(&was, id));
        let removed = was.iter().filter(|(id, _)| !among(&is, id));
        let newly = is.iter().filter(|it| it.1 && !was.contains(it));
        let roots: Vec<String> = after.roots().iter().map(|root| fingerprint(&root.certificate)).collect();
        self.event("bundle-changed")
            .with("sequence", after.sequence())
            .with("roots", roots)
            .with("authorities", ids(is.iter()))
            .with("added", ids(added))
            .with("removed", ids(removed))
            .with("tainted", ids(newly))
    }

    fn mutation(&self, mutation: &Mutation, changed: &Changed<'_>) -> Option<Record> {
        Some(match mutation {
            Mutation::Entry(change) => self.entry(change)?,
            // Of the token's hash only the start: a token that an operator chose could be guessed from the whole.
            Mutation::TokenMade(token) => self
                .event("token-made")
                .with("token", start(&token.token_sha256))
                .with("identity", token.agent_id.as_ref().map(ToString::to_string))
                .with("expires", token.expires_at.0),
            Mutation::TokenGone(token) => self.event("token-gone").with("token", start(token)),
            Mutation::Node(node) => {
                let is_new = changed.mutations.iter().any(|other| matches!(other, Mutation::TokenGone(_)));
                let event = match (node.banned, is_new) {
                    (true, _) => "node-banned",
                    (false, true) => "node-joined",
                    (false, false) => "node-updated",
                };
                self.event(event)
                    .with("identity", node.id.to_string())
                    .with("token", start(&node.token_sha256))
                    .with("serial", node.svid_serial.as_str())
                    .with("next-serial", node.svid_next.as_ref().map(|next| next.serial.clone()))
            }
            Mutation::NodeGone(id) => self.event("node-deleted").with("identity", id.to_string()),
            Mutation::Bundle(bundle) => self.bundle(changed.bundle_before, bundle),
            Mutation::Federated(change) => self.federated(change)?,
            Mutation::Journal(journal) => self.journal(changed.journal_before, journal),
            // It is told by `status` and in the log; nothing has changed.
            Mutation::Refused(_) => return None,
        })
    }
}

impl Witness for Trail {
    fn changed(&self, changed: &Changed<'_>) {
        for mutation in changed.mutations {
            if let Some(record) = self.mutation(mutation, changed) {
                self.log.record(by(record, changed.actor));
            }
        }
    }

    fn issued(&self, issued: &Issued<'_>) {
        let Issued { id, serial, expires, cause, actor } = issued;
        let mut previous = None;
        let (event, what) = match cause {
            Cause::Entry(entry) => {
                let mut serials = self.serials.lock();
                if serials.len() >= REMEMBERED_MAX && !serials.contains_key(entry) {
                    serials.clear();
                }
                previous = serials.insert(entry.clone(), (*serial).to_owned());
                (if previous.is_some() { "svid-renewed" } else { "svid-issued" }, "entry")
            }
            Cause::Minted => ("svid-issued", "operator"),
            Cause::Node => ("svid-issued", "node"),
            Cause::Builtin => ("svid-issued", "own part"),
            Cause::Intermediate => ("ca-issued", "node"),
        };
        let (at, identity) = (self.clock.now(), id.to_string());
        let (peer, sort) = (Peer::Identity(&identity), Sort::Issuance);
        let alike = Alike { peer, event, class: what, burst: CERTIFICATES, count: 1, sort, at };
        let Some(admitted) = self.log.admit(&alike) else { return };
        let record = Record::new(at, event)
            .with("identity", identity.as_str())
            .with("serial", *serial)
            .with("expires", expires.0)
            .with("for", what)
            .with("entry", if let Cause::Entry(entry) = cause { Some(entry.as_str()) } else { None })
            .with("previous-serial", previous);
        let record = by(record, actor.as_ref());
        admitted.put(move || record);
    }
}

/// Writes out what is gained or lost, as far as there is room for it.
fn access(change: &PolicyChange, gained: bool) -> Vec<String> {
    let mut lines: Vec<String> = change.lines(gained).map(shortened).collect();
    let more = lines.len().saturating_sub(ACCESS_MAX);
    lines.truncate(ACCESS_MAX);
    lines.extend((more > 0).then(|| format!("… {more} more")));
    lines
}

fn shortened(line: String) -> String {
    let Some(end) = (0..=ACCESS_BYTES_MAX).rev().find(|at| line.is_char_boundary(*at)) else { return line };
    if line.len() <= ACCESS_BYTES_MAX { line } else { format!("{}…", line.get(..end).unwrap_or_default()) }
}

/// What an operator sets of an entry. Named one by one, so that a new field is not forgotten.
fn fields(entry: &RegistrationEntry) -> Vec<(&'static str, Value)> {
    let RegistrationEntry {
        id: _,
        spiffe_id: _,
        parent_id,
        selectors,
        x509_svid_ttl_secs,
        jwt_svid_ttl_secs,
        federates_with,
        admin,
        downstream,
        expires_at,
        dns_names,
        revision_number: _,
        store_svid,
        hint,
        created_at: _,
        publish,
        subscribe,
        origin: _,
    } = entry;
    let selectors: Vec<String> = selectors.iter().map(ToString::to_string).collect();
    vec![
        ("parent", parent_id.to_string().into()),
        ("selectors", selectors.into()),
        ("publish", publish.clone().into()),
        ("subscribe", subscribe.clone().into()),
        ("dns-names", dns_names.clone().into()),
        ("federates-with", federates_with.clone().into()),
        ("hint", hint.as_str().into()),
        ("ttl-secs", (*x509_svid_ttl_secs).into()),
        ("jwt-ttl-secs", (*jwt_svid_ttl_secs).into()),
        ("store-svid", (*store_svid).into()),
        ("admin", (*admin).into()),
        ("downstream", (*downstream).into()),
        ("expires-at", (*expires_at).into()),
    ]
}

/// A list of authorities, unless there are none.
fn ids<'a>(authorities: impl Iterator<Item = &'a (Option<String>, bool)>) -> Option<Vec<String>> {
    let ids: Vec<String> = authorities.filter_map(|(id, _)| id.clone()).collect();
    (!ids.is_empty()).then_some(ids)
}

/// How many CAs are to be replaced since their root is tainted.
fn tainted(journal: &CaJournal) -> usize {
    [Slot::A, Slot::B]
        .into_iter()
        .filter(|slot| journal.slot(*slot).is_some_and(|(_, ca)| ca.tainted))
        .count()
}

fn start(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

#[cfg(test)]
mod tests;
