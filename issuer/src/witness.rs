//! Whoever is told what the server has done: an audit log.

use crate::mutation::Mutation;
use crate::sign::SignedSvid;
use issuer_core::{Bundle, CaJournal};
use midge_identity::{SpiffeId, UnixMillis};
use midge_runtime::Actor;

/// Is told what has happened. Must neither block nor call the server.
pub trait Witness: Send + Sync {
    /// Called after a change is durable and visible, before it is answered.
    fn changed(&self, changed: &Changed<'_>);

    /// Called after a certificate was signed.
    fn issued(&self, issued: &Issued<'_>);
}

/// A change.
#[derive(Debug)]
pub struct Changed<'a> {
    /// What changed.
    pub mutations: &'a [Mutation],
    /// The CA journal before; unset when it has not changed.
    pub journal_before: Option<&'a CaJournal>,
    /// The roots of the own trust domain before; unset when they have not changed.
    pub bundle_before: Option<&'a Bundle>,
    /// Who asked for it; unset for the server itself and for the cloud.
    pub actor: Option<&'a Actor>,
}

/// A certificate.
#[derive(Debug)]
pub struct Issued<'a> {
    /// Its identity.
    pub id: &'a SpiffeId,
    /// Its serial, lower-case hex.
    pub serial: &'a str,
    /// End of its validity.
    pub expires: UnixMillis,
    /// What for.
    pub cause: &'a Cause,
    /// Who asked for it, where that came through the admin socket.
    pub actor: Option<Actor>,
}

/// What a certificate was signed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A registration entry, by its ID.
    Entry(String),
    /// An operator, by hand.
    Minted,
    /// A node that joined.
    Node,
    /// A part of the server's own process.
    Builtin,
    /// A box: an intermediate CA.
    Intermediate,
}

impl<'a> Issued<'a> {
    pub(crate) fn svid(svid: &'a SignedSvid, cause: &'a Cause) -> Self {
        let SignedSvid { id, serial, expires, .. } = svid;
        Self { id, serial, expires: *expires, cause, actor: Actor::current() }
    }
}
