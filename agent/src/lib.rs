//! Workload attestation and the SPIFFE Workload API.
