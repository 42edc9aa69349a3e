//! `spire.api.server.bundle.v1.Bundle`.

use super::page::page;
use crate::Issuer;
use midge_api::spire::api::{
    server::bundle::v1::{
        CountBundlesRequest, CountBundlesResponse, GetBundleRequest, GetFederatedBundleRequest,
        ListFederatedBundlesRequest, ListFederatedBundlesResponse, bundle_server::Bundle,
    },
    types,
};
use midge_identity::{BundleSet, TrustDomain};
use tonic::{Request, Response, Status};

pub(super) struct BundleService {
    issuer: Issuer,
}

impl BundleService {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer }
    }

    fn federated(&self, bundles: &BundleSet) -> Vec<TrustDomain> {
        let own = self.issuer.trust_domain();
        bundles.trust_domains().filter(|trust_domain| *trust_domain != own).cloned().collect()
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
        let view = self.issuer.view();
        let (names, next_page_token) =
            page(self.federated(&view.bundles), request.page_size, &request.page_token, ToString::to_string);
        let bundles = names
            .iter()
            .filter_map(|name| masked(&view.bundles, name, request.output_mask.as_ref()))
            .collect();
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
        let view = self.issuer.view();
        let shown = masked(&view.bundles, &name, request.output_mask.as_ref());
        shown.map(Response::new).ok_or_else(|| Status::not_found("bundle not found"))
    }
}

/// Writes all bundles as SPIRE's messages, in the order of their trust domains.
pub fn bundles_to_api(bundles: &BundleSet) -> Vec<types::Bundle> {
    bundles.trust_domains().filter_map(|name| masked(bundles, name, None)).collect()
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
