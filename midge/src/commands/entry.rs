//! `midge entry …`: registration entries, with the flags of `spire-server entry`.

use super::admin::{Admin, id_text, item_status, selector, spiffe_id, trust_domain};
use crate::cli::{EntryCommand, EntryFields, EntrySelection};
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_api::entries::id_to_api;
use midge_api::midge::v1::StatusRequest;
use midge_api::spire::api::server::entry::v1 as api;
use midge_api::spire::api::types::federates_with_match::MatchBehavior;
use midge_api::spire::api::types::{Entry, FederatesWithMatch, Spiffeid};
use midge_identity::{TrustDomain, UnixMillis, node_id};

pub(crate) async fn run(admin: &Admin, command: EntryCommand, output: Output) -> anyhow::Result<()> {
    match command {
        EntryCommand::Create { id, fields } => create(admin, id.unwrap_or_default(), fields, output).await,
        EntryCommand::Show(selection) => show(admin, selection, output).await,
        EntryCommand::Update { entry_id, fields } => update(admin, entry_id, fields, output).await,
        EntryCommand::Delete { entry_id } => delete(admin, entry_id, output).await,
        EntryCommand::Count => count(admin, output).await,
    }
}

async fn create(admin: &Admin, id: String, fields: EntryFields, output: Output) -> anyhow::Result<()> {
    let parent = parent(admin, fields.parent_id.as_deref()).await?;
    let request =
        api::BatchCreateEntryRequest { entries: vec![entry(id, fields, parent)?], output_mask: None };
    let response = admin.entries().await?.batch_create_entry(request).await;
    let results = response.map_err(|status| admin.error(&status))?.into_inner().results;
    let result = results.into_iter().next().unwrap_or_default();
    if let (Err(error), Some(existing)) = (item_status(result.status.as_ref()), &result.entry) {
        return Err(failure(exit::NO, format!("{error:#}: entry {} is the same", existing.id)));
    }
    item_status(result.status.as_ref())?;
    print(&result.entry.into_iter().collect::<Vec<_>>(), output)
}

async fn update(admin: &Admin, id: String, fields: EntryFields, output: Output) -> anyhow::Result<()> {
    let parent = parent(admin, fields.parent_id.as_deref()).await?;
    let asked = id.clone();
    let request = api::BatchUpdateEntryRequest {
        entries: vec![entry(id, fields, parent)?],
        input_mask: None,
        output_mask: None,
    };
    let response = admin.entries().await?.batch_update_entry(request).await;
    let results = response.map_err(|status| admin.error(&status))?.into_inner().results;
    let result = results.into_iter().next().unwrap_or_default();
    item_status(result.status.as_ref()).map_err(|error| unknown(error, &asked))?;
    print(&result.entry.into_iter().collect::<Vec<_>>(), output)
}

/// SPIRE's message does not say which entry, nor what to do.
fn unknown(error: anyhow::Error, id: &str) -> anyhow::Error {
    let text = error.to_string();
    if !text.ends_with("entry not found") {
        return error;
    }
    failure(exit::NO, format!("{text}: \"{id}\"; `midge entry show` lists them"))
}

async fn delete(admin: &Admin, id: String, output: Output) -> anyhow::Result<()> {
    let request = api::BatchDeleteEntryRequest { ids: vec![id.clone()] };
    let response = admin.entries().await?.batch_delete_entry(request).await;
    let results = response.map_err(|status| admin.error(&status))?.into_inner().results;
    let result = results.into_iter().next().unwrap_or_default();
    item_status(result.status.as_ref()).map_err(|error| unknown(error, &id))?;
    match output {
        Output::Json => output::json(&serde_json::json!({ "deleted": result.id })),
        Output::Pretty => {
            output::line(format_args!("Deleted entry with ID: {}", result.id));
            Ok(())
        }
    }
}

async fn count(admin: &Admin, output: Output) -> anyhow::Result<()> {
    let response = admin.entries().await?.count_entries(api::CountEntriesRequest::default()).await;
    let count = response.map_err(|status| admin.error(&status))?.into_inner().count;
    match output {
        Output::Json => output::json(&serde_json::json!({ "count": count })),
        Output::Pretty => {
            output::line(format_args!(
                "{count} registration {}",
                if count == 1 { "entry" } else { "entries" }
            ));
            Ok(())
        }
    }
}

async fn show(admin: &Admin, selection: EntrySelection, output: Output) -> anyhow::Result<()> {
    let mut client = admin.entries().await?;
    if let Some(id) = selection.entry_id {
        let asked = id.clone();
        let response = client.get_entry(api::GetEntryRequest { id, output_mask: None }).await;
        let entry = response.map_err(|status| unknown(admin.error(&status), &asked))?.into_inner();
        return print(&[entry], output);
    }
    let filter = api::list_entries_request::Filter {
        by_spiffe_id: selection.spiffe_id.as_deref().map(spiffe_id).transpose()?,
        by_parent_id: selection.parent_id.as_deref().map(spiffe_id).transpose()?,
        by_federates_with: federates_with(&selection.federates_with)?,
        ..Default::default()
    };
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = api::ListEntriesRequest {
            filter: Some(filter.clone()),
            output_mask: None,
            page_size: 500,
            page_token,
        };
        let response =
            client.list_entries(request).await.map_err(|status| admin.error(&status))?.into_inner();
        entries.extend(response.entries);
        page_token = response.next_page_token;
        if page_token.is_empty() {
            return print(&entries, output);
        }
    }
}

/// The node that serves the entry: as given, else the edge itself. A cloud has many, so there it must be named.
async fn parent(admin: &Admin, given: Option<&str>) -> anyhow::Result<Spiffeid> {
    if let Some(given) = given {
        return spiffe_id(given);
    }
    let status = admin.midge().await?.status(StatusRequest {}).await;
    let status = status.map_err(|status| admin.error(&status))?.into_inner();
    if status.node.is_empty() {
        let example = format!("spiffe://{}/edge/<node>", status.trust_domain);
        return Err(failure(exit::USAGE, format!("name the node with -parentID {example}")));
    }
    Ok(id_to_api(&node_id(&TrustDomain::new(status.trust_domain)?, &status.node)?))
}

fn entry(id: String, fields: EntryFields, parent: Spiffeid) -> anyhow::Result<Entry> {
    Ok(Entry {
        id,
        spiffe_id: Some(spiffe_id(&fields.spiffe_id)?),
        parent_id: Some(parent),
        selectors: fields.selectors.iter().map(|text| selector(text)).collect::<Result<_, _>>()?,
        x509_svid_ttl: fields.x509_svid_ttl,
        federates_with: trust_domains(&fields.federates_with)?,
        dns_names: fields.dns,
        hint: fields.hint,
        admin: fields.admin,
        downstream: fields.downstream,
        expires_at: fields.expires_at,
        publish: fields.publish,
        subscribe: fields.subscribe,
        ..Entry::default()
    })
}

fn trust_domains(texts: &[String]) -> anyhow::Result<Vec<String>> {
    texts.iter().map(|text| Ok(trust_domain(text)?.to_string())).collect()
}

fn federates_with(texts: &[String]) -> anyhow::Result<Option<FederatesWithMatch>> {
    let trust_domains = trust_domains(texts)?;
    let r#match = MatchBehavior::MatchSuperset.into();
    Ok((!trust_domains.is_empty()).then_some(FederatesWithMatch { trust_domains, r#match }))
}

fn print(entries: &[Entry], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => return output::json(&serde_json::json!({ "entries": entries })),
        Output::Pretty => {}
    }
    let noun = if entries.len() == 1 { "entry" } else { "entries" };
    output::line(format_args!("{} {noun}", entries.len()));
    for entry in entries {
        output::line("");
        let mut fields = vec![
            ("Entry ID", entry.id.clone()),
            ("SPIFFE ID", id_text(entry.spiffe_id.as_ref())),
            ("Parent ID", id_text(entry.parent_id.as_ref())),
            ("Revision", entry.revision_number.to_string()),
            (
                "X509-SVID TTL",
                if entry.x509_svid_ttl == 0 { "default".into() } else { entry.x509_svid_ttl.to_string() },
            ),
            ("Expires", expiry(entry.expires_at)),
            ("Hint", entry.hint.clone()),
            ("Origin", entry.origin.clone()),
            ("Admin", flag(entry.admin)),
            ("Downstream", flag(entry.downstream)),
        ];
        fields.extend(entry.selectors.iter().map(|s| ("Selector", format!("{}:{}", s.r#type, s.value))));
        fields.extend(entry.federates_with.iter().map(|name| ("FederatesWith", name.clone())));
        fields.extend(entry.dns_names.iter().map(|name| ("DNS name", name.clone())));
        fields.extend(entry.publish.iter().map(|filter| ("Publish", filter.clone())));
        fields.extend(entry.subscribe.iter().map(|filter| ("Subscribe", filter.clone())));
        output::fields(&fields);
    }
    Ok(())
}

/// Says when an entry ends; nothing of one that does not.
fn expiry(secs: i64) -> String {
    match u64::try_from(secs) {
        Ok(0) | Err(_) => String::new(),
        Ok(secs) => UnixMillis::from_secs(secs).to_string(),
    }
}

fn flag(is_set: bool) -> String {
    if is_set { "true (without effect here)".into() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_entry_has_is_told() {
        assert_eq!((expiry(0), flag(false)), (String::new(), String::new()));
        assert_eq!(expiry(1_767_225_599), "2025-12-31T23:59:59Z");
        assert!(flag(true).starts_with("true"));
    }
}
