//! What others see of the server: one immutable picture after each change.

use issuer_core::{Lease, LeaseWarning, RegistrationEntry, Slot};
use midge_identity::{BundleSet, SpiffeId, TrustDomain, UnixMillis};
use serde::Serialize;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Degraded {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// The server's entries and trust at one moment. A later view has a higher revision.
#[derive(Clone, Debug)]
pub struct IssuerView {
    /// Goes up with each view; starts anew with the process.
    pub revision: u64,
    /// Trust domain it issues for.
    pub trust_domain: TrustDomain,
    /// All entries in the order of their IDs.
    pub entries: Arc<Vec<Arc<RegistrationEntry>>>,
    /// Roots by trust domain, those of others too; their revision is the own bundle's sequence number.
    pub bundles: Arc<BundleSet>,
    /// IDs of the authorities whose SVIDs may be kept until they are due: one of any other is to be signed anew.
    pub good_authorities: Arc<BTreeSet<String>>,
    /// Nodes that are banned: what is registered below them alone does not stand.
    pub banned: Arc<BTreeSet<SpiffeId>>,
    /// Until when the server can act alone, as of the view's making.
    pub lease: Lease,
    /// Empty when all is well.
    pub degraded: Vec<Degraded>,
}

impl IssuerView {
    /// Tells whether a newer view would show anything else. The time left is not part of it.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        !Arc::ptr_eq(&self.entries, &other.entries)
            || !Arc::ptr_eq(&self.bundles, &other.bundles)
            || !Arc::ptr_eq(&self.banned, &other.banned)
            || !Arc::ptr_eq(&self.good_authorities, &other.good_authorities)
            || self.lease.until != other.lease.until
            || self.lease.warning != other.lease.warning
            || self.degraded != other.degraded
    }
}

/// The CA that signs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSnapshot {
    /// Lower-case hex.
    pub serial: String,
    /// End of its validity.
    pub not_after: UnixMillis,
    /// Slot of its key.
    pub slot: Slot,
    /// Whether the next CA is ready.
    pub prepared: bool,
}

/// The server at this moment.
#[derive(Clone, Debug)]
pub struct IssuerSnapshot {
    /// Until when the server can act alone.
    pub lease: Lease,
    /// The CA that signs; unset before the first.
    pub ca: Option<CaSnapshot>,
    /// Number of entries.
    pub entries: usize,
    /// Number of nodes.
    pub nodes: usize,
    /// Empty when all is well.
    pub degraded: Vec<Degraded>,
}

pub(crate) fn lease_trouble(lease: &Lease) -> Option<Degraded> {
    let left = whole(lease.remaining);
    let what = match lease.warning {
        // At half, the renewal is due and may be under way.
        LeaseWarning::None | LeaseWarning::Due => return None,
        LeaseWarning::Late => {
            format!("the CA was not renewed in time: the box can act alone for another {left}")
        }
        LeaseWarning::Ending => format!("the lease is nearly over: the box can act alone for another {left}"),
        LeaseWarning::Ended => lease.reason.to_string(),
    };
    Some(Degraded { what, remedy: "restore the connection to the cloud".to_owned() })
}

pub(crate) fn clock_trouble(behind: Duration) -> Degraded {
    Degraded {
        what: format!("clock is behind by {}: it is before the last time saved", whole(behind)),
        remedy:
            "set the system clock; where the saved time is what is wrong, docs/operations.md (troubleshooting) \
                 says how to forget it"
                .to_owned(),
    }
}

fn whole(duration: Duration) -> String {
    match duration.as_secs() {
        secs @ 0..=119 => format!("{secs} s"),
        secs @ 120..=7199 => format!("{} min", secs / 60),
        secs @ 7200..=172_799 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}
