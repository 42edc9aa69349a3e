//! `midge bundle …`: the roots of the trust domain.

use super::admin::Admin;
use crate::cli::{BundleCommand, BundleFormat};
use crate::output::{self, Output};
use base64::Engine as _;
use midge_api::spire::api::server::bundle::v1::GetBundleRequest;
use midge_api::spire::api::types::Bundle;
use serde_json::json;

pub(crate) async fn run(admin: &Admin, command: BundleCommand, output: Output) -> anyhow::Result<()> {
    let BundleCommand::Show { format } = command;
    let response = admin.bundles().await?.get_bundle(GetBundleRequest::default()).await;
    let bundle = response.map_err(|status| admin.error(&status))?.into_inner();
    match (format, output) {
        (BundleFormat::Pem, Output::Pretty) => {
            let roots: Vec<&[u8]> = bundle.x509_authorities.iter().map(|root| root.asn1.as_slice()).collect();
            output::line(midge_pki::pem_encode_certs(roots).trim_end());
            Ok(())
        }
        (BundleFormat::Spiffe, _) | (BundleFormat::Pem, Output::Json) => output::json(&document(&bundle)?),
    }
}

/// The SPIFFE bundle document (SPIFFE Trust Domain and Bundle §4).
fn document(bundle: &Bundle) -> anyhow::Result<serde_json::Value> {
    let keys = bundle.x509_authorities.iter().map(|root| {
        let jwk = midge_pki::jwk_public_key(&root.asn1)?;
        let x5c = base64::engine::general_purpose::STANDARD.encode(&root.asn1);
        let mut key = json!({ "use": "x509-svid", "x5c": [x5c] });
        if let (Some(key), serde_json::Value::Object(jwk)) = (key.as_object_mut(), jwk) {
            key.extend(jwk);
        }
        Ok(key)
    });
    Ok(json!({
        "keys": keys.collect::<anyhow::Result<Vec<_>>>()?,
        "spiffe_sequence": bundle.sequence_number,
        "spiffe_refresh_hint": bundle.refresh_hint,
    }))
}
