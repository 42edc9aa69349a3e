//! SPIFFE bundle documents: the roots of one trust domain as others read them (Trust Domain and Bundle §4).

use crate::jwk::{JwkError, jwk_public_key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use midge_identity::SvidRejection;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Why a text is no SPIFFE bundle document.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleDocumentError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not a JWK set.
    #[error("no SPIFFE bundle document: \"keys\" is missing or no list")]
    NoKeys,
    /// A number that is none.
    #[error("\"{0}\" is not a whole number from 0")]
    Number(&'static str),
    /// A key that is meant for X.509-SVIDs and cannot be used.
    #[error("key {place}: {why}")]
    Key {
        /// Its place in the list, from 1.
        place: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// What a document says of X.509-SVIDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleDocument {
    /// Roots; DER.
    pub roots: Vec<Vec<u8>>,
    /// `spiffe_sequence`; 0 if there is none.
    pub sequence: u64,
    /// `spiffe_refresh_hint` in seconds; 0 if there is none.
    pub refresh_hint_secs: u64,
}

impl BundleDocument {
    /// Reads a document. Keys of another `use` than `x509-svid`, and of a `kty` that is not known, are left out; one
    /// that is meant is held to the whole of the specification.
    ///
    /// # Errors
    ///
    /// [`BundleDocumentError`] when it is no document, or a key for X.509-SVIDs is not one.
    pub fn parse(text: &[u8]) -> Result<Self, BundleDocumentError> {
        let document: Value = serde_json::from_slice(text)?;
        let keys = document.get("keys").and_then(Value::as_array).ok_or(BundleDocumentError::NoKeys)?;
        let mut roots = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let at = |why: String| BundleDocumentError::Key { place: index + 1, why };
            roots.extend(root(key).map_err(at)?);
        }
        Ok(Self {
            roots,
            sequence: number(&document, "spiffe_sequence")?,
            refresh_hint_secs: number(&document, "spiffe_refresh_hint")?,
        })
    }

    /// Writes the document. A hint of 0 is left out: it would tell to ask again at once.
    ///
    /// # Errors
    ///
    /// [`JwkError`] when a root is no certificate, or its key has no JWK here.
    pub fn to_json(&self) -> Result<Value, JwkError> {
        let key = |root: &Vec<u8>| {
            let mut key = Map::from_iter([
                ("use".to_owned(), json!("x509-svid")),
                ("x5c".to_owned(), json!([STANDARD.encode(root)])),
            ]);
            if let Value::Object(jwk) = jwk_public_key(root)? {
                key.extend(jwk);
            }
            Ok(Value::Object(key))
        };
        let keys = self.roots.iter().map(key).collect::<Result<Vec<_>, JwkError>>()?;
        let mut document = json!({ "keys": keys, "spiffe_sequence": self.sequence });
        if let Some(document) = document.as_object_mut().filter(|_| self.refresh_hint_secs > 0) {
            document.insert("spiffe_refresh_hint".to_owned(), self.refresh_hint_secs.into());
        }
        Ok(document)
    }
}

fn number(document: &Value, name: &'static str) -> Result<u64, BundleDocumentError> {
    match document.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value.as_u64().ok_or(BundleDocumentError::Number(name)),
    }
}

/// Returns the root in a key; none if the key is for something else.
fn root(key: &Value) -> Result<Option<Vec<u8>>, String> {
    // Trust Domain and Bundle §4.2.1, §4.2.2: both are set, and what is not known is ignored.
    let text = |name: &str| {
        key.get(name).and_then(Value::as_str).ok_or_else(|| format!("\"{name}\" is missing or no text"))
    };
    if text("use")? != "x509-svid" || !["EC", "RSA", "OKP"].contains(&text("kty")?) {
        return Ok(None);
    }
    // X509-SVID §6.2
    let chain = key.get("x5c").and_then(Value::as_array).ok_or("\"x5c\" is missing or no list")?;
    let [root] = chain.as_slice() else {
        return Err(format!("\"x5c\" has {} certificates instead of exactly one", chain.len()));
    };
    let root = root.as_str().and_then(|root| STANDARD.decode(root).ok()).ok_or("\"x5c\" is not base64")?;
    match jwk_public_key(&root) {
        Ok(expected) => same_key(key, &expected)?,
        Err(JwkError::UnsupportedKey) => {}
        Err(JwkError::Certificate(error)) => return Err(not_a_certificate(&error)),
    }
    Ok(Some(root))
}

/// A reader that takes the key and one that takes the certificate must not trust two different ones.
fn same_key(key: &Value, expected: &Value) -> Result<(), String> {
    let differing =
        expected.as_object().into_iter().flatten().find(|(name, value)| key.get(name) != Some(value));
    match differing {
        None => Ok(()),
        Some((name, _)) => Err(format!("\"{name}\" is not that of the certificate in \"x5c\"")),
    }
}

fn not_a_certificate(error: &SvidRejection) -> String {
    format!("\"x5c\" holds no certificate: {error}")
}
