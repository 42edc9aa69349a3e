//! What the lists of a rule do.

/// What a rule does to the topics of one of its lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// `publish`.
    Publish,
    /// `subscribe`: to subscribe to and to receive.
    Subscribe,
    /// `receive`.
    Receive,
    /// `subscribe-literal`.
    SubscribeLiteral,
    /// `deny-publish`.
    DenyPublish,
    /// `deny-subscribe`.
    DenySubscribe,
    /// `deny-receive`.
    DenyReceive,
    /// `deny-subscribe-literal`.
    DenySubscribeLiteral,
}

impl Effect {
    /// Returns the key of the list.
    pub fn key(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
            Self::SubscribeLiteral => "subscribe-literal",
            Self::DenyPublish => "deny-publish",
            Self::DenySubscribe => "deny-subscribe",
            Self::DenyReceive => "deny-receive",
            Self::DenySubscribeLiteral => "deny-subscribe-literal",
        }
    }

    /// Tells whether it denies.
    pub fn is_deny(self) -> bool {
        matches!(
            self,
            Self::DenyPublish | Self::DenySubscribe | Self::DenyReceive | Self::DenySubscribeLiteral
        )
    }
}
