//! The policy in force, the rights it gives by identity, and who has been revoked.

use crate::message::{Message, Origin};
use crate::session::Session;
use crate::witness::{Asker, Witness};
use midge_identity::SpiffeId;
use midge_policy::{
    Context, Denial, Policy, Principal, PublishFacts, Question, Rights, SubscribeMode, Touched,
};
use mqtt_proto::Publication;
use std::collections::HashMap;
use std::sync::Arc;

/// Identities whose rules are remembered; beyond it all are forgotten and asked for again.
const REMEMBERED_MAX: usize = 16_384;

/// What a connection owes to the listener that took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Name that rules know it by, such as `tls`.
    pub name: Arc<str>,
    /// What becomes of a SUBSCRIBE that is allowed in part.
    pub subscribe_mode: SubscribeMode,
}

/// A policy to be put in force, and whose rights it changes: worked out by whoever brings it, as it may cost
/// more than others should have to wait for.
#[derive(Debug)]
pub struct PolicyChange {
    from: Arc<Policy>,
    to: Arc<Policy>,
    touched: Touched,
}

impl PolicyChange {
    /// Compares a policy with the one in force.
    pub fn between(from: Arc<Policy>, to: Arc<Policy>) -> Self {
        let touched = to.touched_since(&from);
        Self { from, to, touched }
    }
}

/// An identity that is about to connect, and the policy in force: what it may do is worked out by whoever brings it, as
/// that may cost more than others should have to wait for.
#[derive(Debug)]
pub struct Newcomer {
    identity: Arc<SpiffeId>,
    policy: Arc<Policy>,
    /// Its rules, if they have been looked up.
    principal: Option<Arc<Principal>>,
}

impl Newcomer {
    /// Works out what it may do as this client on this listener.
    #[must_use]
    pub fn prepared(mut self, listener: &Listener, client_id: &str) -> Self {
        let context = Context { client_id: Some(client_id), listener: Some(&listener.name) };
        let Self { identity, policy, principal } = &mut self;
        principal.get_or_insert_with(|| Arc::new(policy.principal(identity))).rights(context);
        self
    }
}

/// Who may do what, now.
#[derive(Debug)]
pub(crate) struct Authority {
    policy: Arc<Policy>,
    /// Counts policies: what was decided under another is decided again.
    generation: u64,
    /// Counts policies and revocations: what was accepted under another count is asked for again before it
    /// is released.
    revision: u64,
    /// Whom the policy in force touched.
    touched: Touched,
    /// Identities with their rules, and under which count these were looked at last.
    principals: HashMap<Arc<SpiffeId>, (u64, Arc<Principal>)>,
    /// Identities whose messages of before this revision are dead.
    revoked: HashMap<Arc<SpiffeId>, u64>,
    /// Who is told of decisions.
    pub(crate) witness: Option<Box<dyn Witness>>,
}

/// Why a message must not be released.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// Its receiver may not read it.
    Receiver(Denial),
    /// Its publisher may not publish it.
    Publisher(Denial),
    /// Its publisher was revoked since.
    Revoked,
}

impl Authority {
    pub(crate) fn new(policy: Arc<Policy>) -> Self {
        Self {
            touched: policy.touched_since(&policy),
            policy,
            generation: 0,
            revision: 1,
            principals: HashMap::new(),
            revoked: HashMap::new(),
            witness: None,
        }
    }

    /// Tells the witness, if there is one, what was decided about a session.
    pub(crate) fn tell(&mut self, session: &Session, question: &Question<'_>, allowed: bool) {
        if self.witness.is_some() {
            self.tell_of(&session.asker(), question, allowed);
        }
    }

    pub(crate) fn tell_of(&mut self, asker: &Asker<'_>, question: &Question<'_>, allowed: bool) {
        if let Some(witness) = &mut self.witness {
            witness.decided(asker, question, allowed);
        }
    }

    pub(crate) fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    pub(crate) fn touched(&self) -> &Touched {
        &self.touched
    }

    /// Puts a policy in force and returns the one before.
    pub(crate) fn replace(&mut self, change: PolicyChange) -> Arc<Policy> {
        let PolicyChange { from, to, touched } = change;
        self.generation += 1;
        self.revision += 1;
        let is_of_this = Arc::ptr_eq(&from, &self.policy);
        self.touched = if is_of_this { touched } else { to.touched_since(&self.policy) };
        std::mem::replace(&mut self.policy, to)
    }

    /// Declares dead what the identity has published so far.
    pub(crate) fn revoke(&mut self, identity: Arc<SpiffeId>) {
        self.revision += 1;
        self.revoked.insert(identity, self.revision);
    }

    /// Forgets revocations up to a revision: nothing is left of what they concern.
    pub(crate) fn forget_revoked(&mut self, revision: u64) {
        self.revoked.retain(|_, at| *at > revision);
    }

    pub(crate) fn has_revoked(&self) -> bool {
        !self.revoked.is_empty()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Tells whether an identity may have other rights than under an earlier count.
    pub(crate) fn is_touched(&self, identity: &SpiffeId, since: u64) -> bool {
        since != self.generation && (since + 1 != self.generation || self.touched.touches(identity))
    }

    /// Returns the rules of an identity, if they have been looked up and are the same still.
    fn principal(&self, identity: &SpiffeId) -> Option<&Arc<Principal>> {
        let (of, principal) = self.principals.get(identity)?;
        (!self.is_touched(identity, *of)).then_some(principal)
    }

    /// Returns what is to be worked out before an identity connects; nothing where that is known.
    pub(crate) fn newcomer(&self, identity: &Arc<SpiffeId>) -> Option<Newcomer> {
        let principal = self.principal(identity).cloned();
        let is_known = principal.as_ref().is_some_and(|principal| !principal.depends_on_connection());
        let (identity, policy) = (Arc::clone(identity), Arc::clone(&self.policy));
        (!is_known).then_some(Newcomer { identity, policy, principal })
    }

    /// Takes what was worked out, unless there is another policy meanwhile.
    pub(crate) fn take_newcomer(&mut self, newcomer: Newcomer) {
        let Newcomer { identity, policy, principal: Some(principal) } = newcomer else { return };
        if Arc::ptr_eq(&policy, &self.policy) && self.principal(&identity).is_none() {
            self.remember(&identity, principal);
        }
    }

    fn remember(&mut self, identity: &Arc<SpiffeId>, principal: Arc<Principal>) {
        if !self.principals.contains_key(identity) && self.principals.len() >= REMEMBERED_MAX {
            self.principals.clear();
        }
        self.principals.insert(Arc::clone(identity), (self.generation, principal));
    }

    pub(crate) fn rights(&mut self, identity: &Arc<SpiffeId>, context: Context<'_>) -> Arc<Rights> {
        let known = self.principal(identity).cloned();
        let principal = known.unwrap_or_else(|| Arc::new(self.policy.principal(identity)));
        let rights = principal.rights(context);
        self.remember(identity, principal);
        rights
    }

    /// Tells whether a message was published by an identity that was revoked since.
    pub(crate) fn is_dead(&self, message: &Message) -> bool {
        let Origin::Client { identity, .. } = message.origin() else { return false };
        message.revision != self.revision
            && self.revoked.get(identity).is_some_and(|at| message.revision < *at)
    }

    /// Asks whether the publisher of a message still has the right to it, as the client and on the listener
    /// that it came by.
    ///
    /// # Errors
    /// When it lost it.
    pub(crate) fn recheck_origin(&mut self, message: &Message) -> Result<(), Obstacle> {
        let Origin::Client { identity, client_id, listener, will, .. } = message.origin() else {
            return Ok(());
        };
        if message.revision == self.revision {
            return Ok(());
        }
        if self.is_dead(message) {
            return Err(Obstacle::Revoked);
        }
        let context = Context { client_id: Some(client_id), listener: listener.as_deref() };
        let (rights, publication) = (self.rights(identity, context), message.publication());
        let decide = if *will { Rights::will } else { Rights::publish };
        decide(&rights, &publication.topic, facts(publication)).map(|_| ()).map_err(Obstacle::Publisher)
    }
}

/// Returns what policy asks about a publication.
pub(crate) fn facts(publication: &Publication) -> PublishFacts<'_> {
    PublishFacts {
        qos: publication.qos,
        retain: publication.retain,
        payload_len: publication.payload.len(),
        response_topic: publication.properties.as_ref().and_then(|p| p.response_topic.as_ref()),
    }
}
