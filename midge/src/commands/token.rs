//! `midge token …`: join tokens of boxes.

use super::admin::{Admin, spiffe_id};
use crate::cli::TokenCommand;
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_api::midge::v1::StatusRequest;
use midge_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use midge_api::spire::api::server::bundle::v1::GetBundleRequest;
use midge_identity::CertificateFacts;

pub(crate) async fn run(admin: &Admin, command: TokenCommand, output: Output) -> anyhow::Result<()> {
    let TokenCommand::Generate { spiffe_id: id, ttl } = command;
    if ttl < 1 {
        return Err(failure(exit::USAGE, format!("-ttl {ttl}: a token must live for at least 1 second")));
    }
    let request = CreateJoinTokenRequest { ttl, token: String::new(), agent_id: Some(spiffe_id(&id)?) };
    let response = admin.agents().await?.create_join_token(request).await;
    let token = response.map_err(|status| admin.error(&status))?.into_inner();
    // The box checks the cloud's root against the token's first half before it trusts it.
    let bundle = admin.bundles().await?.get_bundle(GetBundleRequest::default()).await;
    let bundle = bundle.map_err(|status| admin.error(&status))?.into_inner();
    let status =
        admin.midge().await?.status(StatusRequest {}).await.map_err(|status| admin.error(&status))?;
    let signing = status.into_inner().ca.map(|ca| ca.serial);
    let serial = |root: &[u8]| CertificateFacts::parse(root).ok().map(|facts| facts.serial.to_string());
    let roots = bundle.x509_authorities.iter().map(|root| root.asn1.as_slice());
    let root = roots
        .clone()
        .find(|root| serial(root) == signing)
        .or_else(|| roots.clone().next_back())
        .unwrap_or_default();
    let text = format!("{}.{}", midge_pki::RootPin::of(root), token.value);
    match output {
        Output::Json => output::json(&serde_json::json!({ "token": text, "expires_at": token.expires_at })),
        Output::Pretty => {
            output::line(format_args!("Token: {text}"));
            Ok(())
        }
    }
}
