//! The identity server with real stores, keys and sockets, on a clock that the tests move.
#![cfg(test)]

mod admin;
mod authority;
mod federation;
mod nodes;
mod place;
mod rotation;
mod server;
