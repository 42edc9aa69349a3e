//! The MQTT client of the box: device membership, state and twin.
