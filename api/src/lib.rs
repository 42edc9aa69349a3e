//! gRPC messages and services generated from the definitions in `proto/`.
//!
//! Owns the wire: SPIRE's server API with SPIRE's packages and field numbers (only what Midge
//! serves), and Midge's own service. Leaves meaning to `issuer/`, `agent/` and `midge/`, but for entries, which both
//! ends of a socket read alike.

#![expect(missing_docs, unused_qualifications, reason = "generated; the definitions carry the words")]
#![expect(clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]

pub mod entries;

/// SPIRE's API, as `spire-api-sdk` defines it.
pub mod spire {
    pub mod api {
        /// Messages that services share.
        pub mod types {
            tonic::include_proto!("spire.api.types");
        }
        /// Services of the server's admin socket.
        pub mod server {
            pub mod entry {
                /// Registration entries.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.entry.v1");
                }
            }
            pub mod agent {
                /// Nodes and join tokens.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.agent.v1");
                }
            }
            pub mod bundle {
                /// Trust bundles.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.bundle.v1");
                }
            }
            pub mod localauthority {
                /// X.509 authorities: prepared, activated, tainted, revoked.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.localauthority.v1");
                }
            }
            pub mod svid {
                /// SVIDs made by hand.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.svid.v1");
                }
            }
        }
    }
}

/// The SPIFFE Workload API (`standards/workloadapi.proto`), which has no package.
#[expect(missing_docs, reason = "generated")]
pub mod workload {
    tonic::include_proto!("_");
}

/// Midge's own services.
pub mod midge {
    /// Additions on the agent's socket.
    pub mod agent {
        #[expect(missing_docs, reason = "generated")]
        pub mod v1 {
            tonic::include_proto!("midge.agent.v1");
        }
    }
    /// Status, sessions, devices, nodes, and the feed for an agent in a process of its own.
    pub mod v1 {
        tonic::include_proto!("midge.v1");
    }
}
