//! `spire.api.server.localauthority.v1.LocalAuthority`, of which the X.509 authorities.

use super::convert::status;
use crate::Issuer;
use issuer_core::{SlotState, X509Authority};
use midge_api::spire::api::server::localauthority::v1::{
    ActivateX509AuthorityRequest, ActivateX509AuthorityResponse, AuthorityState,
    GetX509AuthorityStateRequest, GetX509AuthorityStateResponse, PrepareX509AuthorityRequest,
    PrepareX509AuthorityResponse, RevokeX509AuthorityRequest, RevokeX509AuthorityResponse,
    TaintX509AuthorityRequest, TaintX509AuthorityResponse, authority_state,
    local_authority_server::LocalAuthority,
};
use tonic::{Request, Response, Status};

pub(super) struct LocalAuthorityService {
    issuer: Issuer,
}

impl LocalAuthorityService {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer }
    }
}

#[tonic::async_trait]
impl LocalAuthority for LocalAuthorityService {
    async fn get_x509_authority_state(
        &self,
        _request: Request<GetX509AuthorityStateRequest>,
    ) -> Result<Response<GetX509AuthorityStateResponse>, Status> {
        let states = self.issuer.x509_authorities().into_iter().map(state).collect();
        Ok(Response::new(GetX509AuthorityStateResponse { states }))
    }

    async fn prepare_x509_authority(
        &self,
        _request: Request<PrepareX509AuthorityRequest>,
    ) -> Result<Response<PrepareX509AuthorityResponse>, Status> {
        let prepared = self.issuer.prepare_x509_authority().await;
        let prepared = prepared.map_err(|error| status("failed to prepare X.509 authority", &error))?;
        Ok(Response::new(PrepareX509AuthorityResponse { prepared_authority: Some(state(prepared)) }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<ActivateX509AuthorityRequest>,
    ) -> Result<Response<ActivateX509AuthorityResponse>, Status> {
        let activated = self.issuer.activate_x509_authority(&request.into_inner().authority_id).await;
        let activated = activated.map_err(|error| status("failed to activate X.509 authority", &error))?;
        Ok(Response::new(ActivateX509AuthorityResponse { activated_authority: Some(state(activated)) }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<TaintX509AuthorityRequest>,
    ) -> Result<Response<TaintX509AuthorityResponse>, Status> {
        let tainted = self.issuer.taint_x509_authority(&request.into_inner().authority_id).await;
        let tainted = tainted.map_err(|error| status("failed to taint X.509 authority", &error))?;
        Ok(Response::new(TaintX509AuthorityResponse { tainted_authority: Some(state(tainted)) }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<RevokeX509AuthorityRequest>,
    ) -> Result<Response<RevokeX509AuthorityResponse>, Status> {
        let revoked = self.issuer.revoke_x509_authority(&request.into_inner().authority_id).await;
        let revoked = revoked.map_err(|error| status("failed to revoke X.509 authority", &error))?;
        Ok(Response::new(RevokeX509AuthorityResponse { revoked_authority: Some(state(revoked)) }))
    }
}

fn state(authority: X509Authority) -> AuthorityState {
    let status = match authority.state {
        SlotState::Prepared => authority_state::Status::Prepared,
        SlotState::Active => authority_state::Status::Active,
        SlotState::Old => authority_state::Status::Old,
    };
    AuthorityState {
        authority_id: authority.id,
        status: status.into(),
        tainted: authority.tainted,
        expires_at: i64::try_from(authority.not_after.as_secs()).unwrap_or(i64::MAX),
    }
}
