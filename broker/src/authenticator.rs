//! What the broker asks of whoever knows methods of enhanced authentication.

use async_trait::async_trait;
use broker_core::{AuthOutcome, AuthRequest};
use std::sync::Arc;

/// Knows one or more methods of enhanced authentication (MQTT 5.0 §4.12).
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Names of the methods, as clients spell them.
    fn methods(&self) -> Vec<Arc<str>>;

    /// Judges one step. All that came before it and matters is in the request, so that nothing is kept
    /// for clients that never come back.
    async fn judge(&self, request: AuthRequest) -> AuthOutcome;
}
