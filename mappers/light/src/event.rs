//! What a light's mapper tells those who watch it.

use crate::lamp::Power;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// What a light's mapper does, for people and programs that watch it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum LightEvent {
    /// No identity yet.
    Waiting {
        /// Why.
        reason: String,
    },
    /// An SVID is there: the first one, or a renewed one that the connection is made with.
    Identity {
        /// Its SPIFFE ID.
        spiffe_id: String,
        /// Its serial number, in hexadecimal.
        serial: String,
        /// Its end, in milliseconds since the epoch.
        expires: u64,
    },
    /// Connected to the broker.
    Connected {
        /// Whether the broker had kept the session.
        resumed: bool,
    },
    /// The connection is being made anew with a renewed SVID.
    Renewing,
    /// No connection; the mapper tries again by itself.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The light was switched.
    Light {
        /// What it is now.
        state: Power,
    },
    /// The light's state was sent to the twin.
    Reported {
        /// The state.
        state: Power,
    },
    /// The broker or the event bus refused something.
    Refused {
        /// Topic or filter.
        topic: String,
        /// Why.
        reason: String,
    },
    /// The light could not be switched.
    Failed {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for LightEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { reason } => write!(formatter, "waiting for an identity: {reason}"),
            Self::Identity { spiffe_id, .. } => write!(formatter, "identity {spiffe_id}"),
            Self::Connected { resumed: true } => formatter.write_str("connected, session resumed"),
            Self::Connected { resumed: false } => formatter.write_str("connected"),
            Self::Renewing => formatter.write_str("connecting anew with the renewed SVID"),
            Self::Disconnected { reason } => write!(formatter, "disconnected: {reason}"),
            Self::Light { state } => write!(formatter, "light {state}"),
            Self::Reported { state } => write!(formatter, "reported {state}"),
            Self::Refused { topic, reason } => write!(formatter, "refused {topic}: {reason}"),
            Self::Failed { reason } => write!(formatter, "cannot switch the light: {reason}"),
        }
    }
}

/// Who is told of events; nobody by default. It must not block.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(&LightEvent) + Send + Sync>);

impl Observer {
    /// Returns an observer that calls `tell`.
    pub fn new(tell: impl Fn(&LightEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn tell(&self, event: &LightEvent) {
        tracing::debug!(%event, "light");
        (self.0)(event);
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_json_line_each() {
        let line = |event: &LightEvent| serde_json::to_string(event).unwrap();
        assert_eq!(line(&LightEvent::Light { state: Power::On }), r#"{"event":"light","state":"ON"}"#);
        assert_eq!(line(&LightEvent::Renewing), r#"{"event":"renewing"}"#);
        assert_eq!(
            line(&LightEvent::Waiting { reason: "no identity\nissued".into() }),
            r#"{"event":"waiting","reason":"no identity\nissued"}"#
        );
    }
}
