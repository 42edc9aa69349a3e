//! The one tokio kit: supervisor, drain, backoff, clock, logs and health endpoints.
