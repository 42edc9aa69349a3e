//! The policy in force and the rights it gives, by identity.

use midge_identity::SpiffeId;
use midge_policy::{Denial, Policy, PublishFacts, Rights};
use mqtt_proto::Publication;
use std::collections::HashMap;
use std::sync::Arc;

use crate::message::{Message, Origin};

/// Identities whose rights are remembered; beyond it all are forgotten and asked again.
const REMEMBERED_MAX: usize = 16_384;

/// The policy in force.
#[derive(Debug)]
pub(crate) struct Authority {
    policy: Arc<Policy>,
    /// Counts policy changes: what was decided under another count is decided again.
    generation: u64,
    rights: HashMap<Arc<SpiffeId>, Arc<Rights>>,
}

impl Authority {
    pub(crate) fn new(policy: Arc<Policy>) -> Self {
        Self { policy, generation: 0, rights: HashMap::new() }
    }

    pub(crate) fn replace(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
        self.generation += 1;
        self.rights.clear();
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn rights(&mut self, identity: &Arc<SpiffeId>) -> Arc<Rights> {
        if let Some(rights) = self.rights.get(identity) {
            return Arc::clone(rights);
        }
        if self.rights.len() >= REMEMBERED_MAX {
            self.rights.clear();
        }
        let rights = self.policy.rights(identity);
        self.rights.insert(Arc::clone(identity), Arc::clone(&rights));
        rights
    }

    /// Asks whether the publisher of a message still has the right to it.
    ///
    /// # Errors
    /// When it lost it.
    pub(crate) fn recheck_origin(&mut self, message: &Message) -> Result<(), Denial> {
        let Origin::Client { identity, will, .. } = message.origin() else { return Ok(()) };
        if message.generation == self.generation {
            return Ok(());
        }
        let (rights, publication) = (self.rights(identity), message.publication());
        let decide = if *will { Rights::will } else { Rights::publish };
        decide(&rights, &publication.topic, facts(publication)).map(|_| ())
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
