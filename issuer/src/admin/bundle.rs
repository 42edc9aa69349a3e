//! `spire.api.server.bundle.v1.Bundle`.

use super::convert::{code_of, item_status, ok};
use super::page::page;
use crate::{IssueError, Issuer};
use issuer_core::{DeleteMode, FederatedBundle, FederationError};
use midge_api::spire::api::{
    server::bundle::v1::{
        BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse,
        BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse,
        BatchSetFederatedBundleRequest, BatchSetFederatedBundleResponse, BatchUpdateFederatedBundleRequest,
        BatchUpdateFederatedBundleResponse, CountBundlesRequest, CountBundlesResponse, GetBundleRequest,
        GetFederatedBundleRequest, ListFederatedBundlesRequest, ListFederatedBundlesResponse,
        batch_create_federated_bundle_response, batch_delete_federated_bundle_request::Mode,
        batch_delete_federated_bundle_response, batch_set_federated_bundle_response,
        batch_update_federated_bundle_response, bundle_server::Bundle,
    },
    types,
};
use midge_identity::{BundleSet, TrustDomain};
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

pub(super) struct BundleService {
    issuer: Issuer,
}

impl BundleService {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer }
    }

    /// The trust domain of an item, which is not the own one.
    fn other(&self, name: &str, attempt: &Attempt) -> Result<TrustDomain, types::Status> {
        let invalid = |message: String| item_status(Code::InvalidArgument, message);
        let name = TrustDomain::new(name)
            .map_err(|error| invalid(format!("trust domain argument is not valid: {error}")))?;
        if name == *self.issuer.trust_domain() {
            return Err(invalid(attempt.own.to_owned()));
        }
        Ok(name)
    }

    fn read(&self, bundle: types::Bundle, attempt: &Attempt) -> Result<FederatedBundle, types::Status> {
        let name = self.other(&bundle.trust_domain, attempt)?;
        bundle_from_api(name, bundle).map_err(|error| unusable(&error))
    }

    async fn create(&self, bundle: types::Bundle) -> Answer {
        let bundle = self.read(bundle, &CREATE)?;
        answer(self.issuer.create_federated_bundle(bundle).await, &CREATE)
    }

    async fn set(&self, bundle: types::Bundle) -> Answer {
        let bundle = self.read(bundle, &SET)?;
        answer(self.issuer.set_federated_bundle(bundle).await, &SET)
    }

    async fn update(&self, bundle: types::Bundle, mask: Option<types::BundleMask>) -> Answer {
        let name = self.other(&bundle.trust_domain, &UPDATE)?;
        let edit = move |before: &FederatedBundle| edited(before, bundle, mask);
        answer(self.issuer.update_federated_bundle(name, edit).await, &UPDATE)
    }

    async fn delete(&self, name: &str, mode: DeleteMode) -> Result<TrustDomain, types::Status> {
        let name = self.other(name, &DELETE)?;
        let deleted = self.issuer.delete_federated_bundle(name.clone(), mode).await;
        deleted.map(|()| name).map_err(|error| failed(&error, &DELETE))
    }
}

type Answer = Result<Arc<FederatedBundle>, types::Status>;

/// SPIRE's words for what was attempted.
struct Attempt {
    own: &'static str,
    failed: &'static str,
}

const CREATE: Attempt = Attempt {
    own: "creating a federated bundle for the server's own trust domain is not allowed",
    failed: "unable to create bundle",
};
const UPDATE: Attempt = Attempt {
    own: "updating a federated bundle for the server's own trust domain is not allowed",
    failed: "failed to update bundle",
};
const SET: Attempt = Attempt {
    own: "setting a federated bundle for the server's own trust domain is not allowed",
    failed: "failed to set bundle",
};
const DELETE: Attempt = Attempt {
    own: "removing the bundle for the server trust domain is not allowed",
    failed: "failed to delete federated bundle",
};

fn answer(result: Result<Arc<FederatedBundle>, IssueError>, attempt: &Attempt) -> Answer {
    result.map_err(|error| failed(&error, attempt))
}

fn failed(error: &IssueError, attempt: &Attempt) -> types::Status {
    match error {
        IssueError::Federation(error @ (FederationError::NotFound | FederationError::Exists)) => {
            item_status(code_of(&error.clone().into()), error.to_string())
        }
        IssueError::Federation(error @ (FederationError::Root { .. } | FederationError::Empty(_))) => {
            unusable(error)
        }
        error => item_status(code_of(error), format!("{}: {error}", attempt.failed)),
    }
}

fn unusable(error: &FederationError) -> types::Status {
    item_status(code_of(&error.clone().into()), format!("failed to convert bundle: {error}"))
}

/// Splits an answer into the two fields of a result.
fn fields(
    answer: Answer,
    mask: Option<&types::BundleMask>,
) -> (Option<types::Status>, Option<types::Bundle>) {
    match answer {
        Ok(bundle) => (Some(ok()), Some(federated(&bundle, mask))),
        Err(status) => (Some(status), None),
    }
}

#[tonic::async_trait]
impl Bundle for BundleService {
    async fn count_bundles(
        &self,
        _request: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        let count = self.issuer.view().bundles.trust_domains().count();
        Ok(Response::new(CountBundlesResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let mask = request.into_inner().output_mask;
        let view = self.issuer.view();
        let shown = masked(&view.bundles, &view.trust_domain, mask.as_ref());
        shown.map(Response::new).ok_or_else(|| Status::not_found("bundle not found"))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        let request = request.into_inner();
        let (bundles, next_page_token) =
            page(self.issuer.federated_bundles(), request.page_size, &request.page_token, |bundle| {
                bundle.trust_domain().to_string()
            });
        let bundles = bundles.iter().map(|bundle| federated(bundle, request.output_mask.as_ref())).collect();
        Ok(Response::new(ListFederatedBundlesResponse { bundles, next_page_token }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let request = request.into_inner();
        let name = TrustDomain::new(&request.trust_domain).map_err(|error| {
            Status::invalid_argument(format!("trust domain argument is not valid: {error}"))
        })?;
        if name == *self.issuer.trust_domain() {
            return Err(Status::invalid_argument(
                "getting a federated bundle for the server's own trust domain is not allowed",
            ));
        }
        let bundle =
            self.issuer.federated_bundle(&name).ok_or_else(|| Status::not_found("bundle not found"))?;
        Ok(Response::new(federated(&bundle, request.output_mask.as_ref())))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.bundle.len());
        for bundle in request.bundle {
            let (status, bundle) = fields(self.create(bundle).await, request.output_mask.as_ref());
            results.push(batch_create_federated_bundle_response::Result { status, bundle });
        }
        Ok(Response::new(BatchCreateFederatedBundleResponse { results }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.bundle.len());
        for bundle in request.bundle {
            let updated = self.update(bundle, request.input_mask).await;
            let (status, bundle) = fields(updated, request.output_mask.as_ref());
            results.push(batch_update_federated_bundle_response::Result { status, bundle });
        }
        Ok(Response::new(BatchUpdateFederatedBundleResponse { results }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.bundle.len());
        for bundle in request.bundle {
            let (status, bundle) = fields(self.set(bundle).await, request.output_mask.as_ref());
            results.push(batch_set_federated_bundle_response::Result { status, bundle });
        }
        Ok(Response::new(BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        let request = request.into_inner();
        let mode = match Mode::try_from(request.mode) {
            Ok(Mode::Restrict) => DeleteMode::Restrict,
            Ok(Mode::Delete) => DeleteMode::Delete,
            Ok(Mode::Dissociate) => DeleteMode::Dissociate,
            Err(_) => {
                let text =
                    format!("failed to parse deletion mode: unhandled delete mode \"{}\"", request.mode);
                return Err(Status::invalid_argument(text));
            }
        };
        let mut results = Vec::with_capacity(request.trust_domains.len());
        for given in request.trust_domains {
            results.push(match self.delete(&given, mode).await {
                Ok(name) => batch_delete_federated_bundle_response::Result {
                    status: Some(ok()),
                    trust_domain: name.to_string(),
                },
                Err(status) => batch_delete_federated_bundle_response::Result {
                    status: Some(status),
                    trust_domain: given,
                },
            });
        }
        Ok(Response::new(BatchDeleteFederatedBundleResponse { results }))
    }
}

/// Writes all bundles as SPIRE's messages, in the order of their trust domains.
pub fn bundles_to_api(bundles: &BundleSet) -> Vec<types::Bundle> {
    bundles.trust_domains().filter_map(|name| masked(bundles, name, None)).collect()
}

/// Reads a bundle from SPIRE's message. JWT authorities are left out: nothing here would verify by them.
fn bundle_from_api(name: TrustDomain, bundle: types::Bundle) -> Result<FederatedBundle, FederationError> {
    let roots = bundle.x509_authorities.into_iter().map(|root| (root.asn1, root.tainted));
    Ok(FederatedBundle::new(name, roots)?.with_hints(bundle.sequence_number, hint(bundle.refresh_hint)))
}

/// Gives a bundle the values of the mask; all without one.
fn edited(
    before: &FederatedBundle,
    values: types::Bundle,
    mask: Option<types::BundleMask>,
) -> Result<FederatedBundle, FederationError> {
    let wants = |choose: fn(&types::BundleMask) -> bool| mask.as_ref().is_none_or(choose);
    let sequence =
        if wants(|mask| mask.sequence_number) { values.sequence_number } else { before.sequence() };
    let refresh_hint =
        if wants(|mask| mask.refresh_hint) { hint(values.refresh_hint) } else { before.refresh_hint_secs() };
    let roots: Vec<(Vec<u8>, bool)> = if wants(|mask| mask.x509_authorities) {
        values.x509_authorities.into_iter().map(|root| (root.asn1, root.tainted)).collect()
    } else {
        before.roots().iter().map(|root| (root.certificate.clone(), root.tainted)).collect()
    };
    Ok(FederatedBundle::new(before.trust_domain().clone(), roots)?.with_hints(sequence, refresh_hint))
}

fn hint(secs: i64) -> u64 {
    u64::try_from(secs).unwrap_or(0)
}

fn federated(bundle: &FederatedBundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let wants = |choose: fn(&types::BundleMask) -> bool| mask.is_none_or(choose);
    let authority = |root: &issuer_core::Root| types::X509Certificate {
        asn1: root.certificate.clone(),
        tainted: root.tainted,
    };
    let hint = i64::try_from(bundle.refresh_hint_secs()).unwrap_or(i64::MAX);
    types::Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        x509_authorities: if wants(|mask| mask.x509_authorities) {
            bundle.roots().iter().map(authority).collect()
        } else {
            Vec::new()
        },
        jwt_authorities: Vec::new(),
        refresh_hint: if wants(|mask| mask.refresh_hint) { hint } else { 0 },
        sequence_number: if wants(|mask| mask.sequence_number) { bundle.sequence() } else { 0 },
    }
}

fn masked(
    bundles: &BundleSet,
    name: &TrustDomain,
    mask: Option<&types::BundleMask>,
) -> Option<types::Bundle> {
    let roots = bundles.roots(name)?;
    let wants = |choose: fn(&types::BundleMask) -> bool| mask.is_none_or(choose);
    let x509_authorities = if wants(|mask| mask.x509_authorities) {
        let tainted = bundles.tainted(name);
        let authority =
            |root: &Vec<u8>| types::X509Certificate { asn1: root.clone(), tainted: tainted.contains(root) };
        roots.iter().map(authority).collect()
    } else {
        Vec::new()
    };
    Some(types::Bundle {
        trust_domain: name.to_string(),
        x509_authorities,
        jwt_authorities: Vec::new(),
        refresh_hint: 0,
        sequence_number: if wants(|mask| mask.sequence_number) { bundles.revision() } else { 0 },
    })
}
