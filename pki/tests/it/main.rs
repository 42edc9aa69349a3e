//! Keys, certificates and TLS handshakes as the other parts of Midge use them.

#[cfg(test)]
mod handshake;
#[cfg(test)]
mod signing;
#[cfg(test)]
mod support;
