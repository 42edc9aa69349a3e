//! Identity, MQTT and twins for device mappers.
