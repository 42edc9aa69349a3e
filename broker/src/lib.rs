//! The MQTT server: listeners, TLS, connections and audit.
