//! Why a connection was not made or has ended, in words, with the exit code it means.

use crate::exit::{self, failure};
use rumqttc::v5::mqttbytes::Error as PacketError;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode};
use rumqttc::v5::{ConnectionError, StateError, TlsError};
use rustls::{CertificateError, OtherError};
use std::fmt;
use std::io::{Error as IoError, ErrorKind};

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: u8,
    pub(super) reason: String,
}

/// When it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before the broker has accepted the connection.
    Connecting,
    Connected,
}

impl Trouble {
    pub(super) fn new(code: u8, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Reads an error of rumqttc.
    pub(super) fn of(error: &ConnectionError, stage: Stage) -> Self {
        match error {
            ConnectionError::ConnectionRefused(code)
            | ConnectionError::MqttState(StateError::ConnFail { reason: code }) => refused(*code),
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
                disconnected(*reason_code, reason_string.as_deref())
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => closed(stage),
            ConnectionError::MqttState(StateError::AwaitPingResp) | ConnectionError::Timeout(_) => {
                Self::new(exit::UNAVAILABLE, "the broker does not answer")
            }
            ConnectionError::MqttState(
                StateError::OutgoingPacketTooLarge { pkt_size, max }
                | StateError::Deserialization(PacketError::OutgoingPacketTooLarge { pkt_size, max }),
            ) => Self::new(
                exit::NO,
                format!("the message needs {pkt_size} bytes, the broker takes at most {max}"),
            ),
            ConnectionError::Tls(TlsError::TLS(error)) => tls(error),
            _ => match io_error(error) {
                Some(error) => io(error, stage),
                // The first bytes are no packet, most often an alert of TLS.
                None if stage == Stage::Connecting && is_foreign(error) => Self::new(
                    exit::UNAVAILABLE,
                    format!(
                        "what answers there does not speak MQTT ({error}); a listener with TLS wants mqtts://"
                    ),
                ),
                None => Self::new(exit::INTERNAL, error.to_string()),
            },
        }
    }

    pub(super) fn failure(self) -> anyhow::Error {
        failure(self.code, self.reason)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

fn refused(code: ConnectReturnCode) -> Trouble {
    let exit_code = match code {
        ConnectReturnCode::ServerUnavailable
        | ConnectReturnCode::ServiceUnavailable
        | ConnectReturnCode::ServerBusy
        | ConnectReturnCode::UseAnotherServer
        | ConnectReturnCode::ServerMoved
        | ConnectReturnCode::ConnectionRateExceeded => exit::UNAVAILABLE,
        _ => exit::PERMISSION,
    };
    Trouble::new(exit_code, format!("the broker refused the connection: {}", words(&code)))
}

fn disconnected(code: DisconnectReasonCode, text: Option<&str>) -> Trouble {
    let exit_code = match code {
        DisconnectReasonCode::NotAuthorized | DisconnectReasonCode::AdministrativeAction => exit::PERMISSION,
        _ => exit::UNAVAILABLE,
    };
    Trouble::new(exit_code, format!("the broker ended the connection: {}", reason(&code, text)))
}

fn closed(stage: Stage) -> Trouble {
    match stage {
        // A server that does not like the client's certificate may be gone before its alert is read.
        Stage::Connecting => {
            Trouble::new(exit::PERMISSION, "the broker closed the connection without an answer")
        }
        Stage::Connected => Trouble::new(exit::UNAVAILABLE, "the broker closed the connection"),
    }
}

fn tls(error: &rustls::Error) -> Trouble {
    if let rustls::Error::InvalidMessage(_) = error {
        let text =
            format!("what answers there does not speak TLS ({error}); a listener without it wants mqtt://");
        return Trouble::new(exit::UNAVAILABLE, text);
    }
    let reason = match error {
        rustls::Error::AlertReceived(alert) => {
            format!("the broker refused this identity in the TLS handshake: {}", words(alert))
        }
        // rustls would show the wrappings too.
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(error))) => {
            format!("the broker is not who it should be: {error}")
        }
        rustls::Error::InvalidCertificate(_) => format!("the broker is not who it should be: {error}"),
        _ => format!("the TLS handshake failed: {error}"),
    };
    Trouble::new(exit::PERMISSION, reason)
}

fn io(error: &IoError, stage: Stage) -> Trouble {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls(error);
    }
    match error.kind() {
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe => closed(stage),
        ErrorKind::PermissionDenied => Trouble::new(exit::PERMISSION, error.to_string()),
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
            Trouble::new(exit::UNAVAILABLE, format!("nobody listens there: {error}"))
        }
        _ => Trouble::new(exit::UNAVAILABLE, error.to_string()),
    }
}

fn io_error(error: &ConnectionError) -> Option<&IoError> {
    match error {
        ConnectionError::Io(error)
        | ConnectionError::Tls(TlsError::Io(error))
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)),
        ) => Some(error),
        _ => None,
    }
}

fn is_foreign(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::MqttState(StateError::Deserialization(_)) | ConnectionError::NotConnAck(_)
    )
}

/// The code in words and the broker's own text, where that says more.
pub(super) fn reason(code: &impl fmt::Debug, text: Option<&str>) -> String {
    let words = words(code);
    match text.filter(|text| !text.is_empty() && !text.to_lowercase().starts_with(&words.to_lowercase())) {
        Some(text) => format!("{words}: {text}"),
        None => words,
    }
}

/// `NotAuthorized` becomes `Not authorized`.
fn words(name: &impl fmt::Debug) -> String {
    let name = format!("{name:?}").replace("QoS", "Qos").replace("CA", "Ca");
    let mut text = String::with_capacity(name.len() + 8);
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_lower {
            text.push(' ');
            text.push(c.to_ascii_lowercase());
        } else {
            text.push(c);
        }
        after_lower = c.is_ascii_lowercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::v5::mqttbytes::v5::PubAckReason;

    fn of_io(error: IoError, stage: Stage) -> Trouble {
        Trouble::of(&ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(error))), stage)
    }

    #[test]
    fn codes_read_as_words() {
        assert_eq!(words(&PubAckReason::NotAuthorized), "Not authorized");
        assert_eq!(words(&ConnectReturnCode::QoSNotSupported), "Qos not supported");
        assert_eq!(words(&rustls::AlertDescription::UnknownCA), "Unknown ca");
        let denied = PubAckReason::NotAuthorized;
        assert_eq!(reason(&denied, Some("not authorized to publish this")), "Not authorized");
        assert_eq!(reason(&denied, Some("only by day")), "Not authorized: only by day");
    }

    #[test]
    fn a_refusal_is_told_from_a_broker_that_is_away() {
        let refused = ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized);
        let trouble = Trouble::of(&refused, Stage::Connecting);
        assert_eq!(trouble.code, exit::PERMISSION);
        assert_eq!(trouble.reason, "the broker refused the connection: Not authorized");
        let busy = ConnectionError::ConnectionRefused(ConnectReturnCode::ServerBusy);
        assert_eq!(Trouble::of(&busy, Stage::Connecting).code, exit::UNAVAILABLE);
        let nobody = ConnectionError::Io(ErrorKind::ConnectionRefused.into());
        assert_eq!(Trouble::of(&nobody, Stage::Connecting).code, exit::UNAVAILABLE);
    }

    #[test]
    fn an_alert_is_a_refusal_wherever_rumqttc_hides_it() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        let trouble = of_io(IoError::new(ErrorKind::InvalidData, alert), Stage::Connecting);
        assert_eq!(trouble.code, exit::PERMISSION);
        assert!(trouble.reason.ends_with("Certificate expired"), "{trouble}");
    }

    #[test]
    fn a_broker_that_is_another_one_is_named_without_wrappings() {
        let other = OtherError(std::sync::Arc::new(IoError::other("server is 'b', expected 'a'")));
        let error = rustls::Error::InvalidCertificate(CertificateError::Other(other));
        let trouble = Trouble::of(&ConnectionError::Tls(TlsError::TLS(error)), Stage::Connecting);
        assert_eq!(trouble.code, exit::PERMISSION);
        assert_eq!(trouble.reason, "the broker is not who it should be: server is 'b', expected 'a'");
    }

    #[test]
    fn what_speaks_something_else_is_told_with_the_scheme_it_may_want() {
        let alert = ConnectionError::MqttState(StateError::Deserialization(PacketError::BoundaryCrossed(2)));
        let trouble = Trouble::of(&alert, Stage::Connecting);
        assert_eq!(trouble.code, exit::UNAVAILABLE);
        assert!(
            trouble.reason.contains("does not speak MQTT") && trouble.reason.contains("mqtts://"),
            "{trouble}"
        );
        assert_eq!(Trouble::of(&alert, Stage::Connected).code, exit::INTERNAL);
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let trouble = of_io(IoError::new(ErrorKind::InvalidData, plain), Stage::Connecting);
        assert_eq!(trouble.code, exit::UNAVAILABLE);
        assert!(trouble.reason.contains("does not speak TLS"), "{trouble}");
    }

    #[test]
    fn a_connection_that_is_cut_is_a_refusal_only_before_the_answer() {
        for kind in [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof] {
            assert_eq!(of_io(kind.into(), Stage::Connecting).code, exit::PERMISSION);
            assert_eq!(of_io(kind.into(), Stage::Connected).code, exit::UNAVAILABLE);
        }
        let aborted = ConnectionError::MqttState(StateError::ConnectionAborted);
        assert_eq!(Trouble::of(&aborted, Stage::Connecting).code, exit::PERMISSION);
    }
}
