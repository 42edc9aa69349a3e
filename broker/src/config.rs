//! Section `[mqtt]` as an operator writes it; what its caps mean is in `limits.rs`.

use crate::LimitsConfig;
use broker_core::{DeniedPublish, Durability};
use midge_policy::SubscribeMode;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Section `[mqtt]` of the edge's configuration: where the broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MqttConfig {
    /// Address of the mTLS listener; `off` means none.
    #[serde(with = "address_or_off")]
    pub tls: Option<SocketAddr>,
    /// Address of the kernel-attested plaintext listener: loopback only; `off` means none.
    #[serde(with = "address_or_off")]
    pub tcp: Option<SocketAddr>,
    /// Path of the kernel-attested Unix socket; `off` means none.
    #[serde(with = "path_or_off")]
    pub unix: Option<PathBuf>,
    /// Address of the mTLS listener for MQTT over WebSocket; `off` means none.
    #[serde(with = "address_or_off")]
    pub websocket_tls: Option<SocketAddr>,
    /// Address of the kernel-attested listener for MQTT over WebSocket: loopback only; `off` means none.
    #[serde(with = "address_or_off")]
    pub websocket_loopback: Option<SocketAddr>,
    /// Origins of the web pages that may connect over WebSocket, such as `https://hmi.example`.
    pub websocket_origins: Vec<String>,
    /// Other trust domains whose identities may connect with an X.509-SVID while their bundles are here, such as
    /// `other.org`. Rules decide what they may do.
    pub federates_with: Vec<String>,
    /// Threads that connections live on. More than one use more processors for TLS, and more processor time
    /// for each message.
    pub threads: u16,
    /// Connections at one time, all listeners together.
    pub connections_max: u32,
    /// Peers that have not sent their CONNECT at one time.
    pub arrivals_max: u32,
    /// Steps of TLS handshakes computed at one time; further ones wait.
    pub handshakes_max: u16,
    /// Seconds a peer has for TLS handshake, upgrade and CONNECT together.
    pub connect_timeout_secs: u16,
    /// Seconds a client may take none of what it is sent.
    pub unread_timeout_secs: u16,
    /// Seconds between publications of `$SYS`; 0 means none.
    pub sys_interval_secs: u16,
    /// Largest packet accepted, in bytes.
    pub packet_size_max: u32,
    /// Longest keep alive accepted, in seconds; 0 means the client's own choice.
    pub keep_alive_max_secs: u16,
    /// First levels of the Response Information; empty tells it to nobody.
    pub response_prefix: String,
    /// What sessions, their messages, retained messages and wills survive.
    pub durability: Durability,
    /// What becomes of retained messages whose publisher lost the right to them.
    pub retained_without_right: LostRetained,
    /// What a denied PUBLISH of an MQTT 3.1.1 client leads to: its acknowledgements cannot say no.
    pub denied_publish_v311: DeniedPublish,
    /// What becomes of subscriptions that are allowed in part, by listener.
    pub subscribe_mode: SubscribeModes,
    /// What is kept for clients, and how much of it.
    pub limits: LimitsConfig,
}

/// What becomes of retained messages whose publisher lost the right to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LostRetained {
    /// They are kept, and handed out again when the right is given back.
    #[default]
    Withhold,
    /// They are removed.
    Purge,
}

/// Section `[mqtt.subscribe-mode]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SubscribeModes {
    /// On the mTLS listener.
    pub tls: SubscribeMode,
    /// On the loopback listener.
    pub tcp: SubscribeMode,
    /// On the WebSocket listener over mTLS.
    pub websocket_tls: SubscribeMode,
    /// On the WebSocket listener on loopback.
    pub websocket_loopback: SubscribeMode,
    /// On the Unix socket.
    pub unix: SubscribeMode,
}

impl SubscribeModes {
    /// Returns the mode of the listener that rules know by a name; where there is none, what each has unless it says
    /// otherwise.
    pub fn on(&self, listener: &str) -> SubscribeMode {
        match listener {
            "tls" => self.tls,
            "tcp" => self.tcp,
            "websocket-tls" => self.websocket_tls,
            "websocket-loopback" => self.websocket_loopback,
            "unix" => self.unix,
            _ => SubscribeMode::default(),
        }
    }
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            tls: Some(SocketAddr::from(([0, 0, 0, 0], 8883))),
            tcp: Some(SocketAddr::from(([127, 0, 0, 1], 1883))),
            unix: None,
            websocket_tls: None,
            websocket_loopback: None,
            websocket_origins: Vec::new(),
            federates_with: Vec::new(),
            connections_max: 20_000,
            arrivals_max: 4_096,
            threads: 1,
            handshakes_max: 4,
            connect_timeout_secs: 10,
            unread_timeout_secs: 60,
            sys_interval_secs: 10,
            packet_size_max: 1_048_576,
            keep_alive_max_secs: 0,
            response_prefix: "response".into(),
            durability: Durability::ProcessCrash,
            retained_without_right: LostRetained::default(),
            denied_publish_v311: DeniedPublish::default(),
            subscribe_mode: SubscribeModes::default(),
            limits: LimitsConfig::default(),
        }
    }
}

/// An address, or `off`: TOML has no word for nothing.
mod address_or_off {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::net::SocketAddr;

    pub(super) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(None);
        }
        let fault =
            || format!("\"{text}\" is not an address; write IP:PORT, such as \"127.0.0.1:1883\", or \"off\"");
        text.parse().map(Some).map_err(|_| D::Error::custom(fault()))
    }
}

/// A path, or `off`, as for the other listeners.
mod path_or_off {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::path::PathBuf;

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => serializer.collect_str(&path.display()),
            None => serializer.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "off" => Ok(None),
            "" => Err(D::Error::custom(
                "\"\" is not a path; write one such as \"/run/midge/mqtt.sock\", or \"off\"",
            )),
            _ => Ok(Some(text.into())),
        }
    }
}
