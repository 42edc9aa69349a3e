//! Signing: SVIDs for entries, by hand, for nodes; intermediates for boxes.

use crate::witness::{Cause, Issued};
use crate::{enrol::node_svid, error::IssueError, issuer::Issuer, mutation::Mutation};
use issuer_core::{
    EntryError, LeaseReason, NodeProof, check_dns_name, check_workload, limits,
    template::{CaTemplate, Subject, SvidTemplate, Validity, serial},
};
use midge_identity::{SpiffeId, UnixMillis, is_node, node_of, scope_of};
use midge_pki::{CaSigner, Csr, CsrSubject, provider};
use midge_runtime::Actor;
use midge_store::Batch;
use std::{sync::Arc, time::Duration};

/// An X.509-SVID as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedSvid {
    /// Identity of the leaf.
    pub id: SpiffeId,
    /// Leaf first, then intermediates; DER.
    pub chain: Vec<Vec<u8>>,
    /// Serial of the leaf, lower-case hex.
    pub serial: String,
    /// When it was signed.
    pub issued: UnixMillis,
    /// End of its validity.
    pub expires: UnixMillis,
}

/// An intermediate CA as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCa {
    /// CA certificate first, then those above it without the root; DER.
    pub chain: Vec<Vec<u8>>,
    /// Roots of the trust domain; DER.
    pub roots: Vec<Vec<u8>>,
    /// End of its validity.
    pub expires: UnixMillis,
}

/// The CA that signs now.
pub(crate) struct SigningCa {
    pub(crate) signer: CaSigner,
    /// What follows the leaf in a chain.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// An SVID to be signed.
pub(crate) struct SvidOrder {
    pub(crate) id: SpiffeId,
    pub(crate) dns_names: Vec<String>,
    pub(crate) subject: Subject,
    pub(crate) ttl: Duration,
    pub(crate) cause: Cause,
}

impl Issuer {
    /// Signs an SVID for an entry, which ends with the entry at the latest. The CSR conveys only the key.
    ///
    /// # Errors
    /// There is no such entry, it has ended, the CSR is wrong, or no CA can sign.
    pub fn sign_svid(&self, entry_id: &str, csr_der: &[u8]) -> Result<SignedSvid, IssueError> {
        let csr = Csr::parse(csr_der)?;
        let entry = self.entry(entry_id)?;
        let ttl = match entry.x509_svid_ttl_secs {
            0 => self.shared.config.svid_ttl,
            secs => Duration::from_secs(u64::from(secs)),
        };
        let now = self.now();
        if entry.has_ended(now) {
            return Err(EntryError::Ended.into());
        }
        let ttl = entry.ends().map_or(ttl, |end| ttl.min(end.since(now)));
        let order = SvidOrder {
            id: entry.spiffe_id.clone(),
            dns_names: entry.dns_names.clone(),
            subject: Subject::svid(&entry.dns_names),
            ttl,
            cause: Cause::Entry(entry_id.to_owned()),
        };
        self.sign_order(order, csr.public_key_spki())
    }

    /// Signs an SVID by hand, without an entry: the CSR conveys key, SPIFFE ID, DNS names and subject.
    ///
    /// # Errors
    /// The CSR is wrong, its ID is not a workload's, the lifetime is no lifetime, or no CA can sign.
    pub fn mint_svid(&self, csr_der: &[u8], ttl: Option<Duration>) -> Result<SignedSvid, IssueError> {
        let csr = Csr::parse(csr_der)?;
        let id = csr.spiffe_id().ok_or(IssueError::CsrWithoutId)?;
        check_workload(self.trust_domain(), id)?;
        for name in csr.dns_names() {
            check_dns_name(name).map_err(|fault| IssueError::CsrDnsName { name: name.clone(), fault })?;
        }
        let ttl = ttl.unwrap_or(self.shared.config.svid_ttl);
        if ttl < Duration::from_secs(1) || ttl > limits::SVID_TTL_MAX {
            return Err(IssueError::Ttl(ttl.as_secs()));
        }
        let order = SvidOrder {
            id: id.clone(),
            dns_names: csr.dns_names().to_vec(),
            subject: minted_subject(csr.subject(), csr.dns_names()),
            ttl,
            cause: Cause::Minted,
        };
        self.sign_order(order, csr.public_key_spki())
    }

    /// Renews the SVID of a node that has joined. What it shows counts until it shows the new one.
    ///
    /// # Errors
    /// The node is unknown or banned, what it shows counts no more, the CSR is wrong, or no CA can sign.
    pub async fn sign_node_svid(&self, shown: &NodeProof, csr_der: &[u8]) -> Result<SignedSvid, IssueError> {
        let csr = Csr::parse(csr_der)?;
        self.admitted_node(shown)?;
        let svid = self.sign_order(self.node_order(shown.id()), csr.public_key_spki())?;
        let (shown, signed) = (shown.clone(), node_svid(&svid, csr.public_key_spki()));
        self.commit(Batch::new(), move |state| {
            let node = state.enrolment.plan_signed(&shown, signed)?;
            Ok((vec![Mutation::Node(node)], ()))
        })
        .await?;
        Ok(svid)
    }

    /// Signs an intermediate CA for a box that has joined; it may speak only for `/edge/<node>/`.
    ///
    /// # Errors
    /// The box is unknown or banned, what it shows counts no more, the CSR is wrong, or no CA can sign.
    pub async fn sign_intermediate(
        &self,
        csr_der: &[u8],
        shown: &NodeProof,
        preferred_ttl: Option<Duration>,
    ) -> Result<SignedCa, IssueError> {
        self.admitted_node(shown)?;
        let signed = self.sign_ca_for(shown.id(), csr_der, preferred_ttl)?;
        let (shown, expires) = (shown.clone(), signed.expires);
        self.commit(Batch::new(), move |state| {
            state.enrolment.admitted(&shown)?;
            let node = state.enrolment.plan_node(shown.id(), |node| node.ca_not_after = expires)?;
            Ok((vec![Mutation::Node(node)], ()))
        })
        .await?;
        Ok(signed)
    }

    fn sign_ca_for(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        preferred_ttl: Option<Duration>,
    ) -> Result<SignedCa, IssueError> {
        let csr = Csr::parse(csr_der)?;
        let scope = scope_of(id).ok_or_else(|| IssueError::NotABox(id.clone()))?;
        let ca = self.signing_ca()?;
        let now = self.now();
        let most = self.shared.config.intermediate_ttl;
        let ttl = preferred_ttl.filter(|ttl| !ttl.is_zero()).map_or(most, |ttl| ttl.min(most));
        let validity = Validity::capped(now, ttl, ca.signer.not_after())?;
        // Only a root signs for boxes: its subject follows from its serial.
        let parent = CaTemplate::root(self.trust_domain().clone(), ca_serial(&ca), validity);
        let template = CaTemplate::downstream(
            &parent,
            ca.chain.len().saturating_add(1),
            serial(random_bytes()?),
            validity,
            scope,
        );
        let mut chain = vec![ca.signer.sign_ca(&template, csr.public_key_spki())?];
        if let Some(witness) = &self.shared.config.witness {
            let (serial, cause, actor) =
                (serial_text(template.serial), Cause::Intermediate, Actor::current());
            let expires = template.not_after;
            witness.issued(&Issued { id, serial: &serial, expires, cause: &cause, actor });
        }
        chain.extend(ca.chain.iter().cloned());
        let roots =
            self.shared.state.read().bundle.roots().iter().map(|root| root.certificate.clone()).collect();
        Ok(SignedCa { chain, roots, expires: template.not_after })
    }

    pub(crate) fn node_order(&self, id: &SpiffeId) -> SvidOrder {
        let subject = match node_of(id) {
            Some(name) if is_node(id) => Subject::node(name),
            Some(_) | None => Subject::svid(&[]),
        };
        let ttl = self.shared.config.node_svid_ttl;
        SvidOrder { id: id.clone(), dns_names: Vec::new(), subject, ttl, cause: Cause::Node }
    }

    pub(crate) fn sign_order(&self, order: SvidOrder, spki: &[u8]) -> Result<SignedSvid, IssueError> {
        let ca = self.signing_ca()?;
        let cause = order.cause.clone();
        let svid = sign_with(&ca, order, spki, self.now())?;
        if let Some(witness) = &self.shared.config.witness {
            witness.issued(&Issued::svid(&svid, &cause));
        }
        Ok(svid)
    }

    fn signing_ca(&self) -> Result<Arc<SigningCa>, IssueError> {
        let signing = self.shared.signing.read().clone();
        match signing {
            Some(ca) if self.now() < ca.signer.not_after() => Ok(ca),
            Some(_) => Err(IssueError::NoAuthority(LeaseReason::Ended)),
            None => Err(IssueError::NoAuthority(LeaseReason::NoAuthority)),
        }
    }
}

pub(crate) fn sign_with(
    ca: &SigningCa,
    order: SvidOrder,
    spki: &[u8],
    now: UnixMillis,
) -> Result<SignedSvid, IssueError> {
    let validity = Validity::capped(now, order.ttl, ca.signer.not_after())?;
    let template = SvidTemplate {
        spiffe_id: order.id.clone(),
        dns_names: order.dns_names,
        subject: order.subject,
        serial: serial(random_bytes()?),
        not_before: validity.not_before,
        not_after: validity.not_after,
    };
    let leaf = ca.signer.sign_svid(&template, spki)?;
    let mut chain = vec![leaf];
    chain.extend(ca.chain.iter().cloned());
    Ok(SignedSvid {
        id: order.id,
        chain,
        serial: serial_text(template.serial),
        issued: now,
        expires: template.not_after,
    })
}

/// Writes a serial as certificates' facts have it: lower-case hex as encoded in DER.
pub(crate) fn serial_text(serial: [u8; 16]) -> String {
    let number = u128::from_be_bytes(serial);
    let text = format!("{number:x}");
    let even = if text.len() % 2 == 1 { format!("0{text}") } else { text };
    // DER puts a zero byte before a high bit.
    if even.as_bytes().first().is_some_and(|first| *first >= b'8') { format!("00{even}") } else { even }
}

pub(crate) fn random_bytes() -> Result<[u8; 16], IssueError> {
    let mut bytes = [0; 16];
    provider().secure_random.fill(&mut bytes).map_err(|_| IssueError::Random)?;
    Ok(bytes)
}

fn ca_serial(ca: &SigningCa) -> [u8; 16] {
    let number = u128::from_str_radix(&ca.signer.facts().serial, 16).unwrap_or(1);
    number.to_be_bytes()
}

fn minted_subject(asked: &CsrSubject, dns_names: &[String]) -> Subject {
    let default = Subject::svid(dns_names);
    if asked.organization.is_none() && asked.common_name.is_none() {
        return default;
    }
    Subject {
        organization: asked.organization.clone(),
        common_name: dns_names.first().cloned().or_else(|| asked.common_name.clone()),
        ..Subject::default()
    }
}
