//! What a peer may make the decoder allocate.

/// Caps the decoder enforces before it allocates.
///
/// The wire is denser than memory: five bytes of a user property become two shared strings, four bytes of a
/// SUBSCRIBE one filter. A cap on packet bytes alone would leave the peer a lever of about twenty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole packet, fixed header included, as Maximum Packet Size counts (MQTT 5.0 §3.1.2.11.4).
    pub packet_bytes_max: usize,
    /// Bytes of a CONNECT, whose sender has no session yet; `packet_bytes_max` applies too.
    pub connect_bytes_max: usize,
    /// Bytes of one property block.
    pub properties_bytes_max: usize,
    /// User properties in one property block.
    pub user_properties_max: usize,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_max: usize,
    /// Levels of a topic name or filter; deep topics cost matching time in every server (CVE-2021-34432 and kin).
    pub topic_levels_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1 << 20,
            connect_bytes_max: 128 << 10,
            properties_bytes_max: 64 << 10,
            user_properties_max: 64,
            filters_max: 1024,
            topic_levels_max: 128,
        }
    }
}
