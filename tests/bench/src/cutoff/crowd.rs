//! Identities in numbers: entries made in batches, SVIDs minted over the admin socket.

use crate::admin::{Edge, channel};
use crate::tls;
use anyhow::{Context as _, ensure};
use midge_api::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, entry_client::EntryClient,
};
use midge_api::spire::api::server::svid::v1::{MintX509svidRequest, svid_client::SvidClient};
use midge_api::spire::api::types::{Entry, Selector, Spiffeid};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tonic::transport::Channel;

/// Entries of one request.
const BATCH: usize = 500;

/// The identity server of the edge under measurement.
pub(super) struct Crowd {
    edge: Edge,
    entries: EntryClient<Channel>,
    svids: SvidClient<Channel>,
}

/// One identity with an SVID.
pub(super) struct Member {
    pub(super) config: Arc<ClientConfig>,
    pub(super) expires: SystemTime,
}

impl Crowd {
    pub(super) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let channel = channel(socket.to_owned()).await?;
        let (entries, svids) = (EntryClient::new(channel.clone()), SvidClient::new(channel));
        Ok(Self { edge: Edge::find(socket).await?, entries, svids })
    }

    /// Registers apps of these names; the entry of each has its name as ID. No process matches them.
    pub(super) async fn register(&mut self, names: &[String]) -> anyhow::Result<()> {
        for names in names.chunks(BATCH) {
            let entry = |name: &String| Entry {
                id: name.clone(),
                spiffe_id: Some(self.id(name)),
                parent_id: Some(self.edge.id("")),
                selectors: vec![Selector { r#type: "unix".into(), value: format!("path:/nowhere/{name}") }],
                ..Entry::default()
            };
            let entries = names.iter().map(entry).collect();
            let request = BatchCreateEntryRequest { entries, output_mask: None };
            let results = self.entries.batch_create_entry(request).await?.into_inner().results;
            for status in results.into_iter().filter_map(|result| result.status) {
                ensure!(status.code == 0, "{}", status.message);
            }
        }
        Ok(())
    }

    /// Deletes one entry.
    pub(super) async fn delete(&mut self, name: &str) -> anyhow::Result<()> {
        let request = BatchDeleteEntryRequest { ids: vec![name.to_owned()] };
        let results = self.entries.batch_delete_entry(request).await?.into_inner().results;
        let status = results.first().and_then(|result| result.status.clone()).unwrap_or_default();
        ensure!(status.code == 0, "{}", status.message);
        Ok(())
    }

    /// Has an SVID minted.
    pub(super) async fn mint(&mut self, name: &str, ttl: Duration) -> anyhow::Result<Member> {
        let Spiffeid { trust_domain, path } = self.id(name);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(format!("spiffe://{trust_domain}{path}").try_into()?));
        let csr = params.serialize_request(&key)?.der().to_vec();
        let request = MintX509svidRequest { csr, ttl: i32::try_from(ttl.as_secs())? };
        let svid = self.svids.mint_x509svid(request).await?.into_inner().svid.context("no SVID")?;
        let chain = svid.cert_chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(svid.expires_at)?);
        Ok(Member { config: tls::client(chain, key)?, expires })
    }

    fn id(&self, name: &str) -> Spiffeid {
        self.edge.id(&format!("/app/{name}"))
    }
}
