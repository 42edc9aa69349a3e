//! The admin sockets of the servers under measurement.

use anyhow::{Context as _, ensure};
use hyper_util::rt::TokioIo;
use midge_api::midge::v1::{StatusRequest, StatusResponse, midge_client::MidgeClient};
use midge_api::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, entry_client::EntryClient,
};
use midge_api::spire::api::types::{Entry, Selector, Spiffeid};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// The edge: who it is and where it serves.
pub(crate) struct Edge {
    status: StatusResponse,
}

impl Edge {
    pub(crate) async fn find(socket: &Path) -> anyhow::Result<Self> {
        let mut client = MidgeClient::new(channel(socket.to_owned()).await?);
        Ok(Self { status: client.status(StatusRequest {}).await?.into_inner() })
    }

    pub(crate) fn id(&self, path: &str) -> Spiffeid {
        let path = format!("/edge/{}{path}", self.status.node);
        Spiffeid { trust_domain: self.status.trust_domain.clone(), path }
    }

    pub(crate) fn listener(&self, kind: &str) -> anyhow::Result<&str> {
        let mut listeners = self.status.listeners.iter();
        let found = listeners.find(|listener| listener.kind == kind);
        Ok(&found.with_context(|| format!("the edge has no {kind} listener"))?.address)
    }
}

/// Creates and deletes entries.
pub(crate) struct Entries {
    client: EntryClient<Channel>,
}

impl Entries {
    pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        Ok(Self { client: EntryClient::new(channel(socket.to_owned()).await?) })
    }

    /// Creates an entry for this process.
    pub(crate) async fn create(&mut self, edge: &Edge, id: &str, path: &str) -> anyhow::Result<()> {
        let program = std::env::current_exe()?.canonicalize()?;
        let value = format!("path:{}", program.display());
        let entry = Entry {
            id: id.to_owned(),
            spiffe_id: Some(edge.id(path)),
            parent_id: Some(edge.id("")),
            selectors: vec![Selector { r#type: "unix".into(), value }],
            ..Entry::default()
        };
        let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
        let results = self.client.batch_create_entry(request).await?.into_inner().results;
        let status = results.first().and_then(|result| result.status.clone()).unwrap_or_default();
        ensure!(status.code == 0, "{}", status.message);
        Ok(())
    }

    pub(crate) async fn delete(&mut self, id: &str) -> anyhow::Result<()> {
        let request = BatchDeleteEntryRequest { ids: vec![id.to_owned()] };
        let results = self.client.batch_delete_entry(request).await?.into_inner().results;
        let status = results.first().and_then(|result| result.status.clone()).unwrap_or_default();
        ensure!(status.code == 0, "{}", status.message);
        Ok(())
    }
}

pub(crate) async fn channel(socket: PathBuf) -> anyhow::Result<Channel> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}
