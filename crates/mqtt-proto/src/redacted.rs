//! `Debug` of the packets that carry credentials, without them.

use crate::packet::{Auth, Connect};
use bytes::Bytes;
use std::fmt::{Debug, Formatter, Result};

/// A secret as a log may show it: whether it is there and how long it is.
struct Redacted<'a>(&'a Option<Bytes>);

impl Debug for Redacted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            Some(secret) => write!(f, "Some({} secret bytes)", secret.len()),
            None => f.write_str("None"),
        }
    }
}

impl Debug for Connect {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_secs", &self.keep_alive_secs)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("password", &Redacted(&self.password))
            .field("session_expiry_secs", &self.session_expiry_secs)
            .field("receive_max", &self.receive_max)
            .field("packet_size_max", &self.packet_size_max)
            .field("topic_alias_max", &self.topic_alias_max)
            .field("request_response_info", &self.request_response_info)
            .field("request_problem_info", &self.request_problem_info)
            .field("user_properties", &self.user_properties)
            .field("auth_method", &self.auth_method)
            .field("auth_data", &Redacted(&self.auth_data))
            .finish()
    }
}

impl Debug for Auth {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Auth")
            .field("reason", &self.reason)
            .field("method", &self.method)
            .field("data", &Redacted(&self.data))
            .field("info", &self.info)
            .finish()
    }
}
