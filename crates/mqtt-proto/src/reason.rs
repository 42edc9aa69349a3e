//! Reason codes: their numbers, their names in the standard, and the packets each may stand in.

use crate::decode::Role;
use crate::packet_type::PacketType;

/// A number that is no reason code of MQTT 5.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("0x{0:02X} is not a reason code of MQTT 5.0")]
pub struct UnknownReasonCode(pub u8);

macro_rules! reason_codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// A reason code of MQTT 5.0 (§2.4); for 3.1.1 the codec maps it to the return code of that version.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $(#[doc = $text] $name = $code,)*
        }

        impl ReasonCode {
            /// Returns the name the standard gives this code.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        impl TryFrom<u8> for ReasonCode {
            type Error = UnknownReasonCode;

            fn try_from(code: u8) -> Result<Self, UnknownReasonCode> {
                match code {
                    $($code => Ok(Self::$name),)*
                    _ => Err(UnknownReasonCode(code)),
                }
            }
        }

        #[cfg(test)]
        const ALL: &[(ReasonCode, u8)] = &[$((ReasonCode::$name, $code)),*];
    };
}

// Success is also Normal disconnection and Granted QoS 0.
reason_codes! {
    Success = 0x00, "Success";
    GrantedQos1 = 0x01, "Granted QoS 1";
    GrantedQos2 = 0x02, "Granted QoS 2";
    DisconnectWithWill = 0x04, "Disconnect with Will Message";
    NoMatchingSubscribers = 0x10, "No matching subscribers";
    NoSubscriptionExisted = 0x11, "No subscription existed";
    ContinueAuthentication = 0x18, "Continue authentication";
    ReAuthenticate = 0x19, "Re-authenticate";
    UnspecifiedError = 0x80, "Unspecified error";
    MalformedPacket = 0x81, "Malformed Packet";
    ProtocolError = 0x82, "Protocol Error";
    ImplementationSpecificError = 0x83, "Implementation specific error";
    UnsupportedProtocolVersion = 0x84, "Unsupported Protocol Version";
    ClientIdentifierNotValid = 0x85, "Client Identifier not valid";
    BadUserNameOrPassword = 0x86, "Bad User Name or Password";
    NotAuthorized = 0x87, "Not authorized";
    ServerUnavailable = 0x88, "Server unavailable";
    ServerBusy = 0x89, "Server busy";
    Banned = 0x8A, "Banned";
    ServerShuttingDown = 0x8B, "Server shutting down";
    BadAuthenticationMethod = 0x8C, "Bad authentication method";
    KeepAliveTimeout = 0x8D, "Keep Alive timeout";
    SessionTakenOver = 0x8E, "Session taken over";
    TopicFilterInvalid = 0x8F, "Topic Filter invalid";
    TopicNameInvalid = 0x90, "Topic Name invalid";
    PacketIdentifierInUse = 0x91, "Packet Identifier in use";
    PacketIdentifierNotFound = 0x92, "Packet Identifier not found";
    ReceiveMaximumExceeded = 0x93, "Receive Maximum exceeded";
    TopicAliasInvalid = 0x94, "Topic Alias invalid";
    PacketTooLarge = 0x95, "Packet too large";
    MessageRateTooHigh = 0x96, "Message rate too high";
    QuotaExceeded = 0x97, "Quota exceeded";
    AdministrativeAction = 0x98, "Administrative action";
    PayloadFormatInvalid = 0x99, "Payload format invalid";
    RetainNotSupported = 0x9A, "Retain not supported";
    QosNotSupported = 0x9B, "QoS not supported";
    UseAnotherServer = 0x9C, "Use another server";
    ServerMoved = 0x9D, "Server moved";
    SharedSubscriptionsNotSupported = 0x9E, "Shared Subscriptions not supported";
    ConnectionRateExceeded = 0x9F, "Connection rate exceeded";
    MaximumConnectTime = 0xA0, "Maximum connect time";
    SubscriptionIdentifiersNotSupported = 0xA1, "Subscription Identifiers not supported";
    WildcardSubscriptionsNotSupported = 0xA2, "Wildcard Subscriptions not supported";
}

impl ReasonCode {
    /// Tells whether the code reports a failure: 0x80 and above (§2.4).
    pub fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Returns the CONNACK return code of MQTT 3.1.1 for this reason; `None` where that version asks to
    /// close without a CONNACK ([MQTT-3.2.2-6] of 3.1.1).
    pub fn connect_return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::UnspecifiedError
            | Self::ImplementationSpecificError
            | Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword | Self::BadAuthenticationMethod => Some(4),
            Self::NotAuthorized | Self::Banned => Some(5),
            _ => None,
        }
    }

    /// Returns the reason a CONNACK return code of MQTT 3.1.1 stands for; `None` for the reserved ones.
    pub fn from_connect_return_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }

    /// Tells whether this code may stand in a packet that `receiver` gets (tables 3-1, 3-4 to 3-9, 3-13 and 3-15).
    pub(crate) fn is_allowed_in(self, packet: PacketType, receiver: Role) -> bool {
        match packet {
            PacketType::ConnAck => self.is_allowed_in_connack(),
            PacketType::PubAck | PacketType::PubRec => {
                matches!(
                    self,
                    Self::Success
                        | Self::NoMatchingSubscribers
                        | Self::UnspecifiedError
                        | Self::ImplementationSpecificError
                        | Self::NotAuthorized
                        | Self::TopicNameInvalid
                        | Self::PacketIdentifierInUse
                        | Self::QuotaExceeded
                        | Self::PayloadFormatInvalid
                )
            }
            PacketType::PubRel | PacketType::PubComp => {
                matches!(self, Self::Success | Self::PacketIdentifierNotFound)
            }
            PacketType::SubAck => {
                matches!(
                    self,
                    Self::Success
                        | Self::GrantedQos1
                        | Self::GrantedQos2
                        | Self::SharedSubscriptionsNotSupported
                        | Self::QuotaExceeded
                        | Self::SubscriptionIdentifiersNotSupported
                        | Self::WildcardSubscriptionsNotSupported
                ) || self.is_refusal_of_a_filter()
            }
            PacketType::UnsubAck => {
                matches!(self, Self::Success | Self::NoSubscriptionExisted) || self.is_refusal_of_a_filter()
            }
            PacketType::Disconnect => self.is_allowed_in_disconnect(receiver),
            PacketType::Auth => match self {
                Self::ContinueAuthentication => true,
                Self::Success => receiver == Role::Client,
                Self::ReAuthenticate => receiver == Role::Server,
                _ => false,
            },
            _ => false,
        }
    }

    fn is_refusal_of_a_filter(self) -> bool {
        matches!(
            self,
            Self::UnspecifiedError
                | Self::ImplementationSpecificError
                | Self::NotAuthorized
                | Self::TopicFilterInvalid
                | Self::PacketIdentifierInUse
        )
    }

    /// Tells whether CONNACK may carry this code (table 3-1).
    pub fn is_allowed_in_connack(self) -> bool {
        self == Self::Success
            || self.is_error()
                && !matches!(
                    self,
                    Self::ServerShuttingDown
                        | Self::KeepAliveTimeout
                        | Self::SessionTakenOver
                        | Self::TopicFilterInvalid
                        | Self::PacketIdentifierInUse
                        | Self::PacketIdentifierNotFound
                        | Self::ReceiveMaximumExceeded
                        | Self::TopicAliasInvalid
                        | Self::MessageRateTooHigh
                        | Self::AdministrativeAction
                        | Self::SharedSubscriptionsNotSupported
                        | Self::MaximumConnectTime
                        | Self::SubscriptionIdentifiersNotSupported
                        | Self::WildcardSubscriptionsNotSupported
                )
    }

    /// Table 3-13 with its column "Sent by"; 0x8C is there by table 2-6 alone.
    fn is_allowed_in_disconnect(self, receiver: Role) -> bool {
        match self {
            Self::Success | Self::DisconnectWithWill => receiver == Role::Server,
            Self::UnspecifiedError
            | Self::MalformedPacket
            | Self::ProtocolError
            | Self::ImplementationSpecificError
            | Self::TopicNameInvalid
            | Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::PacketTooLarge
            | Self::MessageRateTooHigh
            | Self::QuotaExceeded
            | Self::AdministrativeAction
            | Self::PayloadFormatInvalid => true,
            Self::NotAuthorized
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::BadAuthenticationMethod
            | Self::KeepAliveTimeout
            | Self::SessionTakenOver
            | Self::TopicFilterInvalid
            | Self::RetainNotSupported
            | Self::QosNotSupported
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::SharedSubscriptionsNotSupported
            | Self::ConnectionRateExceeded
            | Self::MaximumConnectTime
            | Self::SubscriptionIdentifiersNotSupported
            | Self::WildcardSubscriptionsNotSupported => receiver == Role::Client,
            _ => false,
        }
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_round_trip_and_nothing_else_is_a_code() {
        let mut known = 0;
        for byte in 0..=u8::MAX {
            match ReasonCode::try_from(byte) {
                Ok(code) => {
                    known += 1;
                    assert_eq!(code as u8, byte);
                    assert_eq!(code.is_error(), byte >= 0x80);
                }
                Err(error) => assert_eq!(error, UnknownReasonCode(byte)),
            }
        }
        assert_eq!(known, ALL.len());
        assert_eq!(known, 43, "MQTT 5.0 table 2-6");
    }

    #[test]
    fn names_are_those_of_the_standard() {
        assert_eq!(ReasonCode::NotAuthorized.to_string(), "Not authorized");
        assert_eq!(ReasonCode::BadUserNameOrPassword.to_string(), "Bad User Name or Password");
        assert_eq!(UnknownReasonCode(0x7F).to_string(), "0x7F is not a reason code of MQTT 5.0");
    }

    #[test]
    fn return_codes_of_3_1_1_map_there_and_back() {
        for code in 0..=5 {
            let reason = ReasonCode::from_connect_return_code(code).unwrap();
            assert_eq!(reason.connect_return_code(), Some(code));
        }
        assert_eq!(ReasonCode::from_connect_return_code(6), None);
        assert_eq!(ReasonCode::MalformedPacket.connect_return_code(), None);
        assert_eq!(ReasonCode::ServerBusy.connect_return_code(), Some(3));
        assert_eq!(ReasonCode::Banned.connect_return_code(), Some(5));
    }

    #[test]
    fn number_of_codes_per_packet_is_that_of_the_tables() {
        let allowed = |packet, receiver| {
            ALL.iter().filter(|(reason, _)| reason.is_allowed_in(packet, receiver)).count()
        };
        assert_eq!(allowed(PacketType::ConnAck, Role::Client), 22, "table 3-1");
        assert_eq!(allowed(PacketType::PubAck, Role::Server), 9, "table 3-4");
        assert_eq!(allowed(PacketType::PubRec, Role::Server), 9, "table 3-5");
        assert_eq!(allowed(PacketType::PubRel, Role::Server), 2, "table 3-6");
        assert_eq!(allowed(PacketType::PubComp, Role::Server), 2, "table 3-7");
        assert_eq!(allowed(PacketType::SubAck, Role::Client), 12, "table 3-8");
        assert_eq!(allowed(PacketType::UnsubAck, Role::Client), 7, "table 3-9");
        assert_eq!(allowed(PacketType::Disconnect, Role::Server), 14, "table 3-13, sent by the client");
        assert_eq!(allowed(PacketType::Disconnect, Role::Client), 28, "table 3-13, sent by the server");
        assert_eq!(allowed(PacketType::Auth, Role::Server), 2, "table 3-15");
        assert_eq!(allowed(PacketType::Auth, Role::Client), 2, "table 3-15");
    }
}
