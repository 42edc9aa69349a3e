//! Private keys, certificate signing and TLS configurations.
