//! Every cap of the identity server's state, so that no caller of the admin API can exhaust it.

use std::time::Duration;

/// Registration entries of one server.
pub const ENTRIES_MAX: usize = 200_000;
/// Selectors of one entry; attestors find fewer on any workload.
pub const ENTRY_SELECTORS_MAX: usize = 64;
/// DNS SANs of one entry; they all travel in each handshake.
pub const ENTRY_DNS_NAMES_MAX: usize = 64;
/// Trust domains one entry federates with.
pub const ENTRY_FEDERATES_MAX: usize = 64;
/// Other trust domains whose bundles a server holds. All of them travel to each agent and box in one message.
pub const FEDERATED_DOMAINS_MAX: usize = 64;
/// Roots of one of them together, in bytes of DER: room for as many P-256 roots as a bundle may have.
pub const FEDERATED_BUNDLE_BYTES_MAX: usize = 32 * 1024;
/// Topic filters in each of the two grants of an entry.
pub const ENTRY_GRANTS_MAX: usize = 256;
/// Length of an entry ID in bytes, as in SPIRE.
pub const ENTRY_ID_BYTES_MAX: usize = 255;
/// Length of a hint in bytes, as in SPIRE.
pub const HINT_BYTES_MAX: usize = 1024;
/// Length of a selector in bytes.
pub const SELECTOR_BYTES_MAX: usize = 4096;
/// Join tokens waiting to be used.
pub const TOKENS_MAX: usize = 100_000;
/// Length of a join token in bytes.
pub const TOKEN_BYTES_MAX: usize = 255;
/// Nodes known to one server.
pub const NODES_MAX: usize = 100_000;
/// Longest lifetime of a workload's certificate.
pub const SVID_TTL_MAX: Duration = Duration::from_secs(366 * 86_400);
