//! The identity server, as edge and cloud run it: entries, tokens, CA rotation, signing, SPIRE's admin API.
//!
//! Executes what `issuer-core` decides: a change is planned there, committed to the store, and only
//! then visible and answered. Keys live in files of their own and never in the store. Leaves
//! transport to the cloud, attestation of workloads and MQTT to others.

mod admin;
mod authority;
mod builtin;
mod config;
mod enrol;
mod entries;
mod error;
mod federation;
mod issuer;
mod mutation;
mod rotation;
mod sign;
mod state;
mod upstream;
mod view;
mod witness;

pub use admin::{admin_services, bundles_to_api};
pub use config::{Authority, IssuerConfig};
pub use enrol::{Joined, NewJoinToken};
pub use entries::CloudChange;
pub use error::IssueError;
pub use federation::FederatedTrust;
pub use issuer::Issuer;
pub use mutation::{Mutation, MutationLog};
pub use rotation::run;
pub use sign::{SignedCa, SignedSvid};
pub use state::HeldEntry;
pub use upstream::CaRequest;
pub use view::{CaSnapshot, Degraded, IssuerSnapshot, IssuerView};
pub use witness::{Cause, Changed, Issued, Witness};
