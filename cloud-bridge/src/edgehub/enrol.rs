//! Enrolment: from a join token to the box's first certificate.
//!
//! The token's first half is the SHA-256 of the cloud's root. The root is fetched over a connection
//! that proves nothing, compared with the hash, and everything else goes over a connection to
//! whom that root vouches for.

use super::dial::{DialError, connect, split_address, tls};
use super::identity::{Joining, NodeIdentity, NodeIdentityError};
use crate::cloudhub::PEM_CHAIN;
use crate::limits::{BOOTSTRAP_ANSWER_BYTES_MAX, HANDSHAKE_TIMEOUT};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use midge_identity::{SpiffeId, TrustDomain, cloud_hub_id, node_id};
use midge_pki::{
    CsrSubject, FixedTrust, PemError, PinError, RootPin, ServerExpectation, SignError, client_config,
    fetch_only_config, pem_decode_certs,
};
use midge_runtime::Clock;
use rustls::ClientConfig;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;
use zeroize::Zeroizing;

/// What a box enrols with: `<hex sha256 of the root>.<join token>`. Never shown.
#[derive(Clone)]
pub struct EnrolmentToken {
    pin: RootPin,
    secret: Zeroizing<String>,
}

impl EnrolmentToken {
    /// Parses the text that the cloud printed, with `Token:` before it or not.
    ///
    /// # Errors
    /// It has not the form of one.
    pub fn parse(text: &str) -> Result<Self, EnrolError> {
        let text = text.trim();
        let text = text.strip_prefix("Token:").map_or(text, str::trim_start);
        let (pin, secret) = text.split_once('.').ok_or(EnrolError::TokenForm)?;
        let visible = secret.bytes().all(|b| b.is_ascii_graphic());
        if secret.is_empty() || !visible {
            return Err(EnrolError::TokenForm);
        }
        let pin = pin.parse().map_err(|_| EnrolError::TokenForm)?;
        Ok(Self { pin, secret: Zeroizing::new(secret.to_owned()) })
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken").field("pin", &self.pin.to_string()).finish_non_exhaustive()
    }
}

/// Who enrols where.
#[derive(Clone, Debug)]
pub struct EnrolConfig {
    /// Bootstrap address of the cloud: `https://host:port`.
    pub address: String,
    /// What the cloud's operator gave.
    pub token: EnrolmentToken,
    /// Name of the box.
    pub node: String,
    /// Trust domain of the box.
    pub trust_domain: TrustDomain,
    /// Where key, certificate and roots are kept.
    pub directory: PathBuf,
}

/// Why a box did not enrol.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// Not a token.
    #[error(
        "the enrolment token is not <sha256 of the root>.<join token>: copy the whole line that \
         `midge token generate` printed at the cloud"
    )]
    TokenForm,
    /// Not a name.
    #[error("\"{name}\" cannot be the name of a node: {why}")]
    NodeName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The cloud is not there, or is another one.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The root is not the one that the token names.
    #[error("the cloud at {address}: {error}")]
    Root {
        /// Address of the cloud.
        address: String,
        /// What is wrong.
        error: Box<PinError>,
    },
    /// The cloud is another trust domain's.
    #[error("the cloud at {address} is of trust domain {is}, this box is configured for {wanted}")]
    TrustDomain {
        /// Address of the cloud.
        address: String,
        /// Its trust domain.
        is: TrustDomain,
        /// Ours.
        wanted: TrustDomain,
    },
    /// The cloud refused.
    #[error("the cloud at {address} refused this box: {reason}{remedy}")]
    Refused {
        /// Address of the cloud.
        address: String,
        /// What it said.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// HTTP failed.
    #[error("the cloud at {address} does not answer as it should: {reason}")]
    Http {
        /// Address of the cloud.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The answer is no certificate chain.
    #[error("the cloud at {address} sent no certificate: {error}")]
    Answer {
        /// Address of the cloud.
        address: String,
        /// What is wrong.
        error: PemError,
    },
    /// Files, or the certificate.
    #[error(transparent)]
    Identity(Box<NodeIdentityError>),
    /// The CSR.
    #[error("cannot make a certificate request: {0}")]
    Csr(#[from] SignError),
}

impl From<NodeIdentityError> for EnrolError {
    fn from(error: NodeIdentityError) -> Self {
        Self::Identity(Box::new(error))
    }
}

/// Gets the box its identity, unless it has one that is still valid. Can be repeated with the same
/// token until it succeeds.
///
/// # Errors
/// As [`EnrolError`] lists; what was on disk stays.
pub async fn enrol(config: &EnrolConfig, clock: &Clock) -> Result<NodeIdentity, EnrolError> {
    let id = node_id(&config.trust_domain, &config.node)
        .map_err(|error| EnrolError::NodeName { name: config.node.clone(), why: error.to_string() })?;
    if let Some(identity) = NodeIdentity::load(&config.directory, &id, clock)?
        && clock.now() < identity.expires()
    {
        return Ok(identity);
    }
    let joining = Joining::begin(&config.directory, &id)?;
    let fetch = fetch_only_config(config.token.pin);
    let request = request("/ca.crt", Bytes::new());
    let body = get(config, fetch.unverified_config(), request).await?;
    let root = fetch.accept(&body).map_err(|error| root_error(config, error))?;
    let is = root.trust_domain().map_err(|error| root_error(config, error))?;
    if is != config.trust_domain {
        let (address, wanted) = (config.address.clone(), config.trust_domain.clone());
        return Err(EnrolError::TrustDomain { address, is, wanted });
    }
    let bundles = root.bundles().map_err(|error| root_error(config, error))?;
    let clock_of_trust = clock.clone();
    let trust = Arc::new(FixedTrust::new(bundles, move || clock_of_trust.now()));
    let tls = client_config(None, trust, ServerExpectation::Id(hub_id(&config.trust_domain)?));
    let body = get(config, tls, certificate_request(config, &id, &joining)?).await?;
    let chain = pem_decode_certs(&body)
        .map_err(|error| EnrolError::Answer { address: config.address.clone(), error })?;
    let chain = chain.into_iter().map(|certificate| certificate.to_vec()).collect();
    Ok(joining.finish(chain, vec![root.der().to_vec()], clock)?)
}

pub(super) fn hub_id(trust_domain: &TrustDomain) -> Result<SpiffeId, EnrolError> {
    cloud_hub_id(trust_domain)
        .map_err(|error| EnrolError::NodeName { name: trust_domain.to_string(), why: error.to_string() })
}

fn root_error(config: &EnrolConfig, error: PinError) -> EnrolError {
    EnrolError::Root { address: config.address.clone(), error: Box::new(error) }
}

fn request(path: &str, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.uri_mut() = http::Uri::try_from(path).unwrap_or_default();
    request
}

fn certificate_request(
    config: &EnrolConfig,
    id: &SpiffeId,
    joining: &Joining,
) -> Result<Request<Full<Bytes>>, EnrolError> {
    // KubeEdge's subject, for a cloud that reads it.
    let subject = CsrSubject {
        organization: Some("system:nodes".to_owned()),
        common_name: Some(format!("system:node:{}", config.node)),
    };
    let csr = joining.key().csr_der(Some(id), subject)?;
    let mut request = request("/edge.crt", csr.into());
    let bearer = Zeroizing::new(format!("Bearer {}", config.token.secret.as_str()));
    let header = |text: &str| http::HeaderValue::from_str(text).map_err(|_| EnrolError::TokenForm);
    let mut authorization = header(&bearer)?;
    authorization.set_sensitive(true);
    let headers = request.headers_mut();
    headers.insert(http::header::AUTHORIZATION, authorization);
    headers.insert("nodename", header(&config.node)?);
    headers.insert(http::header::ACCEPT, http::HeaderValue::from_static(PEM_CHAIN));
    Ok(request)
}

async fn get(
    config: &EnrolConfig,
    tls_config: Arc<ClientConfig>,
    mut request: Request<Full<Bytes>>,
) -> Result<Bytes, EnrolError> {
    let address = config.address.trim_end_matches('/');
    let authority = address.strip_prefix("https://").unwrap_or(address);
    let (host, _) = split_address(authority)?;
    if let Ok(value) = http::HeaderValue::from_str(authority) {
        request.headers_mut().insert(http::header::HOST, value);
    }
    let stream = tls(connect(authority).await?, tls_config, host, authority).await?;
    let failed = |reason: String| EnrolError::Http { address: config.address.clone(), reason };
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let (answer, ended) = tokio::join!(
            async {
                let answer = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
                let status = answer.status();
                let body = Limited::new(answer.into_body(), BOOTSTRAP_ANSWER_BYTES_MAX).collect().await;
                drop(sender);
                Ok::<_, EnrolError>((status, body.map_err(|error| failed(error.to_string()))?.to_bytes()))
            },
            connection
        );
        // An answer that arrived whole counts, however the connection ended.
        drop(ended);
        answer
    };
    let (status, body) = tokio::time::timeout(HANDSHAKE_TIMEOUT, exchange)
        .await
        .map_err(|_| failed(format!("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs())))??;
    if status == StatusCode::OK {
        return Ok(body);
    }
    let reason: String =
        String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(300).collect();
    let remedy = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ": make a new join token at the cloud with `midge token generate` and start again with it"
        }
        _ => "",
    };
    let reason = if reason.is_empty() { status.to_string() } else { reason };
    // A cloud in trouble of its own has refused nobody: the same token will do later.
    if status.is_server_error() {
        return Err(EnrolError::Http { address: config.address.clone(), reason });
    }
    Err(EnrolError::Refused { address: config.address.clone(), reason, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_a_hash_and_a_secret_that_is_never_shown() {
        let text = format!(" {}.4f9c-secret\n", "ab".repeat(32));
        let token = EnrolmentToken::parse(&text).unwrap();
        assert_eq!(token.secret.as_str(), "4f9c-secret");
        assert!(!format!("{token:?}").contains("secret"));
        let line = EnrolmentToken::parse(&format!("Token: {}\n", text.trim())).unwrap();
        assert_eq!((line.pin, line.secret), (token.pin, token.secret));
        for bad in [
            "",
            "secret",
            "abc.secret",
            &format!("{}.", "ab".repeat(32)),
            &format!("{}.a b", "ab".repeat(32)),
        ] {
            assert!(matches!(EnrolmentToken::parse(bad), Err(EnrolError::TokenForm)), "{bad}");
        }
    }
}
