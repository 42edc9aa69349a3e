//! `spire.api.server.entry.v1.Entry`.

use super::{
    convert::{code_of, entry_code, item_status, ok, selectors_from_api, set_match, status},
    page::page,
};
use crate::{IssueError, Issuer};
use issuer_core::{EntryError, EntryFilter, Origin, RegistrationEntry};
use midge_api::entries::{entry_from_api, entry_to_api, id_from_api};
use midge_api::spire::api::{
    server::entry::v1::{
        BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest, BatchDeleteEntryResponse,
        BatchUpdateEntryRequest, BatchUpdateEntryResponse, CountEntriesRequest, CountEntriesResponse,
        GetEntryRequest, ListEntriesRequest, ListEntriesResponse, batch_create_entry_response,
        batch_delete_entry_response, batch_update_entry_response, count_entries_request, entry_server::Entry,
        list_entries_request,
    },
    types,
};
use midge_identity::TrustDomain;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

pub(super) struct EntryService {
    issuer: Issuer,
}

impl EntryService {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer }
    }

    fn chosen(
        &self,
        filter: Option<list_entries_request::Filter>,
    ) -> Result<Vec<Arc<RegistrationEntry>>, Status> {
        let filter = filter_from_api(filter.unwrap_or_default())?;
        self.issuer.entries(&filter).map_err(|error| {
            let which = if matches!(error, EntryError::ParentId(_)) { "parent ID" } else { "SPIFFE ID" };
            Status::invalid_argument(format!("malformed {which} filter: {error}"))
        })
    }

    async fn update(
        &self,
        entry: types::Entry,
        mask: Option<types::EntryMask>,
    ) -> Result<Arc<RegistrationEntry>, types::Status> {
        let id = entry.id.clone();
        let convert =
            |why: String| item_status(Code::InvalidArgument, format!("failed to convert entry: {why}"));
        let edit = Edit::new(entry, mask).map_err(convert)?;
        self.issuer
            .update_entry(&id, move |entry| edit.apply(entry))
            .await
            .map_err(|error| item_status(code_of(&error), format!("failed to update entry: {error}")))
    }

    /// The cloud's operator makes entries of the cloud.
    fn origin(&self) -> Origin {
        if self.issuer.config().node.is_none() { Origin::Cloud } else { Origin::Edge }
    }
}

#[tonic::async_trait]
impl Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let filter = request.into_inner().filter.map(count_filter);
        let count = i32::try_from(self.chosen(filter)?.len()).unwrap_or(i32::MAX);
        Ok(Response::new(CountEntriesResponse { count }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let entries = self.chosen(request.filter)?;
        let (entries, next_page_token) =
            page(entries, request.page_size, &request.page_token, |entry| entry.id.clone());
        let entries = entries.iter().map(|entry| masked(entry, request.output_mask.as_ref())).collect();
        Ok(Response::new(ListEntriesResponse { entries, next_page_token }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<types::Entry>, Status> {
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        let entry = self.issuer.entry(&request.id).map_err(|error| Status::not_found(error.to_string()))?;
        Ok(Response::new(masked(&entry, request.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let request = request.into_inner();
        let mask = request.output_mask;
        let converted: Vec<_> = request.entries.into_iter().map(entry_from_api).collect();
        let drafts = converted.iter().filter_map(|entry| entry.as_ref().ok().cloned()).collect();
        let created = self.issuer.create_entries(drafts, self.origin()).await;
        let mut created = created.map_err(|error| status("failed to create entry", &error))?.into_iter();
        let results = converted
            .into_iter()
            .map(|entry| match entry {
                Err(why) => created_result(Err(why), mask.as_ref()),
                Ok(_) => {
                    created_result(Ok(created.next().unwrap_or(Err(EntryError::NotFound))), mask.as_ref())
                }
            })
            .collect();
        Ok(Response::new(BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.entries.len());
        for entry in request.entries {
            results.push(match self.update(entry, request.input_mask).await {
                Ok(entry) => batch_update_entry_response::Result {
                    status: Some(ok()),
                    entry: Some(masked(&entry, request.output_mask.as_ref())),
                },
                Err(status) => batch_update_entry_response::Result { status: Some(status), entry: None },
            });
        }
        Ok(Response::new(BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let ids = request.into_inner().ids;
        let deleted = self.issuer.delete_entries(ids.clone()).await;
        let deleted = deleted.map_err(|error| status("failed to delete entry", &error))?;
        let results = ids
            .into_iter()
            .zip(deleted)
            .map(|(id, deleted)| batch_delete_entry_response::Result {
                status: Some(match deleted {
                    Ok(_) => ok(),
                    Err(_) if id.is_empty() => {
                        item_status(Code::InvalidArgument, "missing entry ID".to_owned())
                    }
                    Err(error) => item_status(entry_code(&error), error.to_string()),
                }),
                id,
            })
            .collect();
        Ok(Response::new(BatchDeleteEntryResponse { results }))
    }
}

fn created_result(
    created: Result<Result<Arc<RegistrationEntry>, EntryError>, String>,
    mask: Option<&types::EntryMask>,
) -> batch_create_entry_response::Result {
    let (status, entry) = match created {
        Err(why) => (item_status(Code::InvalidArgument, format!("failed to convert entry: {why}")), None),
        Ok(Ok(entry)) => (ok(), Some(masked(&entry, mask))),
        Ok(Err(EntryError::Similar(existing))) => (
            item_status(Code::AlreadyExists, EntryError::Similar(Arc::clone(&existing)).to_string()),
            Some(masked(&existing, mask)),
        ),
        Ok(Err(error)) => {
            let code = code_of(&IssueError::Entry(error.clone()));
            let attempt = if code == Code::InvalidArgument { "convert" } else { "create" };
            (item_status(code, format!("failed to {attempt} entry: {error}")), None)
        }
    };
    batch_create_entry_response::Result { status: Some(status), entry }
}

/// The two filters have the same fields.
fn count_filter(filter: count_entries_request::Filter) -> list_entries_request::Filter {
    list_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    }
}

fn filter_from_api(filter: list_entries_request::Filter) -> Result<EntryFilter, Status> {
    let id = |id: Option<types::Spiffeid>, which: &str| {
        id.map(|id| {
            id_from_api(Some(&id))
                .map_err(|why| Status::invalid_argument(format!("malformed {which} filter: {why}")))
        })
        .transpose()
    };
    let federates_with = match filter.by_federates_with {
        None => None,
        Some(by) => {
            let malformed =
                |why: String| Status::invalid_argument(format!("malformed federates with filter: {why}"));
            let how = set_match(by.r#match).ok_or_else(|| malformed("unknown match behavior".to_owned()))?;
            let names =
                by.trust_domains.iter().map(|name| TrustDomain::new(name).map(|name| name.to_string()));
            let names: Result<std::collections::BTreeSet<String>, _> = names.collect();
            let names = names.map_err(|error| malformed(error.to_string()))?;
            if names.is_empty() {
                return Err(malformed("empty trust domain set".to_owned()));
            }
            Some((how, names))
        }
    };
    Ok(EntryFilter {
        spiffe_id: id(filter.by_spiffe_id, "SPIFFE ID")?,
        parent_id: id(filter.by_parent_id, "parent ID")?,
        selectors: selectors_from_api(filter.by_selectors)?,
        federates_with,
        hint: filter.by_hint,
        downstream: filter.by_downstream,
    })
}

/// New values for an entry: only the fields of the mask.
struct Edit {
    mask: types::EntryMask,
    values: RegistrationEntry,
}

impl Edit {
    fn new(mut entry: types::Entry, mask: Option<types::EntryMask>) -> Result<Self, String> {
        let mask = mask.unwrap_or_else(everything);
        // Fields that are not in the mask may be empty: they need only a form that parses.
        let placeholder = types::Spiffeid { trust_domain: "masked".to_owned(), path: "/masked".to_owned() };
        if !mask.spiffe_id {
            entry.spiffe_id = Some(placeholder.clone());
        }
        if !mask.parent_id {
            entry.parent_id = Some(placeholder);
        }
        if !mask.x509_svid_ttl {
            entry.x509_svid_ttl = 0;
        }
        if !mask.jwt_svid_ttl {
            entry.jwt_svid_ttl = 0;
        }
        Ok(Self { mask, values: entry_from_api(entry)? })
    }

    fn apply(self, entry: &mut RegistrationEntry) {
        let Self { mask, values } = self;
        set(mask.spiffe_id, &mut entry.spiffe_id, values.spiffe_id);
        set(mask.parent_id, &mut entry.parent_id, values.parent_id);
        set(mask.selectors, &mut entry.selectors, values.selectors);
        set(mask.x509_svid_ttl, &mut entry.x509_svid_ttl_secs, values.x509_svid_ttl_secs);
        set(mask.jwt_svid_ttl, &mut entry.jwt_svid_ttl_secs, values.jwt_svid_ttl_secs);
        set(mask.federates_with, &mut entry.federates_with, values.federates_with);
        set(mask.admin, &mut entry.admin, values.admin);
        set(mask.downstream, &mut entry.downstream, values.downstream);
        set(mask.expires_at, &mut entry.expires_at, values.expires_at);
        set(mask.dns_names, &mut entry.dns_names, values.dns_names);
        set(mask.store_svid, &mut entry.store_svid, values.store_svid);
        set(mask.hint, &mut entry.hint, values.hint);
        set(mask.publish, &mut entry.publish, values.publish);
        set(mask.subscribe, &mut entry.subscribe, values.subscribe);
    }
}

fn set<T>(wanted: bool, field: &mut T, value: T) {
    if wanted {
        *field = value;
    }
}

fn everything() -> types::EntryMask {
    types::EntryMask {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        revision_number: true,
        store_svid: true,
        jwt_svid_ttl: true,
        hint: true,
        created_at: true,
        publish: true,
        subscribe: true,
        origin: true,
    }
}

/// Shows the fields of the mask; the ID always.
fn masked(entry: &RegistrationEntry, mask: Option<&types::EntryMask>) -> types::Entry {
    let all = entry_to_api(entry);
    let Some(mask) = mask else { return all };
    let mut shown = types::Entry { id: all.id, ..types::Entry::default() };
    set(mask.spiffe_id, &mut shown.spiffe_id, all.spiffe_id);
    set(mask.parent_id, &mut shown.parent_id, all.parent_id);
    set(mask.selectors, &mut shown.selectors, all.selectors);
    set(mask.x509_svid_ttl, &mut shown.x509_svid_ttl, all.x509_svid_ttl);
    set(mask.federates_with, &mut shown.federates_with, all.federates_with);
    set(mask.admin, &mut shown.admin, all.admin);
    set(mask.downstream, &mut shown.downstream, all.downstream);
    set(mask.expires_at, &mut shown.expires_at, all.expires_at);
    set(mask.dns_names, &mut shown.dns_names, all.dns_names);
    set(mask.revision_number, &mut shown.revision_number, all.revision_number);
    set(mask.store_svid, &mut shown.store_svid, all.store_svid);
    set(mask.jwt_svid_ttl, &mut shown.jwt_svid_ttl, all.jwt_svid_ttl);
    set(mask.hint, &mut shown.hint, all.hint);
    set(mask.created_at, &mut shown.created_at, all.created_at);
    set(mask.publish, &mut shown.publish, all.publish);
    set(mask.subscribe, &mut shown.subscribe, all.subscribe);
    set(mask.origin, &mut shown.origin, all.origin);
    shown
}
