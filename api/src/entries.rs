//! Registration entries between SPIRE's messages and the server's types: the identity server and an agent in another
//! process read them alike. Whether an entry may be is not asked here.

use crate::spire::api::types;
use issuer_core::{Origin, RegistrationEntry, Selector};
use midge_identity::{SpiffeId, TrustDomain, parse_spiffe_id};

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

fn ttl(secs: i32, name: &str) -> Result<u32, String> {
    u32::try_from(secs).map_err(|_| format!("invalid registration entry: {name} is not set"))
}

/// Writes a SPIFFE ID as SPIRE's message.
pub fn id_to_api(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

/// Reads a SPIFFE ID from SPIRE's message; a path without its first slash is taken, as SPIRE does.
///
/// # Errors
/// Says what is missing or malformed, in SPIRE's words.
pub fn id_from_api(id: Option<&types::Spiffeid>) -> Result<SpiffeId, String> {
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

/// Writes a selector as SPIRE's message.
pub fn selector_to_api(selector: &Selector) -> types::Selector {
    types::Selector { r#type: selector.kind.clone(), value: selector.value.clone() }
}

/// Reads a selector from SPIRE's message.
pub fn selector_from_api(selector: types::Selector) -> Selector {
    Selector { kind: selector.r#type, value: selector.value }
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
