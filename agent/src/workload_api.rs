//! The SPIFFE Workload API over gRPC, and Midge's addition beside it.
//!
//! JWT-SVIDs and WIT-SVIDs are not served: their calls answer `UNIMPLEMENTED`.

use crate::{
    entitled::{Bundles, Caller, Identity, X509State},
    peers::{Peer, Share},
    server::Shared,
};
use futures_util::stream::{self, BoxStream, StreamExt};
use midge_api::{
    midge::agent::v1::{AwaitIdentityRequest, AwaitIdentityResponse, workload_wait_server::WorkloadWait},
    workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
        X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::SpiffeWorkloadApi,
    },
};
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};

/// Proves that the caller means this API: a program tricked into sending an HTTP request on
/// behalf of another cannot set it. Workload Endpoint §6
pub(crate) const SECURITY_HEADER: &str = "workload.spiffe.io";

const NO_JWT: &str = "jwt-svids are not served by this agent";
const NO_WIT: &str = "wit-svids are not served by this agent";

/// Refuses requests that do not carry the security header exactly once.
pub(crate) fn require_security_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(request),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

/// The service.
#[derive(Clone)]
pub(crate) struct WorkloadApi {
    shared: Arc<Shared>,
}

impl WorkloadApi {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection has no peer"))?;
        let permit = self.shared.peers.permit(peer.uid, Share::Stream).map_err(|limit| {
            tracing::debug!(%limit, "request refused");
            Status::resource_exhausted(limit.to_string())
        })?;
        Ok(Caller::new(Arc::clone(&self.shared), peer, permit))
    }
}

type Responses<T> = BoxStream<'static, Result<T, Status>>;

#[async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Responses<X509svidResponse>;
    type FetchX509BundlesStream = Responses<X509BundlesResponse>;
    type FetchJWTBundlesStream = Responses<JwtBundlesResponse>;
    type FetchWITSVIDStream = Responses<WitsvidResponse>;
    type FetchWITBundlesStream = Responses<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let caller = self.caller(&request)?;
        let states = stream::unfold(Some((caller, None)), |state| async move {
            let (mut caller, told) = state?;
            match caller.next_x509(told.as_ref()).await {
                Ok(found) => Some((Ok(x509_response(&found)), Some((caller, Some(found))))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(states.boxed()))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let caller = self.caller(&request)?;
        let states = stream::unfold(Some((caller, None)), |state| async move {
            let (mut caller, told) = state?;
            match caller.next_bundles(told.as_ref()).await {
                Ok(found) => Some((Ok(bundles_response(&found)), Some((caller, Some(found))))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(states.boxed()))
    }

    async fn fetch_jwtsvid(
        &self,
        _request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented(NO_JWT))
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented(NO_JWT))
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(NO_JWT))
    }

    async fn fetch_witsvid(
        &self,
        _request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented(NO_WIT))
    }

    async fn fetch_wit_bundles(
        &self,
        _request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented(NO_WIT))
    }
}

#[async_trait]
impl WorkloadWait for WorkloadApi {
    async fn await_identity(
        &self,
        request: Request<AwaitIdentityRequest>,
    ) -> Result<Response<AwaitIdentityResponse>, Status> {
        let spiffe_ids = self.caller(&request)?.identity().await?;
        Ok(Response::new(AwaitIdentityResponse { spiffe_ids }))
    }
}

fn x509_response(state: &X509State) -> X509svidResponse {
    let svids = state
        .identities
        .iter()
        .map(|Identity { svid, hint }| X509svid {
            spiffe_id: svid.spiffe_id.to_string(),
            x509_svid: svid.chain.clone(),
            x509_svid_key: svid.key.to_vec(),
            bundle: state.bundle.clone(),
            hint: hint.clone(),
        })
        .collect();
    X509svidResponse { svids, crl: Vec::new(), federated_bundles: wire(&state.federated) }
}

fn bundles_response(bundles: &Bundles) -> X509BundlesResponse {
    X509BundlesResponse { crl: Vec::new(), bundles: wire(bundles) }
}

fn wire(bundles: &Bundles) -> std::collections::HashMap<String, Vec<u8>> {
    bundles.iter().map(|(id, roots)| (id.clone(), roots.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataValue;

    fn checked(values: &[&'static str]) -> Result<(), (tonic::Code, String)> {
        let mut request = Request::new(());
        for value in values {
            request.metadata_mut().append(SECURITY_HEADER, MetadataValue::from_static(value));
        }
        require_security_header(request)
            .map(drop)
            .map_err(|status| (status.code(), status.message().to_owned()))
    }

    #[test]
    fn the_security_header_must_be_there_exactly_once() {
        let refused = Err((tonic::Code::InvalidArgument, "security header missing from request".to_owned()));
        assert_eq!(checked(&["true"]), Ok(()));
        for values in [&[] as &[_], &["false"], &["True"], &["true", "true"], &["true", "false"]] {
            assert_eq!(checked(values), refused, "{values:?}");
        }
    }
}
