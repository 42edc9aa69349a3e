//! Nodes, and which of their certificates count.
//!
//! A node that renews has two keys for a while: the answer may be lost, so the old one counts until the new one is
//! shown. From then on, and from another join on, it is worth nothing, however long its certificate lives.

use crate::{JoinError, entry::spiffe_id_text, fingerprint, template::BACKDATE};
use midge_identity::{CertificateFacts, Proof, SpiffeId, UnixMillis, VerifiedPeer};
use serde::{Deserialize, Serialize};

/// A node that has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its identity.
    #[serde(with = "spiffe_id_text")]
    pub id: SpiffeId,
    /// How it was attested: `join_token`; `admin_socket` for an agent beside a box, which is known once it was banned.
    pub attestation_type: String,
    /// SHA-256 of the spent token, lower-case hex.
    pub token_sha256: String,
    /// SHA-256 of the public key (SPKI) that came with the token, lower-case hex.
    pub spki_sha256: String,
    /// When it joined.
    pub joined_at: UnixMillis,
    /// Serial of its current SVID, lower-case hex; empty before the first.
    #[serde(default)]
    pub svid_serial: String,
    /// SHA-256 of that SVID's public key (SPKI), lower-case hex; empty in records of servers that did not note it.
    #[serde(default)]
    pub svid_spki_sha256: String,
    /// End of its current SVID.
    #[serde(default)]
    pub svid_not_after: UnixMillis,
    /// When the newest SVID was signed that this server knows of.
    #[serde(default)]
    pub svid_issued: UnixMillis,
    /// SVID with another key that was signed since and has not been shown yet.
    #[serde(default)]
    pub svid_next: Option<NodeSvid>,
    /// End of its newest intermediate CA; 0 before the first.
    #[serde(default)]
    pub ca_not_after: UnixMillis,
    /// Locked out until deleted.
    #[serde(default)]
    pub banned: bool,
}

/// An SVID that was signed for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSvid {
    /// Serial, lower-case hex.
    pub serial: String,
    /// SHA-256 of its public key (SPKI), lower-case hex.
    pub spki_sha256: String,
    /// When it was signed.
    pub issued: UnixMillis,
    /// End of its validity.
    pub not_after: UnixMillis,
}

/// What a peer has proven of a node: the key of a certificate that a root of the trust domain has signed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProof {
    pub(crate) id: SpiffeId,
    pub(crate) serial: String,
    pub(crate) spki_sha256: String,
    pub(crate) issued: UnixMillis,
    pub(crate) not_after: UnixMillis,
}

impl NodeProof {
    /// Returns what a verified peer has shown with its leaf certificate (DER).
    ///
    /// # Errors
    /// [`JoinError::NotFromRoot`] when another CA has signed it, or it is not the certificate that was verified.
    pub fn of(peer: &VerifiedPeer, leaf_der: &[u8]) -> Result<Self, JoinError> {
        let refused = || JoinError::NotFromRoot(peer.id().clone());
        let Proof::X509Svid { serial, anchor } = peer.proof() else { return Err(refused()) };
        let leaf = CertificateFacts::parse(leaf_der).map_err(|_| refused())?;
        let root = CertificateFacts::parse(anchor.der()).map_err(|_| refused())?;
        // The CA of a box may speak for the box too, and with a stolen one for what replaced it.
        if leaf.serial != **serial || leaf.issuer_der != root.subject_der {
            return Err(refused());
        }
        Ok(Self {
            id: peer.id().clone(),
            serial: leaf.serial,
            spki_sha256: fingerprint(&leaf.public_key_der),
            issued: leaf.not_before.after(BACKDATE),
            not_after: leaf.not_after,
        })
    }

    /// The node.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
}

/// How a certificate that still counts stands to what is noted.
pub(crate) enum Standing {
    /// It is the one in use, or nothing can be told that would end another.
    Known,
    /// It is newer than the one in use, which ends with it.
    New,
}

impl Node {
    pub(crate) fn joined(id: SpiffeId, token_sha256: String, spki_sha256: String, now: UnixMillis) -> Self {
        Self {
            id,
            attestation_type: "join_token".to_owned(),
            token_sha256,
            svid_spki_sha256: spki_sha256.clone(),
            spki_sha256,
            joined_at: now,
            svid_serial: String::new(),
            svid_not_after: UnixMillis::default(),
            svid_issued: now,
            svid_next: None,
            ca_not_after: UnixMillis::default(),
            banned: false,
        }
    }

    /// An agent beside a box: it has no SVID of its own.
    pub(crate) fn agent(id: SpiffeId, now: UnixMillis) -> Self {
        let attestation_type = "admin_socket".to_owned();
        Self { attestation_type, ..Self::joined(id, String::new(), String::new(), now) }
    }

    /// Tells whether what is shown counts; none when it does not.
    pub(crate) fn standing(&self, shown: &NodeProof) -> Option<Standing> {
        if self.svid_next.as_ref().is_some_and(|next| next.spki_sha256 == shown.spki_sha256) {
            return Some(Standing::New);
        }
        if self.svid_spki_sha256.is_empty() {
            return self.standing_by_serial(shown);
        }
        if self.svid_spki_sha256 == shown.spki_sha256 {
            return Some(Standing::Known);
        }
        // This store was set back to a backup: only its later states can have signed this one.
        (shown.issued.as_secs() > self.svid_issued.as_secs()).then_some(Standing::New)
    }

    /// Records of older servers have only the serial that was signed last. The node may not have got it: what was
    /// signed before, but for this node and none that had its name earlier, counts until the newer one is shown.
    fn standing_by_serial(&self, shown: &NodeProof) -> Option<Standing> {
        if self.svid_serial == shown.serial {
            return Some(Standing::New);
        }
        (shown.issued.as_secs() >= self.joined_at.as_secs()).then_some(Standing::Known)
    }

    /// The node after it has shown its certificate, if that changes anything.
    pub(crate) fn after_showing(&self, shown: &NodeProof) -> Option<Self> {
        let Some(Standing::New) = self.standing(shown) else { return None };
        Some(Self {
            svid_serial: shown.serial.clone(),
            svid_spki_sha256: shown.spki_sha256.clone(),
            svid_not_after: shown.not_after,
            svid_issued: self.svid_issued.max(shown.issued),
            svid_next: None,
            ..self.clone()
        })
    }

    /// Takes in an SVID that was signed for the node: with the key in use it replaces the one in use at once.
    pub fn handle_signed(&mut self, signed: NodeSvid) {
        self.svid_issued = self.svid_issued.max(signed.issued);
        if self.svid_spki_sha256 == signed.spki_sha256 {
            self.svid_serial = signed.serial;
            self.svid_not_after = signed.not_after;
        } else {
            self.svid_next = Some(signed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Enrolment, JoinError};
    use std::sync::Arc;
    use std::time::Duration;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_500);

    fn id() -> SpiffeId {
        SpiffeId::new("spiffe://plant/edge/box").unwrap()
    }

    fn proof(key: &str, issued: UnixMillis) -> NodeProof {
        let serial = format!("serial of {key}");
        NodeProof { id: id(), serial, spki_sha256: key.to_owned(), issued, not_after: issued.after(DAY) }
    }

    fn svid(key: &str, issued: UnixMillis) -> NodeSvid {
        let proof = proof(key, issued);
        NodeSvid { serial: proof.serial, spki_sha256: proof.spki_sha256, issued, not_after: proof.not_after }
    }

    const DAY: Duration = Duration::from_secs(86_400);

    /// A node that joined with `key`.
    fn joined(key: &str) -> Enrolment {
        let mut node = Node::joined(id(), "token".to_owned(), key.to_owned(), NOW);
        node.handle_signed(svid(key, NOW));
        let mut enrolment = Enrolment::default();
        enrolment.put_node(Arc::new(node));
        enrolment
    }

    fn refused(enrolment: &Enrolment, shown: &NodeProof) {
        assert_eq!(enrolment.admitted(shown), Err(JoinError::NotActive(id())));
        assert!(
            enrolment.plan_shown(shown).is_err() && enrolment.plan_signed(shown, svid("x", NOW)).is_err()
        );
    }

    fn show(enrolment: &mut Enrolment, shown: &NodeProof) -> bool {
        let planned = enrolment.plan_shown(shown).unwrap();
        planned.map(|node| enrolment.put_node(node)).is_some()
    }

    #[test]
    fn two_keys_count_between_a_renewal_and_its_first_use_and_no_third() {
        let mut enrolment = joined("one");
        let (one, two) = (proof("one", NOW), proof("two", NOW.after(DAY)));
        assert!(!show(&mut enrolment, &one), "nothing to note");
        for key in ["lost", "two"] {
            enrolment.put_node(enrolment.plan_signed(&one, svid(key, NOW.after(DAY))).unwrap());
        }
        refused(&enrolment, &proof("lost", NOW.after(DAY)));
        assert!(!show(&mut enrolment, &one));
        assert!(show(&mut enrolment, &two));
        refused(&enrolment, &one);
        let node = enrolment.find(&id()).unwrap();
        assert_eq!((node.svid_serial.as_str(), &node.svid_next), ("serial of two", &None));
        assert_eq!(node.svid_not_after, two.not_after);
    }

    #[test]
    fn a_renewal_without_a_new_key_counts_at_once() {
        let mut enrolment = joined("one");
        let mut again = svid("one", NOW.after(DAY));
        again.serial = "another".to_owned();
        enrolment.put_node(enrolment.plan_signed(&proof("one", NOW), again).unwrap());
        let node = enrolment.find(&id()).unwrap();
        assert_eq!((node.svid_serial.as_str(), &node.svid_next), ("another", &None));
        assert!(!show(&mut enrolment, &proof("one", NOW)));
    }

    #[test]
    fn a_new_key_that_renews_at_once_counts_from_there() {
        let mut enrolment = joined("one");
        enrolment.put_node(enrolment.plan_signed(&proof("one", NOW), svid("two", NOW.after(DAY))).unwrap());
        let two = proof("two", NOW.after(DAY));
        enrolment.put_node(enrolment.plan_signed(&two, svid("three", NOW.after(DAY))).unwrap());
        refused(&enrolment, &proof("one", NOW));
        assert!(!show(&mut enrolment, &two));
    }

    #[test]
    fn an_unknown_key_counts_only_if_it_is_newer_than_all_that_is_known() {
        let mut enrolment = joined("one");
        let second = Duration::from_secs(1);
        for issued in [NOW.before(DAY), NOW, UnixMillis(NOW.0 + 499)] {
            refused(&enrolment, &proof("other", issued));
        }
        let newer = proof("newer", NOW.after(second));
        assert!(show(&mut enrolment, &newer), "the store was set back");
        refused(&enrolment, &proof("one", NOW));
        refused(&enrolment, &proof("other", NOW.after(second)));
    }

    #[test]
    fn records_of_older_servers_are_read_and_newer_ones_survive() {
        let older = r#"{"id":"spiffe://plant/edge/box","attestation_type":"join_token","token_sha256":"token",
            "spki_sha256":"one","joined_at":1700000000500,"svid_serial":"serial of two","svid_not_after":1,
            "ca_not_after":2,"banned":false}"#;
        let node: Node = serde_json::from_str(older).unwrap();
        let mut enrolment = Enrolment::default();
        enrolment.put_node(Arc::new(node));
        refused(&enrolment, &proof("one", NOW.before(DAY)));
        // Whole seconds: a certificate has no finer ones.
        let first = proof("one", UnixMillis(1_700_000_000_000));
        assert!(!show(&mut enrolment, &first), "what was signed last may have been lost");
        assert!(show(&mut enrolment, &proof("two", NOW.after(DAY))));
        refused(&enrolment, &first);

        let planned = enrolment.plan_signed(&proof("two", NOW), svid("three", NOW.after(DAY))).unwrap();
        let read: Node = serde_json::from_slice(&serde_json::to_vec(&*planned).unwrap()).unwrap();
        assert!(read.svid_next.is_some());
        assert_eq!(read, *planned);
    }
}
