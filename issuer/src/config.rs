//! What an identity server is told at start.

use crate::{MutationLog, Witness};
use issuer_core::{AuthorityKind, EntryRules};
use midge_identity::{SpiffeId, SpiffeIdError, TrustDomain, node_id};
use midge_policy::Rule;
use std::{fmt, sync::Arc, time::Duration};

/// Where the server's CA certificates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Its own roots: a cloud, or a box without one.
    SelfSigned,
    /// Intermediates that the cloud signs: an edge box.
    Upstream,
}

impl Authority {
    pub(crate) fn kind(self) -> AuthorityKind {
        match self {
            Self::SelfSigned => AuthorityKind::SelfSigned,
            Self::Upstream => AuthorityKind::Upstream,
        }
    }
}

/// Settings of one identity server. [`IssuerConfig::new`] gives SPIRE's defaults.
#[derive(Clone)]
pub struct IssuerConfig {
    /// Trust domain it issues for.
    pub trust_domain: TrustDomain,
    /// Where its CA certificates come from.
    pub authority: Authority,
    /// Name of the box it runs on; unset at the cloud.
    pub node: Option<String>,
    /// Life of its own roots, or the life it asks the cloud for.
    pub ca_ttl: Duration,
    /// Life of X.509-SVIDs whose entry says nothing.
    pub svid_ttl: Duration,
    /// Life of the SVIDs that nodes get from a cloud.
    pub node_svid_ttl: Duration,
    /// Longest life of the intermediates that boxes get from a cloud.
    pub intermediate_ttl: Duration,
    /// Takes part in every commit of a change.
    pub mutation_log: Option<Arc<dyn MutationLog>>,
    /// Is told what has happened.
    pub witness: Option<Arc<dyn Witness>>,
}

impl IssuerConfig {
    /// Returns the defaults: CA 24 h, SVIDs 1 h, nodes' SVIDs 24 h, intermediates 24 h.
    pub fn new(trust_domain: TrustDomain, authority: Authority, node: Option<String>) -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            trust_domain,
            authority,
            node,
            ca_ttl: day,
            svid_ttl: Duration::from_secs(3600),
            node_svid_ttl: day,
            intermediate_ttl: day,
            mutation_log: None,
            witness: None,
        }
    }

    /// Returns the ID of the box the server runs on, if it runs on one.
    ///
    /// # Errors
    /// The name cannot be a segment of an ID.
    pub fn node_id(&self) -> Result<Option<SpiffeId>, SpiffeIdError> {
        self.node.as_deref().map(|node| node_id(&self.trust_domain, node)).transpose()
    }

    pub(crate) fn entry_rules(&self) -> EntryRules {
        // A box that is its own root signs without a scope; only boxes below a cloud are held to one.
        let standalone = self.authority == Authority::SelfSigned && self.node.is_some();
        EntryRules {
            trust_domain: self.trust_domain.clone(),
            boxes_are_scoped: !standalone,
            cloud_is_elsewhere: self.authority == Authority::Upstream,
            own_node: self.node.clone(),
            grant_fault: |filter| Rule::grant_fault(filter).map(|fault| fault.to_string()),
        }
    }
}

impl fmt::Debug for IssuerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerConfig")
            .field("trust_domain", &self.trust_domain)
            .field("authority", &self.authority)
            .field("node", &self.node)
            .field("ca_ttl", &self.ca_ttl)
            .field("svid_ttl", &self.svid_ttl)
            .finish_non_exhaustive()
    }
}
