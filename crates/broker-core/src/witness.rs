//! Who watches decisions as they are made, without a say in them.

use crate::broker::Broker;
use crate::session::{Session, mode_of};
use crate::slab::Key;
use midge_identity::SpiffeId;
use midge_policy::{Context, Question, Rights};
use std::fmt;
use std::sync::Arc;

/// Who asked, over what connection, and with which rights.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The identity.
    pub identity: &'a Arc<SpiffeId>,
    /// The connection, or the last one of its session.
    pub context: Context<'a>,
    /// What it may do now.
    pub rights: &'a Rights,
}

/// Is told of decisions: each publication, each will, each filter of a SUBSCRIBE, and each receiver of a topic
/// when it is worked out whom the topic reaches or a retained message is handed out.
///
/// Called in the middle of an input: it must not wait.
pub trait Witness: fmt::Debug + Send {
    /// Takes note of a decision.
    fn decided(&mut self, asker: &Asker<'_>, question: &Question<'_>, allowed: bool);
}

/// How far [`Broker::tell_standing`] has come.
#[derive(Clone, Copy, Debug)]
pub struct Told(Key);

impl Session {
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker { identity: &self.identity, context: self.context(), rights: &self.rights }
    }
}

impl Broker {
    /// Puts a witness in place of the one before; without one, decisions cost nothing more.
    pub fn set_witness(&mut self, witness: Option<Box<dyn Witness>>) {
        self.authority.witness = witness;
        // What is remembered was decided before it came.
        self.subscriptions.touch();
    }

    /// Tells a witness of what sessions were granted before it came, a number of sessions at a time: their
    /// subscriptions, and their wills. Returns where to go on, if it is not done.
    pub fn tell_standing(
        &mut self,
        witness: &mut dyn Witness,
        after: Option<Told>,
        count: usize,
    ) -> Option<Told> {
        let keys: Vec<Key> = self.sessions.keys_after(after.map(|told| told.0), count);
        for key in &keys {
            let Some(session) = self.sessions.get_mut(*key) else { continue };
            session.rights(&mut self.authority);
            let asker = session.asker();
            for subscribed in session.subscriptions.values() {
                let (filter, qos) = (&subscribed.filter, subscribed.requested);
                let mode = mode_of(session.listener.as_deref(), filter);
                witness.decided(&asker, &Question::Subscribe { filter, qos, mode }, true);
            }
            if let Some(will) = session.connection().and_then(|connection| connection.will.as_ref()) {
                let (topic, facts) = (&will.message.topic, crate::authority::facts(&will.message));
                witness.decided(&asker, &Question::Will { topic, facts }, true);
            }
        }
        keys.last().copied().filter(|_| keys.len() == count).map(Told)
    }
}
