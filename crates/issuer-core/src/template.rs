//! What goes into certificates: SVIDs, downstream CAs and self-signed roots.
//!
//! Owns every value of the certificate body that is policy. Leaves encoding, key identifiers and
//! signatures to `pki/`.

use midge_identity::{SpiffeId, TrustDomain, UnixMillis};
use std::time::Duration;

/// How far notBefore lies in the past, for peers whose clock is a little slow.
pub const BACKDATE: Duration = Duration::from_secs(10);

/// Subject name of a certificate. Attributes are written in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// C.
    pub country: Option<String>,
    /// O.
    pub organization: Option<String>,
    /// OU.
    pub organizational_unit: Option<String>,
    /// CN.
    pub common_name: Option<String>,
    /// serialNumber (2.5.4.5).
    pub serial_number: Option<String>,
}

impl Subject {
    /// Returns the subject of an X.509-SVID: C=US, O=SPIRE, and the first DNS name as CN.
    pub fn svid(dns_names: &[String]) -> Self {
        Self { common_name: dns_names.first().cloned(), ..named("SPIRE") }
    }

    /// Returns the subject of a node's SVID, in the form KubeEdge's CloudCore reads the node's name from.
    pub fn node(name: &str) -> Self {
        Self {
            organization: Some("system:nodes".to_owned()),
            common_name: Some(format!("system:node:{name}")),
            ..Self::default()
        }
    }

    /// Returns the subject of a root: C=US, O=SPIFFE and its own serial.
    pub fn root(serial: [u8; 16]) -> Self {
        // Roots of one subject are tried one after the other: Go gives up after 100 (spire #4585).
        Self { serial_number: Some(u128::from_be_bytes(serial).to_string()), ..named("SPIFFE") }
    }

    /// Returns the subject of a CA signed by this subject, `depth` certificates below the root.
    #[must_use]
    pub fn downstream(&self, depth: usize) -> Self {
        Self { organizational_unit: Some(format!("DOWNSTREAM-{depth}")), ..self.clone() }
    }
}

fn named(organization: &str) -> Subject {
    Subject {
        country: Some("US".to_owned()),
        organization: Some(organization.to_owned()),
        ..Subject::default()
    }
}

/// Body of an X.509-SVID: cA=false, digitalSignature + keyEncipherment + keyAgreement, serverAuth + clientAuth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidTemplate {
    /// The only URI SAN.
    pub spiffe_id: SpiffeId,
    /// DNS SANs.
    pub dns_names: Vec<String>,
    /// Never empty, so that the SAN need not be critical.
    pub subject: Subject,
    /// Big-endian, never zero.
    pub serial: [u8; 16],
    /// Start of validity.
    pub not_before: UnixMillis,
    /// End of validity, never after the issuing CA's.
    pub not_after: UnixMillis,
}

/// Body of a CA certificate: cA=true, keyCertSign + cRLSign, URI SAN `spiffe://<trust domain>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaTemplate {
    /// Trust domain of the URI SAN.
    pub trust_domain: TrustDomain,
    /// Subject name.
    pub subject: Subject,
    /// Big-endian, never zero.
    pub serial: [u8; 16],
    /// Start of validity.
    pub not_before: UnixMillis,
    /// End of validity, never after the issuing CA's.
    pub not_after: UnixMillis,
    /// Issuer scope: path prefix such as `/edge/box-1/` under which this CA may speak; everywhere if unset.
    pub scope: Option<String>,
}

/// The issuing CA can sign nothing: its own life is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the issuing CA expired at {} (seconds since the epoch)", .not_after.as_secs())]
pub struct CaExpired {
    /// End of the CA's validity.
    pub not_after: UnixMillis,
}

/// Validity of one certificate, in whole seconds as X.509 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Ten seconds before now.
    pub not_before: UnixMillis,
    /// Now and the lifetime, capped.
    pub not_after: UnixMillis,
}

impl Validity {
    /// Returns the validity of a certificate made now that shall live for `ttl`, capped to the end of its issuer.
    ///
    /// # Errors
    /// The issuer has already ended.
    pub fn capped(now: UnixMillis, ttl: Duration, issuer_ends: UnixMillis) -> Result<Self, CaExpired> {
        if issuer_ends <= now {
            return Err(CaExpired { not_after: issuer_ends });
        }
        Ok(Self {
            not_before: whole_seconds(now.before(BACKDATE)),
            not_after: whole_seconds(now.after(ttl).min(issuer_ends)),
        })
    }

    /// Returns the validity of a root made now.
    pub fn of_root(now: UnixMillis, ttl: Duration) -> Self {
        Self { not_before: whole_seconds(now.before(BACKDATE)), not_after: whole_seconds(now.after(ttl)) }
    }
}

/// Turns random bytes into a serial number in 1..2^128-1.
pub fn serial(random: [u8; 16]) -> [u8; 16] {
    u128::from_be_bytes(random).max(1).to_be_bytes()
}

impl CaTemplate {
    /// Returns the body of a self-signed root.
    pub fn root(trust_domain: TrustDomain, serial: [u8; 16], validity: Validity) -> Self {
        Self {
            trust_domain,
            subject: Subject::root(serial),
            serial,
            not_before: validity.not_before,
            not_after: validity.not_after,
            scope: None,
        }
    }

    /// Returns the body of an intermediate CA under a parent, which may speak only below `scope`.
    pub fn downstream(
        parent: &Self,
        depth: usize,
        serial: [u8; 16],
        validity: Validity,
        scope: String,
    ) -> Self {
        Self {
            trust_domain: parent.trust_domain.clone(),
            subject: parent.subject.downstream(depth),
            serial,
            not_before: validity.not_before,
            not_after: validity.not_after,
            scope: Some(scope),
        }
    }
}

const fn whole_seconds(time: UnixMillis) -> UnixMillis {
    UnixMillis::from_secs(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_500);

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn svid_is_backdated_ten_seconds_and_lives_its_ttl() {
        let validity = Validity::capped(NOW, Duration::from_secs(3600), UnixMillis(u64::MAX)).unwrap();
        assert_eq!(validity.not_before, UnixMillis(1_699_999_990_000));
        assert_eq!(validity.not_after, UnixMillis(1_700_003_600_000));
    }

    #[test]
    fn svid_never_outlives_its_ca() {
        let ca_ends = UnixMillis(1_700_000_060_000);
        let validity = Validity::capped(NOW, Duration::from_secs(3600), ca_ends).unwrap();
        assert_eq!(validity.not_after, ca_ends);
    }

    #[test]
    fn an_expired_ca_signs_nothing() {
        for ends in [NOW, NOW.before(Duration::from_millis(1)), UnixMillis(0)] {
            assert_eq!(
                Validity::capped(NOW, Duration::from_secs(1), ends),
                Err(CaExpired { not_after: ends })
            );
        }
        assert!(Validity::capped(NOW, Duration::from_secs(1), NOW.after(Duration::from_millis(1))).is_ok());
    }

    #[test]
    fn serial_is_never_zero() {
        assert_eq!(serial([0; 16]), 1_u128.to_be_bytes());
        assert_eq!(serial([0xff; 16]), [0xff; 16]);
        assert_eq!(serial([7; 16]), [7; 16]);
    }

    #[test]
    fn svid_subject_is_spires_with_the_first_dns_name_as_cn() {
        assert_eq!(
            Subject::svid(&[]),
            Subject { country: text("US"), organization: text("SPIRE"), ..Subject::default() }
        );
        let names = ["a.example".to_owned(), "b.example".to_owned()];
        assert_eq!(Subject::svid(&names).common_name, text("a.example"));
    }

    #[test]
    fn node_subject_is_kubeedges() {
        let subject = Subject::node("box-1");
        assert_eq!(subject.organization, text("system:nodes"));
        assert_eq!(subject.common_name, text("system:node:box-1"));
        assert_eq!(subject.country, None);
    }

    #[test]
    fn root_carries_its_serial_in_the_subject() {
        let trust_domain = TrustDomain::new("plant").unwrap();
        let root = CaTemplate::root(
            trust_domain,
            258_u128.to_be_bytes(),
            Validity::of_root(NOW, Duration::from_secs(9)),
        );
        assert_eq!(root.subject.organization, text("SPIFFE"));
        assert_eq!(root.subject.serial_number, text("258"));
        assert_eq!(root.scope, None);
        assert_eq!(root.not_after, UnixMillis(1_700_000_009_000));
    }

    #[test]
    fn downstream_copies_the_parents_subject_and_says_its_depth() {
        let trust_domain = TrustDomain::new("plant").unwrap();
        let validity = Validity::of_root(NOW, Duration::from_secs(9));
        let root = CaTemplate::root(trust_domain, [1; 16], validity);
        let child = CaTemplate::downstream(&root, 1, [2; 16], validity, "/edge/box-1/".to_owned());
        assert_eq!(child.subject.organizational_unit, text("DOWNSTREAM-1"));
        assert_eq!(child.subject.serial_number, root.subject.serial_number);
        assert_eq!(child.subject.country, text("US"));
        assert_eq!(child.scope, text("/edge/box-1/"));
        assert_eq!(child.trust_domain, root.trust_domain);
    }
}
