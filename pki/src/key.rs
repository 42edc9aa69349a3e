//! Private keys: ECDSA on P-256, in memory and on disk.

use crate::csr::{CsrSubject, request_params};
use crate::files::{FileError, read_private, write_private};
use crate::pem::pem_encode_key;
use crate::sign::SignError;
use midge_identity::SpiffeId;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// Why a private key cannot be loaded, stored or decoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not a PEM private key.
    #[error("'{path}' is not a PEM file with a PKCS#8 private key on P-256: {reason}")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it. Never part of the key.
        reason: String,
    },
    /// The bytes are not a usable key.
    #[error("not a PKCS#8 private key on P-256: {0}")]
    Decode(String),
    /// The system has no randomness to give.
    #[error("cannot generate a key: {0}")]
    Generate(String),
}

/// A private key on P-256. Wiped from memory when dropped; never shown by `Debug`.
pub struct PrivateKey {
    pair: KeyPair,
    signing: Arc<dyn SigningKey>,
}

impl PrivateKey {
    /// Generates a new key.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Generate`] when the system's randomness fails.
    pub fn generate() -> Result<Self, KeyFileError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| KeyFileError::Generate(error.to_string()))?;
        Self::from_pair(pair)
    }

    /// Decodes a PKCS#8 key.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Decode`] when it is not one on P-256.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyFileError> {
        let pair =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ECDSA_P256_SHA256)
                .map_err(|error| KeyFileError::Decode(error.to_string()))?;
        Self::from_pair(pair)
    }

    /// Loads a PEM key file.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] when the file cannot be read, is open to other users than its owner, or
    /// holds no key on P-256.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyFileError> {
        let path = path.as_ref();
        Self::from_pem(&read_private(path)?, path)
    }

    /// Reads the key of a PEM file that was read already, with whatever else is in it.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::NotAKey`] when it holds no key on P-256.
    pub fn from_pem(pem: &[u8], path: &Path) -> Result<Self, KeyFileError> {
        let not_a_key = |reason: String| KeyFileError::NotAKey { path: path.to_owned(), reason };
        let mut der =
            PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|error| not_a_key(error.to_string()))?;
        let key = Self::from_pkcs8_der(der.secret_pkcs8_der()).map_err(|error| not_a_key(error.to_string()));
        der.zeroize();
        key
    }

    /// Stores the key as a PEM file of mode 0600, atomically.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::File`] when a step fails; what was there stays.
    pub fn store(&self, path: impl AsRef<Path>) -> Result<(), KeyFileError> {
        Ok(write_private(path, pem_encode_key(self).as_bytes())?)
    }

    /// The key as unencrypted PKCS#8.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pair.serialize_der())
    }

    /// The public key as SubjectPublicKeyInfo.
    pub fn public_key_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// Makes a certificate signing request for this key.
    ///
    /// # Errors
    ///
    /// [`SignError`] when a name cannot be encoded or signing fails.
    pub fn csr_der(&self, id: Option<&SpiffeId>, subject: CsrSubject) -> Result<Vec<u8>, SignError> {
        self.csr_der_with_dns(id, &[], subject)
    }

    /// As [`Self::csr_der`], for an SVID with DNS names too.
    ///
    /// # Errors
    ///
    /// [`SignError`] when a name cannot be encoded or signing fails.
    pub fn csr_der_with_dns(
        &self,
        id: Option<&SpiffeId>,
        dns_names: &[String],
        subject: CsrSubject,
    ) -> Result<Vec<u8>, SignError> {
        let request = request_params(id, dns_names, subject)?.serialize_request(&self.pair)?;
        Ok(request.der().to_vec())
    }

    /// Signs a message: ECDSA with SHA-256, for [`crate::verify_message`].
    ///
    /// # Errors
    ///
    /// [`SignError`] when signing fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(rcgen::SigningKey::sign(&self.pair, message)?)
    }

    /// The key as rustls takes it.
    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        self.signing.clone()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    fn from_pair(pair: KeyPair) -> Result<Self, KeyFileError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialized_der()));
        let signing = any_ecdsa_type(&der).map_err(|error| KeyFileError::Decode(error.to_string()))?;
        Ok(Self { pair, signing })
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        // What the crypto library holds it wipes itself.
        self.pair.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}
