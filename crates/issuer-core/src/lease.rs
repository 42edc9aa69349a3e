//! How long a box can act alone: until the last CA it holds ends.

use crate::{AuthorityKind, CaJournal, CaRecord};
use midge_identity::UnixMillis;
use serde::Serialize;
use std::{fmt, time::Duration};

/// What ends a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseReason {
    /// Nothing: the server renews its own roots.
    OwnAuthority,
    /// The last intermediate CA from the cloud ends.
    IntermediateEnds,
    /// The last intermediate CA from the cloud has ended: nothing is issued.
    Ended,
    /// No CA has come from the cloud yet: nothing is issued.
    NoAuthority,
}

impl fmt::Display for LeaseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnAuthority => "this server is its own authority",
            Self::IntermediateEnds => "the intermediate CA from the cloud ends then",
            Self::Ended => {
                "the intermediate CA from the cloud has ended: nothing is issued until the cloud is reached"
            }
            Self::NoAuthority => {
                "no intermediate CA has come from the cloud yet: nothing is issued until then"
            }
        })
    }
}

/// How little is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseWarning {
    /// No new CA is due.
    None,
    /// A new CA is due.
    Due,
    /// At most half of what remained then, or a quarter of the CA's life: it should have come.
    Late,
    /// At most a fifth of what remained then, or a tenth of the CA's life.
    Ending,
    /// Nothing.
    Ended,
}

impl fmt::Display for LeaseWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Due => "due",
            Self::Late => "late",
            Self::Ending => "ending",
            Self::Ended => "ended",
        })
    }
}

/// How long the server can act alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// When issuing stops; unset where nothing ends it.
    pub until: Option<UnixMillis>,
    /// What is left; zero where nothing is issued, and where nothing ends it the life of the current CA.
    pub remaining: Duration,
    /// What ends it.
    pub reason: LeaseReason,
    /// How little is left of the CA's life.
    pub warning: LeaseWarning,
}

impl Lease {
    /// Works out the lease from what the slots hold.
    pub fn of(journal: &CaJournal, kind: AuthorityKind, now: UnixMillis) -> Self {
        let last = [journal.active(), journal.prepared()]
            .into_iter()
            .flatten()
            .map(|(_, ca)| ca)
            .max_by_key(|ca| ca.not_after);
        let remaining = last.map_or(Duration::ZERO, |ca| ca.not_after.since(now));
        match (kind, last) {
            (AuthorityKind::SelfSigned, _) => Self {
                until: None,
                remaining,
                reason: LeaseReason::OwnAuthority,
                warning: LeaseWarning::None,
            },
            (AuthorityKind::Upstream, None) => Self {
                until: Some(now),
                remaining,
                reason: LeaseReason::NoAuthority,
                warning: LeaseWarning::Ended,
            },
            (AuthorityKind::Upstream, Some(ca)) => Self {
                until: Some(ca.not_after),
                remaining,
                reason: if ca.is_live(now) { LeaseReason::IntermediateEnds } else { LeaseReason::Ended },
                warning: warning(ca, remaining),
            },
        }
    }

    /// Tells whether anything can be issued.
    pub fn is_ended(&self) -> bool {
        self.warning == LeaseWarning::Ended
    }
}

fn warning(ca: &CaRecord, remaining: Duration) -> LeaseWarning {
    let life = ca.lifetime();
    // A long-lived CA is renewed late in its life: no warning before that could have been done.
    let due = ca.not_after.since(ca.prepare_at());
    if remaining.is_zero() {
        LeaseWarning::Ended
    } else if remaining <= (life / 10).min(due / 5) {
        LeaseWarning::Ending
    } else if remaining <= (life / 4).min(due / 2) {
        LeaseWarning::Late
    } else if remaining <= due {
        LeaseWarning::Due
    } else {
        LeaseWarning::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;

    const START: UnixMillis = UnixMillis(1_700_000_000_000);
    const LIFE: Duration = Duration::from_secs(1000);

    fn ca(from: UnixMillis) -> CaRecord {
        CaRecord {
            certificate: Vec::new(),
            chain: Vec::new(),
            serial: String::new(),
            issued_at: from,
            not_after: from.after(LIFE),
            prepared_at: from,
            spki_sha256: String::new(),
            tainted: false,
        }
    }

    fn active() -> CaJournal {
        CaJournal::default().with_prepared(Slot::A, ca(START)).unwrap().with_activated(Slot::A).unwrap()
    }

    fn upstream(journal: &CaJournal, after_secs: u64) -> Lease {
        Lease::of(journal, AuthorityKind::Upstream, START.after(Duration::from_secs(after_secs)))
    }

    #[test]
    fn a_box_without_a_ca_can_do_nothing() {
        let lease = upstream(&CaJournal::default(), 0);
        assert_eq!((lease.reason, lease.warning), (LeaseReason::NoAuthority, LeaseWarning::Ended));
        assert!(lease.is_ended() && lease.remaining.is_zero());
    }

    #[test]
    fn warnings_come_at_half_a_quarter_and_a_tenth() {
        let journal = active();
        for (after, warning) in [
            (0, LeaseWarning::None),
            (499, LeaseWarning::None),
            (500, LeaseWarning::Due),
            (749, LeaseWarning::Due),
            (750, LeaseWarning::Late),
            (899, LeaseWarning::Late),
            (900, LeaseWarning::Ending),
            (999, LeaseWarning::Ending),
            (1000, LeaseWarning::Ended),
            (2000, LeaseWarning::Ended),
        ] {
            let lease = upstream(&journal, after);
            assert_eq!(lease.warning, warning, "{after}");
            assert_eq!(lease.until, Some(START.after(LIFE)));
            assert_eq!(lease.remaining, Duration::from_secs(1000_u64.saturating_sub(after)));
        }
        assert_eq!(upstream(&journal, 999).reason, LeaseReason::IntermediateEnds);
        assert_eq!(upstream(&journal, 1000).reason, LeaseReason::Ended);
    }

    #[test]
    fn a_prepared_ca_makes_the_lease_longer() {
        let journal = active().with_prepared(Slot::B, ca(START.after(LIFE / 2))).unwrap();
        let lease = upstream(&journal, 600);
        assert_eq!(lease.until, Some(START.after(LIFE * 3 / 2)));
        assert_eq!(lease.warning, LeaseWarning::None);
    }

    #[test]
    fn an_authority_of_its_own_has_no_end() {
        let lease = Lease::of(&active(), AuthorityKind::SelfSigned, START.after(LIFE * 2));
        assert_eq!(
            (lease.until, lease.reason, lease.warning),
            (None, LeaseReason::OwnAuthority, LeaseWarning::None)
        );
        assert!(!lease.is_ended());
    }
}
