//! The connection to the admin socket, and what its errors mean to a person.

use crate::exit::{self, failure};
use hyper_util::rt::TokioIo;
use midge_api::entries::id_to_api;
use midge_api::midge::v1::midge_client::MidgeClient;
use midge_api::spire::api::server::agent::v1::agent_client::AgentClient;
use midge_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use midge_api::spire::api::server::entry::v1::entry_client::EntryClient;
use midge_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use midge_api::spire::api::server::svid::v1::svid_client::SvidClient;
use midge_api::spire::api::types::{Selector, Spiffeid, Status};
use midge_identity::{IdError, SPIFFE_ID_BYTES_MAX, TrustDomain};
use std::path::{Path, PathBuf};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status as RpcStatus};

/// The admin socket of one edge or cloud.
pub(crate) struct Admin {
    socket: PathBuf,
    is_named: bool,
}

impl Admin {
    /// The socket that was given, else that of the environment, else an edge's own. A variable without text names none.
    pub(crate) fn new(given: Option<PathBuf>) -> Self {
        let environment = std::env::var_os("MIDGE_SOCKET").filter(|path| !path.is_empty());
        let named = given.or(environment.map(PathBuf::from));
        let is_named = named.is_some();
        Self { socket: named.unwrap_or_else(|| crate::DEFAULT_ADMIN_SOCKET.into()), is_named }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the caller has said which process is meant.
    pub(crate) fn is_named(&self) -> bool {
        self.is_named
    }

    pub(crate) async fn midge(&self) -> anyhow::Result<MidgeClient<Channel>> {
        Ok(MidgeClient::new(self.channel().await?))
    }

    pub(crate) async fn entries(&self) -> anyhow::Result<EntryClient<Channel>> {
        Ok(EntryClient::new(self.channel().await?))
    }

    pub(crate) async fn agents(&self) -> anyhow::Result<AgentClient<Channel>> {
        Ok(AgentClient::new(self.channel().await?))
    }

    pub(crate) async fn bundles(&self) -> anyhow::Result<BundleClient<Channel>> {
        Ok(BundleClient::new(self.channel().await?))
    }

    pub(crate) async fn local_authorities(&self) -> anyhow::Result<LocalAuthorityClient<Channel>> {
        Ok(LocalAuthorityClient::new(self.channel().await?))
    }

    pub(crate) async fn svids(&self) -> anyhow::Result<SvidClient<Channel>> {
        Ok(SvidClient::new(self.channel().await?))
    }

    /// Turns the status of a failed call into an error with an exit code.
    pub(crate) fn error(&self, status: &RpcStatus) -> anyhow::Error {
        let path = self.socket.display();
        let remedy = "name that of an edge or cloud with --socketPath or MIDGE_SOCKET";
        // Made here, not by a server: what answers there speaks something else, or has gone.
        if std::error::Error::source(status).is_some() {
            let text = format!("{path} does not answer as an admin socket does ({})", status.message());
            return failure(exit::UNAVAILABLE, format!("{text}: midge has stopped, or {remedy}"));
        }
        match (status.code(), status.message()) {
            (Code::Unimplemented, "") => {
                failure(exit::UNAVAILABLE, format!("{path} is no admin socket; {remedy}"))
            }
            (code, "") => failure(code_of(code), format!("{path}: {code}")),
            (code, message) => failure(code_of(code), message),
        }
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        connect(&self.socket).await.map_err(|error| {
            let path = self.socket.display();
            let (code, remedy) = match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    (exit::PERMISSION, "run this as the user that midge runs as")
                }
                std::io::ErrorKind::NotFound => {
                    (exit::UNAVAILABLE, "start midge, or name its socket with --socketPath or MIDGE_SOCKET")
                }
                _ => (exit::UNAVAILABLE, "is midge running?"),
            };
            failure(code, format!("cannot reach the admin socket {path}: {error}; {remedy}"))
        })
    }
}

/// Opens a gRPC channel over a Unix socket.
pub(crate) async fn connect(socket: &Path) -> std::io::Result<Channel> {
    // The channel would hide why a connect failed behind "transport error".
    drop(tokio::net::UnixStream::connect(socket).await?);
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(std::io::Error::other)
}

/// Checks the status of one item of a batch.
pub(crate) fn item_status(status: Option<&Status>) -> anyhow::Result<()> {
    match status {
        Some(status) if status.code != 0 => {
            Err(failure(code_of(Code::from_i32(status.code)), status.message.clone()))
        }
        _ => Ok(()),
    }
}

fn code_of(code: Code) -> u8 {
    match code {
        Code::InvalidArgument => exit::USAGE,
        Code::PermissionDenied | Code::Unauthenticated => exit::PERMISSION,
        Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Unimplemented => exit::NO,
        // Too many of something: it may pass.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted => {
            exit::UNAVAILABLE
        }
        // What a store answers that cannot write.
        Code::DataLoss => exit::IO,
        _ => exit::INTERNAL,
    }
}

/// Parses a SPIFFE ID given on the command line.
pub(crate) fn spiffe_id(text: &str) -> anyhow::Result<Spiffeid> {
    // SPIFFE-ID §2.3: no identity has a longer one, whatever it would be asked about.
    if text.len() > SPIFFE_ID_BYTES_MAX {
        return Err(failure(exit::USAGE, IdError::TooLong { bytes: text.len() }.to_string()));
    }
    let id = midge_identity::SpiffeId::new(text).map_err(|error| {
        failure(
            exit::USAGE,
            format!("\"{text}\" is not a SPIFFE ID: {error}; write spiffe://<trust domain>/<path>"),
        )
    })?;
    // In a certificate it would be refused; nobody is to wonder why nothing matches.
    if id.to_string() != text {
        return Err(failure(exit::USAGE, format!("\"{text}\" is not in canonical form; write {id}")));
    }
    Ok(id_to_api(&id))
}

/// Parses the name of a trust domain given on the command line, or its SPIFFE ID.
pub(crate) fn trust_domain(text: &str) -> anyhow::Result<TrustDomain> {
    let wrong = |why: String| {
        failure(
            exit::USAGE,
            format!("\"{text}\" is not a trust domain: {why}; write spiffe://<trust domain>"),
        )
    };
    let name = text.strip_prefix("spiffe://").unwrap_or(text);
    if name.contains('/') {
        return Err(wrong("it has a path".into()));
    }
    TrustDomain::new(name).map_err(|error| wrong(error.to_string()))
}

/// Parses `type:value`.
pub(crate) fn selector(text: &str) -> anyhow::Result<Selector> {
    match text.split_once(':') {
        Some((kind, value)) if !kind.is_empty() && !value.is_empty() => {
            Ok(Selector { r#type: kind.to_owned(), value: value.to_owned() })
        }
        _ => Err(failure(
            exit::USAGE,
            format!("\"{text}\" is not a selector; write type:value, such as unix:uid:1000"),
        )),
    }
}

/// Writes a SPIFFE ID as people do.
pub(crate) fn id_text(id: Option<&Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_no_certificate_could_have_is_told_how_to_write() {
        assert_eq!(
            id_text(Some(&spiffe_id("spiffe://plant.example/App").unwrap())),
            "spiffe://plant.example/App"
        );
        let told = spiffe_id("spiffe://Plant.example/App").unwrap_err().to_string();
        assert!(told.ends_with("write spiffe://plant.example/App"), "{told}");
    }
}
