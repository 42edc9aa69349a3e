//! Between messages and the server's types, with SPIRE's words for what does not fit.

use crate::IssueError;
use issuer_core::{AuthorityError, EntryError, JoinError, Origin, RegistrationEntry, Selector, SetMatch};
use midge_api::spire::api::types;
use midge_identity::{SpiffeId, TrustDomain, parse_spiffe_id};
use std::collections::BTreeSet;
use tonic::{Code, Status};

/// Writes an entry as SPIRE's message with Midge's fields.
pub fn entry_to_api(entry: &RegistrationEntry) -> types::Entry {
    types::Entry {
        id: entry.id.clone(),
        spiffe_id: Some(id_to_api(&entry.spiffe_id)),
        parent_id: Some(id_to_api(&entry.parent_id)),
        selectors: entry.selectors.iter().map(selector_to_api).collect(),
        x509_svid_ttl: i32::try_from(entry.x509_svid_ttl_secs).unwrap_or(i32::MAX),
        federates_with: entry.federates_with.clone(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.expires_at,
        dns_names: entry.dns_names.clone(),
        revision_number: entry.revision_number,
        store_svid: entry.store_svid,
        jwt_svid_ttl: i32::try_from(entry.jwt_svid_ttl_secs).unwrap_or(i32::MAX),
        hint: entry.hint.clone(),
        created_at: entry.created_at,
        publish: entry.publish.clone(),
        subscribe: entry.subscribe.clone(),
        origin: match entry.origin {
            Origin::Edge => "edge",
            Origin::Cloud => "cloud",
            Origin::Builtin => "builtin",
        }
        .to_owned(),
    }
}

/// Reads an entry from SPIRE's message with Midge's fields; the rules for entries are not checked.
///
/// # Errors
/// Says what is missing or malformed, in SPIRE's words.
pub fn entry_from_api(entry: types::Entry) -> Result<RegistrationEntry, String> {
    let parent_id =
        id_from_api(entry.parent_id.as_ref()).map_err(|why| format!("invalid parent ID: {why}"))?;
    let spiffe_id =
        id_from_api(entry.spiffe_id.as_ref()).map_err(|why| format!("invalid spiffe ID: {why}"))?;
    Ok(RegistrationEntry {
        id: entry.id,
        spiffe_id,
        parent_id,
        selectors: entry.selectors.into_iter().map(selector_from_api).collect(),
        x509_svid_ttl_secs: ttl(entry.x509_svid_ttl, "X509SvidTtl")?,
        jwt_svid_ttl_secs: ttl(entry.jwt_svid_ttl, "JwtSvidTtl")?,
        federates_with: entry.federates_with,
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.expires_at,
        dns_names: entry.dns_names,
        revision_number: entry.revision_number,
        store_svid: entry.store_svid,
        hint: entry.hint,
        created_at: entry.created_at,
        publish: entry.publish,
        subscribe: entry.subscribe,
        origin: match entry.origin.as_str() {
            "" | "edge" => Origin::Edge,
            "cloud" => Origin::Cloud,
            "builtin" => Origin::Builtin,
            other => return Err(format!("invalid registration entry: origin \"{other}\" is not known")),
        },
    })
}

pub(super) fn ttl(secs: i32, name: &str) -> Result<u32, String> {
    u32::try_from(secs).map_err(|_| format!("invalid registration entry: {name} is not set"))
}

pub(super) fn id_to_api(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

pub(super) fn id_from_api(id: Option<&types::Spiffeid>) -> Result<SpiffeId, String> {
    let Some(id) = id else { return Err("request must specify SPIFFE ID".to_owned()) };
    if id.trust_domain.is_empty() {
        return Err("trust domain is missing".to_owned());
    }
    // "a/b" as a trust domain would otherwise become part of the path.
    TrustDomain::new(&id.trust_domain)
        .ok()
        .filter(|parsed| parsed.as_str() == id.trust_domain)
        .ok_or_else(|| format!("trust domain \"{}\" is malformed", id.trust_domain))?;
    let slash = if id.path.is_empty() || id.path.starts_with('/') { "" } else { "/" };
    parse_spiffe_id(&format!("spiffe://{}{slash}{}", id.trust_domain, id.path))
        .map_err(|error| error.to_string())
}

pub(super) fn selector_to_api(selector: &Selector) -> types::Selector {
    types::Selector { r#type: selector.kind.clone(), value: selector.value.clone() }
}

pub(super) fn selector_from_api(selector: types::Selector) -> Selector {
    Selector { kind: selector.r#type, value: selector.value }
}

/// Reads a filter by selectors.
pub(super) fn selectors_from_api(
    by: Option<types::SelectorMatch>,
) -> Result<Option<(SetMatch, BTreeSet<Selector>)>, Status> {
    let Some(by) = by else { return Ok(None) };
    let malformed = |why: String| Status::invalid_argument(format!("malformed selectors filter: {why}"));
    let how =
        set_match(by.r#match).ok_or_else(|| malformed(format!("unknown match behavior {}", by.r#match)))?;
    let selectors: BTreeSet<Selector> = by.selectors.into_iter().map(selector_from_api).collect();
    if selectors.is_empty() {
        return Err(malformed("empty selector set".to_owned()));
    }
    for selector in &selectors {
        issuer_core::check_selector(selector).map_err(|error| malformed(error.to_string()))?;
    }
    Ok(Some((how, selectors)))
}

/// SPIRE's two match enums have the same numbers.
pub(super) fn set_match(number: i32) -> Option<SetMatch> {
    match number {
        0 => Some(SetMatch::Exact),
        1 => Some(SetMatch::Subset),
        2 => Some(SetMatch::Superset),
        3 => Some(SetMatch::Any),
        _ => None,
    }
}

pub(super) fn ok() -> types::Status {
    types::Status { code: Code::Ok as i32, message: "OK".to_owned() }
}

pub(super) fn item_status(code: Code, message: String) -> types::Status {
    types::Status { code: code as i32, message }
}

/// Says which code an error has, from the view of the caller.
pub(super) fn code_of(error: &IssueError) -> Code {
    match error {
        IssueError::Entry(error) => entry_code(error),
        IssueError::Join(JoinError::UnknownNode) => Code::NotFound,
        IssueError::Join(JoinError::Banned(_)) => Code::PermissionDenied,
        IssueError::Join(JoinError::TokenExists) => Code::AlreadyExists,
        IssueError::Join(JoinError::TooMany { .. }) => Code::ResourceExhausted,
        IssueError::Authority(AuthorityError::NoId) => Code::InvalidArgument,
        IssueError::Authority(AuthorityError::Unknown(_)) => Code::NotFound,
        IssueError::Authority(_) => Code::FailedPrecondition,
        IssueError::Join(_)
        | IssueError::Id(_)
        | IssueError::Csr(_)
        | IssueError::CsrWithoutId
        | IssueError::CsrDnsName { .. }
        | IssueError::Ttl(_)
        | IssueError::NodeName { .. }
        | IssueError::NotABox(_) => Code::InvalidArgument,
        IssueError::Store(_) => Code::ResourceExhausted,
        IssueError::NoAuthority(_) | IssueError::CaExpired(_) | IssueError::Stopping => Code::Unavailable,
        _ => Code::Internal,
    }
}

pub(super) fn entry_code(error: &EntryError) -> Code {
    match error {
        EntryError::Similar(_) => Code::AlreadyExists,
        EntryError::NotFound => Code::NotFound,
        EntryError::ManagedByCloud | EntryError::Builtin => Code::FailedPrecondition,
        EntryError::TooMany { what: "entries", .. } => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    }
}

/// Answers with SPIRE's form of a message: what was attempted, then why it failed.
pub(super) fn status(attempt: &str, error: &IssueError) -> Status {
    Status::new(code_of(error), format!("{attempt}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_written_as_it_was_read_and_one_of_an_unknown_origin_is_not_read() {
        let id = || Some(types::Spiffeid { trust_domain: "example.org".into(), path: "/app".into() });
        for origin in ["edge", "cloud", "builtin"] {
            let (spiffe_id, parent_id) = (id(), id());
            let message =
                types::Entry { origin: origin.into(), spiffe_id, parent_id, ..types::Entry::default() };
            assert_eq!(
                entry_from_api(message.clone()).map(|entry| entry_to_api(&entry)),
                Ok(message.clone())
            );
            let fault = entry_from_api(types::Entry { origin: "moon".into(), ..message }).unwrap_err();
            assert!(fault.contains("\"moon\""), "{fault}");
        }
    }
}
