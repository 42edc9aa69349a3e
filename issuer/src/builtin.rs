//! Identities of the server's own parts, such as the MQTT broker: issued and rotated without entries.

use crate::{error::IssueError, issuer::Issuer, sign::SvidOrder, witness::Cause};
use issuer_core::{signed_by, template::Subject};
use midge_identity::{SpiffeId, UnixMillis};
use midge_pki::{CurrentIdentity, PrivateKey, SvidIdentity};
use std::{collections::BTreeSet, sync::Arc};

pub(crate) struct Builtin {
    pub(crate) id: SpiffeId,
    holder: Arc<CurrentIdentity>,
    /// Half of the SVID's life; the past before the first.
    renew_at: UnixMillis,
    /// Authority that signed it.
    signed_by: Option<String>,
}

impl Builtin {
    fn due_at(&self, good: &BTreeSet<String>) -> UnixMillis {
        let is_good = self.signed_by.as_ref().is_none_or(|authority| good.contains(authority));
        if is_good { self.renew_at } else { UnixMillis::default() }
    }
}

impl Issuer {
    /// Returns an identity of the server's own, such as its MQTT broker's, kept fresh by [`crate::run`]. It is empty
    /// until there is a CA.
    ///
    /// # Errors
    /// It is not one of this trust domain, or signing fails for another reason than a missing CA.
    pub fn builtin_identity(&self, id: &SpiffeId) -> Result<Arc<CurrentIdentity>, IssueError> {
        let foreign = || IssueError::Foreign(id.clone());
        if !id.is_member_of(self.trust_domain()) || id.path().is_empty() {
            return Err(foreign());
        }
        {
            let mut builtin = self.shared.builtin.lock();
            if let Some(known) = builtin.iter().find(|known| known.id == *id) {
                return Ok(Arc::clone(&known.holder));
            }
            builtin.push(Builtin {
                id: id.clone(),
                holder: Arc::new(CurrentIdentity::new()),
                renew_at: UnixMillis::default(),
                signed_by: None,
            });
        }
        match self.renew_builtin() {
            Ok(()) | Err(IssueError::NoAuthority(_) | IssueError::CaExpired(_)) => {}
            Err(error) => return Err(error),
        }
        let builtin = self.shared.builtin.lock();
        let known = builtin.iter().find(|known| known.id == *id);
        known.map(|known| Arc::clone(&known.holder)).ok_or_else(foreign)
    }

    /// Signs anew what is past half its life, or was signed by a CA that is tainted.
    pub(crate) fn renew_builtin(&self) -> Result<(), IssueError> {
        let (now, good) = (self.now(), self.good_authorities());
        let mut builtin = self.shared.builtin.lock();
        for known in builtin.iter_mut().filter(|known| known.due_at(&good) <= now) {
            let key = Arc::new(PrivateKey::generate()?);
            let order = SvidOrder {
                id: known.id.clone(),
                dns_names: Vec::new(),
                subject: Subject::svid(&[]),
                ttl: self.shared.config.svid_ttl,
                cause: Cause::Builtin,
            };
            let svid = self.sign_order(order, &key.public_key_der())?;
            known.signed_by = svid.chain.first().and_then(|leaf| signed_by(leaf));
            let chain = svid.chain.into_iter().map(Into::into).collect();
            known.holder.set(SvidIdentity::new(chain, key)?);
            known.renew_at = now.after(svid.expires.since(now) / 2);
        }
        Ok(())
    }

    /// Returns when the next of them is past half its life.
    pub(crate) fn builtin_due(&self) -> Option<UnixMillis> {
        let good = self.good_authorities();
        self.shared.builtin.lock().iter().map(|known| known.due_at(&good)).min()
    }

    fn good_authorities(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.shared.state.read().good)
    }
}
