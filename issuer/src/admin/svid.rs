//! `spire.api.server.svid.v1.SVID`.

use super::convert::code_of;
use crate::{IssueError, Issuer};
use midge_api::entries::id_to_api;
use midge_api::spire::api::{
    server::svid::v1::{MintX509svidRequest, MintX509svidResponse, svid_server::Svid},
    types,
};
use std::time::Duration;
use tonic::{Request, Response, Status};

pub(super) struct SvidService {
    issuer: Issuer,
}

impl SvidService {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer }
    }
}

#[tonic::async_trait]
impl Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let request = request.into_inner();
        if request.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let ttl = u64::try_from(request.ttl).ok().filter(|secs| *secs > 0).map(Duration::from_secs);
        let svid = self.issuer.mint_svid(&request.csr, ttl).map_err(|error| mint_status(&error))?;
        Ok(Response::new(MintX509svidResponse {
            svid: Some(types::X509svid {
                id: Some(id_to_api(&svid.id)),
                cert_chain: svid.chain,
                expires_at: i64::try_from(svid.expires.as_secs()).unwrap_or(i64::MAX),
                hint: String::new(),
            }),
        }))
    }
}

fn mint_status(error: &IssueError) -> Status {
    let message = match error {
        IssueError::Csr(error) => format!("malformed CSR: {error}"),
        IssueError::Id(error) => format!("CSR URI SAN is invalid: {error}"),
        IssueError::CsrWithoutId | IssueError::CsrDnsName { .. } | IssueError::Ttl(_) => error.to_string(),
        _ => format!("failed to sign X509-SVID: {error}"),
    };
    Status::new(code_of(error), message)
}
