//! The other end of the Workload API: fetches X.509-SVIDs and waits for an identity.
//!
//! For Midge's own tool and for programs that read files. Programs that speak the Workload API
//! themselves use a SPIFFE library.

use crate::workload_api::SECURITY_HEADER;
use futures_util::stream::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use midge_api::{
    midge::agent::v1::{AwaitIdentityRequest, workload_wait_client::WorkloadWaitClient},
    workload::{
        self, X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::UnixStream, time};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Uri},
};
use zeroize::Zeroizing;

// As rust-spiffe limits its bundles: enough for hundreds of identities, little enough for a tool.
const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why the Workload API gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address names no Unix socket.
    #[error("'{0}' is not an agent's socket: give an absolute path or unix:///path")]
    Address(String),
    /// Nobody listens.
    #[error("cannot reach the agent at {}: {error}; is it running?", path.display())]
    Unreachable {
        /// Socket.
        path: PathBuf,
        /// What went wrong.
        error: tonic::transport::Error,
    },
    /// No entry matches the caller.
    #[error("no identity issued: no registration entry matches this process")]
    NoIdentity,
    /// The agent has refused or failed.
    #[error("the agent answered {code:?}: {message}")]
    Refused {
        /// gRPC status code.
        code: Code,
        /// What the agent said.
        message: String,
    },
    /// The agent has ended the stream.
    #[error("the agent has ended the stream")]
    Ended,
    /// The answer breaks the Workload API.
    #[error("the agent's answer is malformed: {0}")]
    Malformed(String),
}

/// All X.509 identities of the caller.
#[derive(Clone, Debug)]
pub struct X509Context {
    /// At least one; the first is the default identity.
    pub svids: Vec<X509Svid>,
    /// Roots (DER) of other trust domains, by the SPIFFE ID of the trust domain.
    pub federated: BTreeMap<String, Vec<Vec<u8>>>,
}

/// An X.509-SVID with its key.
#[derive(Clone)]
pub struct X509Svid {
    /// SPIFFE ID.
    pub spiffe_id: String,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// Roots (DER) of its trust domain.
    pub bundle: Vec<Vec<u8>>,
    /// Tells it from others of the same caller; may be empty.
    pub hint: String,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl X509Context {
    /// Returns the SVID with this SPIFFE ID or hint; the default identity if none is wanted.
    pub fn svid(&self, wanted: Option<&str>) -> Option<&X509Svid> {
        match wanted {
            Some(wanted) => self.svids.iter().find(|svid| svid.spiffe_id == wanted || svid.hint == wanted),
            None => self.svids.first(),
        }
    }
}

/// Returns the path in an agent's address: `/path`, `unix:/path` or `unix:///path`, as
/// `SPIFFE_ENDPOINT_SOCKET` has it.
///
/// # Errors
/// When it is something else.
pub fn socket_path(address: &str) -> Result<PathBuf, ClientError> {
    let malformed = || ClientError::Address(address.to_owned());
    let path = match address.strip_prefix("unix:") {
        // unix://host/path has an authority, which Workload Endpoint §4 forbids.
        Some(rest) => match rest.strip_prefix("//") {
            Some(path) => path,
            None => rest,
        },
        None => address,
    };
    let path = PathBuf::from(path);
    if path.is_absolute() && path.file_name().is_some() { Ok(path) } else { Err(malformed()) }
}

/// A connection to an agent.
#[derive(Clone, Debug)]
pub struct WorkloadClient {
    channel: Channel,
}

impl WorkloadClient {
    /// Connects to the agent at this socket.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .map_err(|error| ClientError::Unreachable { path: socket.to_owned(), error })?;
        Ok(Self { channel })
    }

    /// Fetches the caller's X.509 identities as they are now.
    ///
    /// # Errors
    /// [`ClientError::NoIdentity`] when it has none; others when the agent fails.
    pub async fn fetch_x509(&self) -> Result<X509Context, ClientError> {
        let stream = self.watch_x509().await?;
        std::pin::pin!(stream).next().await.unwrap_or(Err(ClientError::Ended))
    }

    /// Follows the caller's X.509 identities: all of them at once, then again at each change.
    ///
    /// # Errors
    /// When the agent cannot be asked. What it refuses comes as an item, the last one.
    pub async fn watch_x509(
        &self,
    ) -> Result<impl Stream<Item = Result<X509Context, ClientError>> + Send + use<>, ClientError> {
        let mut client =
            SpiffeWorkloadApiClient::new(self.channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX);
        let answers = client.fetch_x509svid(secured(X509svidRequest {})).await.map_err(refused)?.into_inner();
        Ok(answers.map(|answer| answer.map_err(refused).and_then(context)))
    }

    /// Waits until the caller has an identity; returns its SPIFFE IDs.
    ///
    /// # Errors
    /// When the agent fails or ends.
    pub async fn await_identity(&self) -> Result<Vec<String>, ClientError> {
        let mut client = WorkloadWaitClient::new(self.channel.clone());
        match client.await_identity(secured(AwaitIdentityRequest {})).await {
            Ok(answer) => Ok(answer.into_inner().spiffe_ids),
            // An agent of another make.
            Err(status) if status.code() == Code::Unimplemented => self.poll_identity().await,
            Err(status) => Err(refused(status)),
        }
    }

    async fn poll_identity(&self) -> Result<Vec<String>, ClientError> {
        loop {
            match self.fetch_x509().await {
                Err(ClientError::NoIdentity) => time::sleep(ASK_AGAIN).await,
                Ok(found) => return Ok(found.svids.into_iter().map(|svid| svid.spiffe_id).collect()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits until this process has an identity at the agent of this socket; returns its SPIFFE IDs.
///
/// # Errors
/// When the agent cannot be reached, fails or ends.
pub async fn await_identity(socket: &Path) -> Result<Vec<String>, ClientError> {
    WorkloadClient::connect(socket).await?.await_identity().await
}

fn secured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

fn refused(status: Status) -> ClientError {
    if status.code() == Code::PermissionDenied && status.message().contains("no identity issued") {
        return ClientError::NoIdentity;
    }
    ClientError::Refused { code: status.code(), message: status.message().to_owned() }
}

fn context(response: X509svidResponse) -> Result<X509Context, ClientError> {
    if response.svids.is_empty() {
        return Err(ClientError::Malformed("no svids".to_owned()));
    }
    let svids = response.svids.into_iter().map(svid).collect::<Result<_, _>>()?;
    let federated = response
        .federated_bundles
        .into_iter()
        .map(|(id, roots)| Ok((id, certificates("federated bundle", &roots)?)))
        .collect::<Result<_, ClientError>>()?;
    Ok(X509Context { svids, federated })
}

fn svid(message: workload::X509svid) -> Result<X509Svid, ClientError> {
    let key = Zeroizing::new(message.x509_svid_key);
    if message.spiffe_id.is_empty() || key.is_empty() {
        return Err(ClientError::Malformed("an svid without id or key".to_owned()));
    }
    Ok(X509Svid {
        spiffe_id: message.spiffe_id,
        chain: certificates("svid", &message.x509_svid)?,
        key,
        bundle: certificates("bundle", &message.bundle)?,
        hint: message.hint,
    })
}

/// Splits concatenated DER.
fn certificates(what: &str, mut der: &[u8]) -> Result<Vec<Vec<u8>>, ClientError> {
    let malformed = || ClientError::Malformed(format!("the {what} is not a sequence of certificates"));
    let mut found = Vec::new();
    while !der.is_empty() {
        let length = element_length(der).ok_or_else(malformed)?;
        let (one, rest) = der.split_at_checked(length).ok_or_else(malformed)?;
        found.push(one.to_vec());
        der = rest;
    }
    if found.is_empty() { Err(malformed()) } else { Ok(found) }
}

/// Length of the SEQUENCE a text of DER begins with, header included.
fn element_length(der: &[u8]) -> Option<usize> {
    let (&[0x30, first], rest) = der.split_first_chunk::<2>()? else { return None };
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let count = usize::from(first & 0x7f);
    let octets = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
    let length = octets.iter().fold(0_usize, |length, octet| (length << 8) | usize::from(*octet));
    length.checked_add(2 + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_unix_uris() {
        for address in ["/run/a.sock", "unix:/run/a.sock", "unix:///run/a.sock"] {
            assert_eq!(socket_path(address).unwrap(), Path::new("/run/a.sock"), "{address}");
        }
        for address in
            ["", "a.sock", "unix:a.sock", "unix://host/a.sock", "tcp://127.0.0.1:1", "/", "unix:///"]
        {
            assert!(matches!(socket_path(address), Err(ClientError::Address(_))), "{address}");
        }
    }

    #[test]
    fn concatenated_der_is_split_and_rubbish_refused() {
        let short = [&[0x30, 3][..], &[1, 2, 3]].concat();
        let long = [&[0x30, 0x82, 1, 0][..], &[7; 256]].concat();
        let both = [short.clone(), long.clone()].concat();
        assert_eq!(certificates("x", &both).unwrap(), [short.clone(), long]);
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 4, 1, 2, 3],
            &[0x31, 1, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x85, 1, 1, 1, 1, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 1, 1, 9],
        ] {
            assert!(certificates("x", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_response_without_mandatory_fields_is_discarded() {
        assert!(matches!(context(X509svidResponse::default()), Err(ClientError::Malformed(_))));
        let whole = workload::X509svid {
            spiffe_id: "spiffe://t/a".to_owned(),
            x509_svid: vec![0x30, 0],
            x509_svid_key: vec![1],
            bundle: vec![0x30, 0],
            hint: String::new(),
        };
        assert!(svid(whole.clone()).is_ok());
        assert!(svid(workload::X509svid { bundle: Vec::new(), ..whole.clone() }).is_err());
        assert!(svid(workload::X509svid { x509_svid: Vec::new(), ..whole.clone() }).is_err());
        assert!(svid(workload::X509svid { x509_svid_key: Vec::new(), ..whole.clone() }).is_err());
        assert!(svid(workload::X509svid { spiffe_id: String::new(), ..whole }).is_err());
    }
}
