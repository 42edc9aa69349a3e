//! Issuer scope: a private certificate extension that says for which paths a CA may speak.
//!
//! A CA whose certificate carries it signs only for SPIFFE IDs under the prefix, so that the key of
//! one edge box is worth nothing for another box or for the cloud. Verifiers that do not know the
//! extension skip it (it is not critical); [`crate::verify_x509_svid`] enforces it on every CA of a chain.

use crate::SpiffeId;
use std::fmt;
use thiserror::Error;
use x509_parser::der_parser::asn1_rs::{FromDer, ToDer, Utf8String};

/// Object identifier of the extension: 1.3.6.1.4.1.59913.1.1.
pub const ISSUER_SCOPE_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 59913, 1, 1];

const SCOPE_BYTES_MAX: usize = 2048;

/// Why a text or extension is not an issuer scope.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// Not a path prefix made of whole segments.
    #[error("issuer scope '{0}' is not a path prefix such as '/edge/box-1/'")]
    NotAPrefix(String),
    /// Longer than a SPIFFE ID may be.
    #[error("issuer scope of {0} bytes is longer than 2048")]
    TooLong(usize),
    /// The extension's value is not one DER UTF8String.
    #[error("issuer scope extension is not one DER UTF8String")]
    Encoding,
}

/// Path prefix such as `/edge/box-1/` under which a CA may issue SVIDs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IssuerScope(String);

impl IssuerScope {
    /// Returns the scope of a prefix that begins and ends with `/` and has at least one segment.
    ///
    /// # Errors
    ///
    /// [`ScopeError`] when the prefix could never match a valid SPIFFE ID, or matches all.
    pub fn new(prefix: impl Into<String>) -> Result<Self, ScopeError> {
        let prefix = prefix.into();
        if prefix.len() > SCOPE_BYTES_MAX {
            return Err(ScopeError::TooLong(prefix.len()));
        }
        let segments = prefix.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
        if segments.is_some_and(|segments| segments.split('/').all(is_segment)) {
            Ok(Self(prefix))
        } else {
            Err(ScopeError::NotAPrefix(prefix.escape_debug().to_string()))
        }
    }

    /// Whether a CA of this scope may speak for an identity: under the prefix, or the prefix itself
    /// (the box `/edge/box-1` for the scope `/edge/box-1/`).
    pub fn admits(&self, id: &SpiffeId) -> bool {
        let path = id.path();
        path.starts_with(&self.0) || self.0.strip_suffix('/') == Some(path)
    }

    /// The prefix, with both slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Encodes the value of the extension.
    pub fn to_der(&self) -> Vec<u8> {
        Utf8String::new(&self.0).to_der_vec().unwrap_or_default()
    }

    /// Decodes the value of the extension.
    ///
    /// # Errors
    ///
    /// [`ScopeError`] when it is not exactly one UTF8String holding a scope.
    pub fn from_der(der: &[u8]) -> Result<Self, ScopeError> {
        match Utf8String::from_der(der) {
            Ok(([], text)) => Self::new(text.string()),
            Ok(_) | Err(_) => Err(ScopeError::Encoding),
        }
    }
}

impl fmt::Display for IssuerScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// SPIFFE-ID §2.2
fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(path: &str) -> SpiffeId {
        SpiffeId::new(format!("spiffe://td{path}")).unwrap()
    }

    #[test]
    fn scope_admits_the_box_and_what_is_under_it_only() {
        let scope = IssuerScope::new("/edge/box-1/").unwrap();
        for path in ["/edge/box-1", "/edge/box-1/broker", "/edge/box-1/mapper/led"] {
            assert!(scope.admits(&id(path)), "{path}");
        }
        for path in ["/edge/box-10", "/edge/box-10/broker", "/edge", "/edge/box-2/broker", "/cloud", ""] {
            assert!(!scope.admits(&id(path)), "{path}");
        }
    }

    #[test]
    fn prefixes_that_are_not_whole_segments_are_refused() {
        for text in [
            "",
            "/",
            "//",
            "edge/",
            "/edge",
            "/edge//box/",
            "/edge/../",
            "/edge/./",
            "/edge/+/",
            "/é/",
            "/a b/",
        ] {
            assert!(matches!(IssuerScope::new(text), Err(ScopeError::NotAPrefix(_))), "{text:?}");
        }
        assert_eq!(IssuerScope::new(format!("/{}/", "a".repeat(2047))), Err(ScopeError::TooLong(2049)));
    }

    #[test]
    fn der_is_a_plain_utf8_string() {
        let scope = IssuerScope::new("/e/b/").unwrap();
        assert_eq!(scope.to_der(), b"\x0c\x05/e/b/");
        assert_eq!(IssuerScope::from_der(b"\x0c\x05/e/b/"), Ok(scope));
        for wrong in [&b""[..], b"\x0c\x05/e/b", b"\x0c\x05/e/b/x", b"\x16\x05/e/b/", b"\x0c\x02\xff\xfe"] {
            assert_eq!(IssuerScope::from_der(wrong), Err(ScopeError::Encoding), "{wrong:?}");
        }
        assert!(matches!(IssuerScope::from_der(b"\x0c\x01/"), Err(ScopeError::NotAPrefix(_))));
    }

    proptest! {
        #[test]
        fn der_round_trips(segments in proptest::collection::vec("[a-zA-Z0-9_-]{1,60}", 1..8)) {
            let scope = IssuerScope::new(format!("/{}/", segments.join("/"))).unwrap();
            prop_assert_eq!(IssuerScope::from_der(&scope.to_der()), Ok(scope));
        }

        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _decoded = IssuerScope::from_der(&bytes);
        }
    }
}
