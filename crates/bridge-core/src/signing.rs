//! Certificates asked for over the channel: the edge's intermediate CA and the node's own SVID.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// What is to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SigningKind {
    /// The intermediate CA of the edge: resource `identity/ca`.
    Ca,
    /// The SVID of the node itself: resource `identity/svid`.
    NodeSvid,
}

impl SigningKind {
    pub(crate) const ALL: [Self; 2] = [Self::Ca, Self::NodeSvid];

    /// Resource of the request and its answer.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Ca => "identity/ca",
            Self::NodeSvid => "identity/svid",
        }
    }

    pub(crate) fn of_resource(resource: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.resource() == resource)
    }
}

/// A request for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningRequest {
    /// Certificate signing request, DER.
    pub csr_der: Vec<u8>,
    /// Wished lifetime in seconds; 0 leaves it to the signer.
    pub ttl_secs: u64,
}

impl SigningRequest {
    pub(crate) fn content(&self) -> Value {
        json!({ "csr": STANDARD.encode(&self.csr_der), "ttl": self.ttl_secs })
    }

    pub(crate) fn parse(content: &Value) -> Result<Self, String> {
        let csr_der = bytes_of(content.get("csr")).ok_or("csr is not base64")?;
        let ttl_secs = content.get("ttl").and_then(Value::as_u64).unwrap_or(0);
        Ok(Self { csr_der, ttl_secs })
    }
}

/// A signed certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedChain {
    /// Leaf or intermediate first, without the root, DER.
    pub chain: Vec<Vec<u8>>,
    /// Root certificates, DER.
    pub roots: Vec<Vec<u8>>,
}

impl SignedChain {
    pub(crate) fn content(&self) -> Value {
        let encode = |list: &[Vec<u8>]| list.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>();
        json!({ "chain": encode(&self.chain), "roots": encode(&self.roots) })
    }

    pub(crate) fn parse(content: &Value) -> Result<Self, String> {
        let chain = list_of(content.get("chain")).ok_or("chain is not a list of base64")?;
        let roots = list_of(content.get("roots")).ok_or("roots is not a list of base64")?;
        if chain.is_empty() || roots.is_empty() {
            return Err("chain or roots are empty".to_owned());
        }
        Ok(Self { chain, roots })
    }
}

fn bytes_of(value: Option<&Value>) -> Option<Vec<u8>> {
    STANDARD.decode(value?.as_str()?).ok()
}

fn list_of(value: Option<&Value>) -> Option<Vec<Vec<u8>>> {
    value?.as_array()?.iter().map(|item| bytes_of(Some(item))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_survive_json() {
        let request = SigningRequest { csr_der: vec![1, 2, 3], ttl_secs: 60 };
        assert_eq!(request.content()["csr"], "AQID");
        assert_eq!(SigningRequest::parse(&request.content()), Ok(request));
        let signed = SignedChain { chain: vec![vec![1]], roots: vec![vec![2], vec![3]] };
        assert_eq!(SignedChain::parse(&signed.content()), Ok(signed));
    }

    #[test]
    fn malformed_answers_are_refused() {
        for bad in
            [json!("x"), json!({"chain": [], "roots": ["AQ=="]}), json!({"chain": ["?"], "roots": ["AQ=="]})]
        {
            assert!(SignedChain::parse(&bad).is_err(), "{bad}");
        }
        assert!(SigningRequest::parse(&json!({"csr": 5})).is_err());
    }
}
