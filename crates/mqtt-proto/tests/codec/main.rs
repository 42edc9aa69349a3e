//! The codec from outside: exact bytes, captured bytes, malformed bytes, and what holds for all packets.

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod captured;
#[cfg(test)]
mod exact;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod notation;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod text;
