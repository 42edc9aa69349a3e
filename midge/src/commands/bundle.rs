//! `midge bundle …`: the roots of the trust domain and of others, with the flags of `spire-server bundle`.

use super::admin::{Admin, item_status, trust_domain};
use crate::cli::{BundleCommand, BundleDeletion, BundleFormat};
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_api::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, CountBundlesRequest, GetBundleRequest,
    GetFederatedBundleRequest, ListFederatedBundlesRequest, batch_delete_federated_bundle_request::Mode,
};
use midge_api::spire::api::types::{Bundle, X509Certificate};
use midge_identity::TrustDomain;
use midge_pki::BundleDocument;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest bundle that is read, in bytes: some ten times what a server takes.
const BUNDLE_BYTES_MAX: u64 = 1024 * 1024;

pub(crate) async fn run(admin: &Admin, command: BundleCommand, output: Output) -> anyhow::Result<()> {
    match command {
        BundleCommand::Show { format } => show(admin, format, output).await,
        BundleCommand::List { id: Some(id), format } => show_other(admin, &id, format, output).await,
        BundleCommand::List { id: None, format } => list(admin, format, output).await,
        BundleCommand::Set { id, path, format } => set(admin, &id, path, format, output).await,
        BundleCommand::Delete { id, mode } => delete(admin, &id, mode, output).await,
        BundleCommand::Count => count(admin, output).await,
    }
}

async fn show(admin: &Admin, format: BundleFormat, output: Output) -> anyhow::Result<()> {
    let response = admin.bundles().await?.get_bundle(GetBundleRequest::default()).await;
    print(&response.map_err(|status| admin.error(&status))?.into_inner(), format, output)
}

async fn show_other(admin: &Admin, id: &str, format: BundleFormat, output: Output) -> anyhow::Result<()> {
    let request =
        GetFederatedBundleRequest { trust_domain: trust_domain(id)?.to_string(), output_mask: None };
    let response = admin.bundles().await?.get_federated_bundle(request).await;
    print(&response.map_err(|status| admin.error(&status))?.into_inner(), format, output)
}

async fn list(admin: &Admin, format: BundleFormat, output: Output) -> anyhow::Result<()> {
    let mut client = admin.bundles().await?;
    let mut bundles: Vec<Bundle> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListFederatedBundlesRequest { output_mask: None, page_size: 16, page_token };
        let response =
            client.list_federated_bundles(request).await.map_err(|status| admin.error(&status))?.into_inner();
        bundles.extend(response.bundles);
        page_token = response.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if output == Output::Json {
        let bundles = bundles.iter().map(|bundle| {
            let mut document = document(bundle)?;
            if let Some(document) = document.as_object_mut() {
                document.insert("trust_domain".into(), bundle.trust_domain.clone().into());
            }
            Ok(document)
        });
        return output::json(&json!({ "bundles": bundles.collect::<anyhow::Result<Vec<_>>>()? }));
    }
    for (index, bundle) in bundles.iter().enumerate() {
        if index > 0 {
            output::line("");
        }
        let rule = "*".repeat(40);
        output::line(format_args!("{rule}\n* {}\n{rule}", bundle.trust_domain));
        print(bundle, format, output)?;
    }
    Ok(())
}

async fn set(
    admin: &Admin,
    id: &str,
    path: Option<PathBuf>,
    format: BundleFormat,
    output: Output,
) -> anyhow::Result<()> {
    let name = trust_domain(id)?;
    let text = read(path.as_deref())?;
    let bundle = bundle_of(&name, &text, format).map_err(|why| {
        let place = path.map_or_else(|| "standard input".into(), |path| path.display().to_string());
        failure(exit::USAGE, format!("{place}: {why}"))
    })?;
    let request = BatchSetFederatedBundleRequest { bundle: vec![bundle], output_mask: None };
    let response = admin.bundles().await?.batch_set_federated_bundle(request).await;
    let results = response.map_err(|status| admin.error(&status))?.into_inner().results;
    let result = results.into_iter().next().unwrap_or_default();
    item_status(result.status.as_ref())?;
    if output == Output::Json {
        let roots = result.bundle.map_or(0, |bundle| bundle.x509_authorities.len());
        return output::json(&json!({ "set": name.to_string(), "roots": roots }));
    }
    output::line("bundle set.");
    Ok(())
}

async fn delete(admin: &Admin, id: &str, mode: BundleDeletion, output: Output) -> anyhow::Result<()> {
    let mode = match mode {
        BundleDeletion::Restrict => Mode::Restrict,
        BundleDeletion::Delete => Mode::Delete,
        BundleDeletion::Dissociate => Mode::Dissociate,
    };
    let request = BatchDeleteFederatedBundleRequest {
        trust_domains: vec![trust_domain(id)?.to_string()],
        mode: mode.into(),
    };
    let response = admin.bundles().await?.batch_delete_federated_bundle(request).await;
    let results = response.map_err(|status| admin.error(&status))?.into_inner().results;
    let result = results.into_iter().next().unwrap_or_default();
    item_status(result.status.as_ref())?;
    if output == Output::Json {
        return output::json(&json!({ "deleted": result.trust_domain }));
    }
    output::line("bundle deleted.");
    Ok(())
}

async fn count(admin: &Admin, output: Output) -> anyhow::Result<()> {
    let response = admin.bundles().await?.count_bundles(CountBundlesRequest {}).await;
    let count = response.map_err(|status| admin.error(&status))?.into_inner().count;
    if output == Output::Json {
        return output::json(&json!({ "count": count }));
    }
    output::line(format_args!("{count} {}", if count == 1 { "bundle" } else { "bundles" }));
    Ok(())
}

fn print(bundle: &Bundle, format: BundleFormat, output: Output) -> anyhow::Result<()> {
    match (format, output) {
        (BundleFormat::Pem, Output::Pretty) => {
            let roots: Vec<&[u8]> = bundle.x509_authorities.iter().map(|root| root.asn1.as_slice()).collect();
            output::line(midge_pki::pem_encode_certs(roots).trim_end());
            Ok(())
        }
        (BundleFormat::Spiffe, _) | (BundleFormat::Pem, Output::Json) => output::json(&document(bundle)?),
    }
}

fn document(bundle: &Bundle) -> anyhow::Result<Value> {
    let document = BundleDocument {
        roots: bundle.x509_authorities.iter().map(|root| root.asn1.clone()).collect(),
        sequence: bundle.sequence_number,
        refresh_hint_secs: u64::try_from(bundle.refresh_hint).unwrap_or(0),
    };
    Ok(document.to_json()?)
}

fn read(path: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let place = path.map_or_else(|| "standard input".into(), |path| path.display().to_string());
    let mut text = Vec::new();
    let read = match path {
        Some(path) => {
            std::fs::File::open(path).and_then(|file| file.take(BUNDLE_BYTES_MAX + 1).read_to_end(&mut text))
        }
        None => std::io::stdin().take(BUNDLE_BYTES_MAX + 1).read_to_end(&mut text),
    };
    read.map_err(|error| failure(exit::IO, format!("cannot read {place}: {error}")))?;
    if text.len() as u64 > BUNDLE_BYTES_MAX {
        let text = format!("{place}: a bundle of more than {BUNDLE_BYTES_MAX} bytes is refused");
        return Err(failure(exit::USAGE, text));
    }
    Ok(text)
}

fn bundle_of(name: &TrustDomain, text: &[u8], format: BundleFormat) -> Result<Bundle, String> {
    let is_json = text.trim_ascii_start().starts_with(b"{");
    let document = match format {
        BundleFormat::Pem => {
            let roots = midge_pki::pem_decode_certs(text).map_err(|error| {
                let remedy =
                    if is_json { "; a SPIFFE bundle document is read with -format spiffe" } else { "" };
                format!("{error}{remedy}")
            })?;
            BundleDocument {
                roots: roots.into_iter().map(|root| root.to_vec()).collect(),
                ..BundleDocument::default()
            }
        }
        BundleFormat::Spiffe => BundleDocument::parse(text).map_err(|error| {
            let remedy = if is_json { "" } else { "; PEM is read with -format pem" };
            format!("{error}{remedy}")
        })?,
    };
    let certificate = |asn1| X509Certificate { asn1, tainted: false };
    Ok(Bundle {
        trust_domain: name.to_string(),
        x509_authorities: document.roots.into_iter().map(certificate).collect(),
        jwt_authorities: Vec::new(),
        refresh_hint: i64::try_from(document.refresh_hint_secs).unwrap_or(i64::MAX),
        sequence_number: document.sequence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, format: BundleFormat) -> String {
        bundle_of(&TrustDomain::new("other.org").unwrap(), text.as_bytes(), format).unwrap_err()
    }

    #[test]
    fn what_is_in_the_other_format_is_told_so() {
        assert!(refused("{\"keys\": []}", BundleFormat::Pem).contains("-format spiffe"));
        assert!(refused("-----BEGIN CERTIFICATE-----", BundleFormat::Spiffe).contains("-format pem"));
        assert!(!refused("nothing", BundleFormat::Pem).contains("-format"));
        assert!(!refused("{}", BundleFormat::Spiffe).contains("-format"));
    }
}
