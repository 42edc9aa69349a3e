//! SPIRE's server API, for whoever may open the admin socket.
//!
//! Translates between the wire and the server; decides nothing.

mod agent;
mod bundle;
mod convert;
mod entry;
mod localauthority;
mod page;
mod svid;

pub use bundle::bundles_to_api;

use crate::Issuer;
use midge_api::spire::api::server::{
    agent::v1::agent_server::AgentServer, bundle::v1::bundle_server::BundleServer,
    entry::v1::entry_server::EntryServer, localauthority::v1::local_authority_server::LocalAuthorityServer,
    svid::v1::svid_server::SvidServer,
};
use tonic::service::Routes;

/// Returns SPIRE's Entry, Agent, Bundle, LocalAuthority and SVID services of this server. Whoever reaches them may do everything.
pub fn admin_services(issuer: &Issuer) -> Routes {
    Routes::new(EntryServer::new(entry::EntryService::new(issuer.clone())))
        .add_service(AgentServer::new(agent::AgentService::new(issuer.clone())))
        .add_service(BundleServer::new(bundle::BundleService::new(issuer.clone())))
        .add_service(LocalAuthorityServer::new(localauthority::LocalAuthorityService::new(issuer.clone())))
        .add_service(SvidServer::new(svid::SvidService::new(issuer.clone())))
}
