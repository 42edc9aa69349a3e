//! Scripted clients against the core in virtual time: what goes in, and exactly what comes out.
//!
//! Names and comments carry the clauses of MQTT 5.0 (`[MQTT-x.y.z-n]`) and the flaw classes (`F1`…) that
//! a test is about. Every denial has a twin that is allowed.

#[cfg(test)]
mod acknowledge;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod attacker;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod broker_time;
#[cfg(test)]
mod clockwork;
#[cfg(test)]
mod connect;
#[cfg(test)]
mod disconnect;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod exchanges;
#[cfg(test)]
mod failed_once;
#[cfg(test)]
mod farewell;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod flaws;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod in_flight;
#[cfg(test)]
mod information;
#[cfg(test)]
mod lent;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod looks;
#[cfg(test)]
mod model;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod order;
#[cfg(test)]
mod overflow;
#[cfg(test)]
mod packets;
#[cfg(test)]
mod passage;
#[cfg(test)]
mod passing;
mod passing_acks;
mod passing_shared;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod portions;
#[cfg(test)]
mod publish;
mod put_off;
#[cfg(test)]
mod quotas;
#[cfg(test)]
mod random;
#[cfg(test)]
mod rates;
#[cfg(test)]
mod record;
mod replay;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod retained;
#[cfg(test)]
mod review;
#[cfg(test)]
mod revoked;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod roots;
#[cfg(test)]
mod seen;
#[cfg(test)]
mod session;
#[cfg(test)]
mod shared;
#[cfg(test)]
mod spelling;
#[cfg(test)]
mod stall;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod subscribe;
#[cfg(test)]
mod svid;
#[cfg(test)]
mod sys;
#[cfg(test)]
mod tally;
#[cfg(test)]
mod will;
#[cfg(test)]
mod wire;
#[cfg(test)]
mod witness;
#[cfg(test)]
mod world;
