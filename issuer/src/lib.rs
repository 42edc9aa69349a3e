//! The identity server: entries, tokens, signing and SPIRE's admin API.
