//! The 27 properties of MQTT 5.0 and where each may stand (table 2-4).

macro_rules! properties {
    ($($name:ident = $id:literal, $text:literal;)*) => {
        /// A property of MQTT 5.0 (§2.2.2.2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Property {
            $(#[doc = $text] $name = $id,)*
        }

        impl Property {
            pub(crate) fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Returns the name the standard gives this property.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        #[cfg(test)]
        const ALL: &[Property] = &[$(Property::$name),*];
    };
}

properties! {
    PayloadFormatIndicator = 0x01, "Payload Format Indicator";
    MessageExpiryInterval = 0x02, "Message Expiry Interval";
    ContentType = 0x03, "Content Type";
    ResponseTopic = 0x08, "Response Topic";
    CorrelationData = 0x09, "Correlation Data";
    SubscriptionIdentifier = 0x0B, "Subscription Identifier";
    SessionExpiryInterval = 0x11, "Session Expiry Interval";
    AssignedClientIdentifier = 0x12, "Assigned Client Identifier";
    ServerKeepAlive = 0x13, "Server Keep Alive";
    AuthenticationMethod = 0x15, "Authentication Method";
    AuthenticationData = 0x16, "Authentication Data";
    RequestProblemInformation = 0x17, "Request Problem Information";
    WillDelayInterval = 0x18, "Will Delay Interval";
    RequestResponseInformation = 0x19, "Request Response Information";
    ResponseInformation = 0x1A, "Response Information";
    ServerReference = 0x1C, "Server Reference";
    ReasonString = 0x1F, "Reason String";
    ReceiveMaximum = 0x21, "Receive Maximum";
    TopicAliasMaximum = 0x22, "Topic Alias Maximum";
    TopicAlias = 0x23, "Topic Alias";
    MaximumQos = 0x24, "Maximum QoS";
    RetainAvailable = 0x25, "Retain Available";
    UserProperty = 0x26, "User Property";
    MaximumPacketSize = 0x27, "Maximum Packet Size";
    WildcardSubscriptionAvailable = 0x28, "Wildcard Subscription Available";
    SubscriptionIdentifierAvailable = 0x29, "Subscription Identifier Available";
    SharedSubscriptionAvailable = 0x2A, "Shared Subscription Available";
}

/// Where a property block stands: in a packet of this type, or before the will in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Connect,
    Will,
    ConnAck,
    Publish,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    Ack,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Auth,
}

impl Property {
    pub(crate) fn is_allowed_in(self, place: Place) -> bool {
        match self {
            Self::PayloadFormatIndicator
            | Self::MessageExpiryInterval
            | Self::ContentType
            | Self::ResponseTopic
            | Self::CorrelationData => matches!(place, Place::Publish | Place::Will),
            Self::SubscriptionIdentifier => matches!(place, Place::Publish | Place::Subscribe),
            Self::TopicAlias => place == Place::Publish,
            Self::WillDelayInterval => place == Place::Will,
            Self::RequestProblemInformation | Self::RequestResponseInformation => place == Place::Connect,
            Self::SessionExpiryInterval => {
                matches!(place, Place::Connect | Place::ConnAck | Place::Disconnect)
            }
            Self::ReceiveMaximum | Self::TopicAliasMaximum | Self::MaximumPacketSize => {
                matches!(place, Place::Connect | Place::ConnAck)
            }
            Self::AuthenticationMethod | Self::AuthenticationData => {
                matches!(place, Place::Connect | Place::ConnAck | Place::Auth)
            }
            Self::AssignedClientIdentifier
            | Self::ServerKeepAlive
            | Self::ResponseInformation
            | Self::MaximumQos
            | Self::RetainAvailable
            | Self::WildcardSubscriptionAvailable
            | Self::SubscriptionIdentifierAvailable
            | Self::SharedSubscriptionAvailable => place == Place::ConnAck,
            Self::ServerReference => matches!(place, Place::ConnAck | Place::Disconnect),
            Self::ReasonString => {
                matches!(place, Place::ConnAck | Place::Ack | Place::Disconnect | Place::Auth)
            }
            Self::UserProperty => true,
        }
    }
}

impl std::fmt::Display for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_table_2_4() {
        let allowed = |place| ALL.iter().filter(|property| property.is_allowed_in(place)).count();
        assert_eq!(ALL.len(), 27);
        assert_eq!(allowed(Place::Connect), 9);
        assert_eq!(allowed(Place::Will), 7);
        assert_eq!(allowed(Place::ConnAck), 17);
        assert_eq!(allowed(Place::Publish), 8);
        assert_eq!(allowed(Place::Ack), 2);
        assert_eq!(allowed(Place::Subscribe), 2);
        assert_eq!(allowed(Place::Unsubscribe), 1);
        assert_eq!(allowed(Place::Disconnect), 4);
        assert_eq!(allowed(Place::Auth), 4);
    }

    #[test]
    fn ids_fit_the_bit_set_of_the_reader_and_read_back() {
        for property in ALL {
            assert!((*property as u8) < 64);
            assert_eq!(Property::from_id(u32::from(*property as u8)), Some(*property));
        }
        assert_eq!(Property::from_id(0), None);
        assert_eq!(Property::from_id(0x2B), None);
    }
}
