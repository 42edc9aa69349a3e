//! Where the broker is, and by what kind of connection.

use crate::exit::{self, failure};
use std::fmt;

const TLS_PORT: u16 = 8883;
const TCP_PORT: u16 = 1883;

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// mTLS with an X.509-SVID.
    Tls { host: String, port: u16 },
    /// Plaintext on loopback; the kernel names the client.
    Tcp { host: String, port: u16 },
    /// A Unix socket; the kernel names the client.
    Unix(String),
}

impl Address {
    /// Parses `mqtts://host:port`, `mqtt://host:port` or `unix:///path`.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let wrong = |why: &str| {
            let forms = "write mqtts://host:port, mqtt://host:port or unix:///path";
            failure(exit::USAGE, format!("--broker \"{text}\": {why}; {forms}"))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let host_and_port =
            |default| host_and_port(rest, default).ok_or_else(|| wrong("host or port is not valid"));
        match scheme {
            "mqtts" => host_and_port(TLS_PORT).map(|(host, port)| Self::Tls { host, port }),
            "mqtt" => host_and_port(TCP_PORT).map(|(host, port)| Self::Tcp { host, port }),
            "unix" if rest.len() > 1 && rest.starts_with('/') => Ok(Self::Unix(rest.to_owned())),
            "unix" => Err(wrong("the path is not absolute")),
            _ => Err(wrong("the scheme is not known")),
        }
    }
}

fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']')? {
            (host, "") => (host, None),
            (host, rest) => (host, Some(rest.strip_prefix(':')?)),
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(default), |port| port.parse().ok())?;
    let valid = !host.is_empty() && !host.contains(['/', '@', '?', ' ']);
    valid.then(|| (host.to_owned(), port))
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Tls { host, port } => ("mqtts", host, port),
            Self::Tcp { host, port } => ("mqtt", host, port),
            Self::Unix(path) => return write!(formatter, "unix://{path}"),
        };
        if host.contains(':') {
            write!(formatter, "{scheme}://[{host}]:{port}")
        } else {
            write!(formatter, "{scheme}://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_shown_again() {
        for (text, shown) in [
            ("mqtts://box-1.example:8884", "mqtts://box-1.example:8884"),
            ("mqtts://box-1.example", "mqtts://box-1.example:8883"),
            ("mqtt://127.0.0.1/", "mqtt://127.0.0.1:1883"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
            ("mqtts://[::1]", "mqtts://[::1]:8883"),
            ("unix:///run/midge/mqtt.sock", "unix:///run/midge/mqtt.sock"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
        let host = "::1".to_owned();
        assert_eq!(Address::parse("mqtts://[::1]:1").unwrap(), Address::Tls { host, port: 1 });
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_forms_there_are() {
        for text in [
            "",
            "127.0.0.1:1883",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://host:port",
            "mqtt://host:70000",
            "mqtt://user@host",
            "mqtt://::1",
            "mqtt://[::1",
            "mqtt://[::1]1883",
            "http://host",
            "unix://relative",
            "unix:///",
            "tls://host:1",
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{text}\"")) && error.contains("unix:///path"), "{error}");
        }
    }
}
