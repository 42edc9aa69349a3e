//! What a registration entry must look like: SPIRE's rules and words (`pkg/server/api/entry.go`,
//! `id.go`), Midge's scope of a box, and caps.

use crate::{RegistrationEntry, Selector, limits};
use midge_identity::{IssuerScope, SpiffeId, TrustDomain, is_builtin, scope_of};
use std::{sync::Arc, time::Duration};

/// What is wrong with an ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdFault {
    /// Of another trust domain.
    #[error("\"{id}\" is not a member of trust domain \"{trust_domain}\"")]
    NotMember {
        /// The ID.
        id: SpiffeId,
        /// This server's trust domain.
        trust_domain: TrustDomain,
    },
    /// The trust domain's own ID.
    #[error("\"{id}\" is not a {role} trust domain \"{}\"; path is empty", .id.trust_domain())]
    EmptyPath {
        /// The ID.
        id: SpiffeId,
        /// What it should have been.
        role: &'static str,
    },
    /// Below `/spire`, which the server keeps for itself.
    #[error("\"{id}\" is not a workload in trust domain \"{}\"; path is in the reserved namespace", .id.trust_domain())]
    Reserved {
        /// The ID.
        id: SpiffeId,
    },
    /// What a box or the cloud proves itself with: clients trust whoever shows it.
    #[error(
        "\"{id}\" is an identity that the server keeps for itself; use another path, such as …/app/<name>"
    )]
    Own {
        /// The ID.
        id: SpiffeId,
    },
}

/// Why an operation on an entry was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The parent ID is unusable.
    #[error("invalid parent ID: {0}")]
    ParentId(IdFault),
    /// The SPIFFE ID is unusable.
    #[error("invalid spiffe ID: {0}")]
    SpiffeId(IdFault),
    /// The SPIFFE ID belongs to another box than its parent.
    #[error(
        "invalid spiffe ID: \"{spiffe_id}\" is outside the issuer scope \"{scope}\" of the box that would sign it: use a path below it"
    )]
    OutOfScope {
        /// The ID.
        spiffe_id: SpiffeId,
        /// Paths the box may speak for.
        scope: String,
    },
    /// No agent of this box serves it.
    #[error(
        "parent {parent} is another box: entries made here are served by this box, {own}, and by agents below it"
    )]
    OtherBox {
        /// The parent.
        parent: SpiffeId,
        /// The ID of this box.
        own: String,
    },
    /// A DNS name is unusable.
    #[error("invalid DNS name: {fault}: \"{name}\"")]
    DnsName {
        /// The name.
        name: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A trust domain is unusable.
    #[error("invalid federated trust domain: {why}: \"{name}\"")]
    FederatesWith {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// An entry cannot federate with a trust domain that nobody knows the roots of.
    #[error(
        "unable to find federated bundle \"spiffe://{name}\": set it first{place}, with `midge bundle set -id spiffe://{name}`"
    )]
    NoBundle {
        /// Name of the trust domain.
        name: String,
        /// Where it is set, if that is elsewhere.
        place: &'static str,
    },
    /// No selector.
    #[error("selector list is empty")]
    NoSelectors,
    /// A selector is unusable.
    #[error("{0}")]
    Selector(&'static str),
    /// No agent finds the selector at any workload.
    #[error("selector {selector} can match nobody: {why}")]
    NeverMatches {
        /// The selector.
        selector: Selector,
        /// What is wrong with it.
        why: String,
    },
    /// Selectors of an entry that is stored must come from one attestor.
    #[error("invalid registration entry: selector types must be the same when store SVID is enabled")]
    StoreSvidSelectors,
    /// The hint is too long.
    #[error("hint is too long, max length is {} characters", limits::HINT_BYTES_MAX)]
    HintTooLong,
    /// The entry ID is too long.
    #[error("invalid registration entry: entry ID too long")]
    IdTooLong,
    /// The entry ID has characters that keys of the store cannot have.
    #[error("invalid registration entry: entry ID contains invalid characters: \"{0}\"")]
    IdCharacters(String),
    /// A lifetime is too long.
    #[error("invalid registration entry: TTL {0} s is longer than a year")]
    TtlTooLong(u32),
    /// The end of the entry has come already.
    #[error("invalid registration entry: its end, {0} s since 1970, is past")]
    Past(i64),
    /// The end of the entry has come; it is about to be removed.
    #[error("entry has ended")]
    Ended,
    /// A grant is none.
    #[error("invalid {grant} grant \"{filter}\": {why}")]
    Grant {
        /// `publish` or `subscribe`.
        grant: &'static str,
        /// The filter.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// A list is longer than its cap.
    #[error("too many {what}: {count}, at most {max}")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// Its length.
        count: usize,
        /// The cap.
        max: usize,
    },
    /// An entry with the same SPIFFE ID, parent and selectors, or the same entry ID, exists.
    #[error("similar entry already exists")]
    Similar(Arc<RegistrationEntry>),
    /// It is of a newer version, or no entry at all.
    #[error("this version cannot read it: {0}")]
    Unread(String),
    /// No such entry.
    #[error("entry not found")]
    NotFound,
    /// Synced from the cloud.
    #[error("entry is managed by the cloud: change it there")]
    ManagedByCloud,
    /// Made by the server for its own parts.
    #[error("entry belongs to the server itself and cannot be changed")]
    Builtin,
}

/// What this server accepts as an entry.
#[derive(Clone, Debug)]
pub struct EntryRules {
    /// The only trust domain it issues for.
    pub trust_domain: TrustDomain,
    /// Entries below a box (`/edge/<node>`) must stay within it, because verifiers hold its CA to that.
    pub boxes_are_scoped: bool,
    /// On an edge, entries of the cloud are read-only.
    pub cloud_is_elsewhere: bool,
    /// Name of the box that this is: no other box takes its entries from here.
    pub own_node: Option<String>,
    /// Says why a text is no grant.
    pub grant_fault: fn(&str) -> Option<String>,
}

/// Checks that an ID is one of the trust domain's members, as SPIRE words it.
///
/// # Errors
/// It is of another trust domain or has no path.
pub fn check_member(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), IdFault> {
    check_role(trust_domain, id, "member of")
}

/// Checks that an ID may be a workload's, as SPIRE words it.
///
/// # Errors
/// It is of another trust domain, has no path, or is reserved.
pub fn check_workload(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), IdFault> {
    check_role(trust_domain, id, "workload in")?;
    if id.path() == "/spire" || id.path().starts_with("/spire/") {
        return Err(IdFault::Reserved { id: id.clone() });
    }
    Ok(())
}

fn check_role(trust_domain: &TrustDomain, id: &SpiffeId, role: &'static str) -> Result<(), IdFault> {
    if !id.is_member_of(trust_domain) {
        return Err(IdFault::NotMember { id: id.clone(), trust_domain: trust_domain.clone() });
    }
    if id.path().is_empty() {
        return Err(IdFault::EmptyPath { id: id.clone(), role });
    }
    Ok(())
}

impl EntryRules {
    /// Checks an entry and brings it into its one form: selectors sorted without doubles, names of trust domains bare.
    ///
    /// # Errors
    /// Names the first rule that the entry breaks.
    pub fn normalise(&self, mut entry: RegistrationEntry) -> Result<RegistrationEntry, EntryError> {
        check_entry_id(&entry.id)?;
        check_member(&self.trust_domain, &entry.parent_id).map_err(EntryError::ParentId)?;
        check_workload(&self.trust_domain, &entry.spiffe_id).map_err(EntryError::SpiffeId)?;
        self.check_scope(&entry)?;
        if is_builtin(&entry.spiffe_id) {
            return Err(EntryError::SpiffeId(IdFault::Own { id: entry.spiffe_id }));
        }
        check_counts(&entry)?;
        for name in &entry.dns_names {
            check_dns_name(name).map_err(|fault| EntryError::DnsName { name: name.clone(), fault })?;
        }
        for name in &mut entry.federates_with {
            let trust_domain = TrustDomain::new(name.as_str())
                .map_err(|error| EntryError::FederatesWith { name: name.clone(), why: error.to_string() })?;
            *name = trust_domain.to_string();
        }
        check_selectors(&entry)?;
        entry.selectors.sort();
        entry.selectors.dedup();
        if entry.hint.len() > limits::HINT_BYTES_MAX {
            return Err(EntryError::HintTooLong);
        }
        for ttl in [entry.x509_svid_ttl_secs, entry.jwt_svid_ttl_secs] {
            if Duration::from_secs(u64::from(ttl)) > limits::SVID_TTL_MAX {
                return Err(EntryError::TtlTooLong(ttl));
            }
        }
        Ok(entry)
    }

    fn check_scope(&self, entry: &RegistrationEntry) -> Result<(), EntryError> {
        let Some(scope) = scope_of(&entry.parent_id).filter(|_| self.boxes_are_scoped) else {
            return Ok(());
        };
        if IssuerScope::new(scope.as_str()).is_ok_and(|scope| scope.admits(&entry.spiffe_id)) {
            return Ok(());
        }
        Err(EntryError::OutOfScope { spiffe_id: entry.spiffe_id.clone(), scope })
    }
}

fn check_entry_id(id: &str) -> Result<(), EntryError> {
    if id.len() > limits::ENTRY_ID_BYTES_MAX {
        return Err(EntryError::IdTooLong);
    }
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return Err(EntryError::IdCharacters(id.to_owned()));
    }
    Ok(())
}

fn check_counts(entry: &RegistrationEntry) -> Result<(), EntryError> {
    let lists = [
        ("selectors", entry.selectors.len(), limits::ENTRY_SELECTORS_MAX),
        ("DNS names", entry.dns_names.len(), limits::ENTRY_DNS_NAMES_MAX),
        ("federated trust domains", entry.federates_with.len(), limits::ENTRY_FEDERATES_MAX),
        ("publish grants", entry.publish.len(), limits::ENTRY_GRANTS_MAX),
        ("subscribe grants", entry.subscribe.len(), limits::ENTRY_GRANTS_MAX),
    ];
    for (what, count, max) in lists {
        if count > max {
            return Err(EntryError::TooMany { what, count, max });
        }
    }
    Ok(())
}

fn check_selectors(entry: &RegistrationEntry) -> Result<(), EntryError> {
    let Some(first) = entry.selectors.first() else {
        return Err(EntryError::NoSelectors);
    };
    for selector in &entry.selectors {
        check_selector(selector)?;
    }
    if entry.store_svid && entry.selectors.iter().any(|selector| selector.kind != first.kind) {
        return Err(EntryError::StoreSvidSelectors);
    }
    Ok(())
}

/// Checks one selector, as SPIRE words it.
///
/// # Errors
/// It lacks a type or a value, or its type holds a colon.
pub fn check_selector(selector: &Selector) -> Result<(), EntryError> {
    if selector.kind.is_empty() {
        return Err(EntryError::Selector("missing selector type"));
    }
    if selector.kind.contains(':') {
        return Err(EntryError::Selector("selector type contains ':'"));
    }
    if selector.value.is_empty() {
        return Err(EntryError::Selector("missing selector value"));
    }
    if selector.kind.len() + selector.value.len() > limits::SELECTOR_BYTES_MAX {
        return Err(EntryError::Selector("selector is too long"));
    }
    Ok(())
}

/// Checks a DNS name for a SAN: letters, digits and inner hyphens, with `*.` at most in front.
///
/// # Errors
/// Says what is wrong with it, in SPIRE's words (`pkg/common/x509util/dns.go`).
pub fn check_dns_name(name: &str) -> Result<(), &'static str> {
    let host = match name.matches('*').count() {
        0 => name,
        1 => name.strip_prefix("*.").ok_or("wildcard must be first label")?,
        _ => return Err("too many wildcards"),
    };
    if host.trim().is_empty() {
        return Err("empty domain");
    }
    if host.ends_with('.') {
        return Err("domain ends with dot");
    }
    if host.len() > 253 {
        return Err("name is longer than 253 bytes");
    }
    for label in host.split('.') {
        check_dns_label(label)?;
    }
    Ok(())
}

fn check_dns_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() || label.len() > 63 {
        return Err("label is empty or longer than 63 bytes");
    }
    // Punycode decodes to look-alikes of other names.
    if label.to_ascii_lowercase().starts_with("xn--") {
        return Err("no punycode domain");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("label starts or ends with a hyphen");
    }
    if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err("label has other characters than letters, digits and hyphens");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
