//! Rules, decisions and exact containment for MQTT authorization.
