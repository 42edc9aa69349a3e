//! The server on real sockets: every way in, what clients are told, and peers that mean no good.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod client;
#[cfg(test)]
mod durable;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod house;
#[cfg(test)]
mod large;
#[cfg(test)]
mod sys;
#[cfg(test)]
mod websocket;
