//! What an operator does with the server's X.509 authorities: each step is planned, committed, then in force.

use crate::{error::IssueError, issuer::Issuer, mutation::Mutation};
use issuer_core::{
    AuthorityError, AuthorityKind, X509Authority, plan_activation, plan_revocation, plan_taint,
    x509_authorities,
};
use midge_store::Batch;

impl Issuer {
    /// Returns the authorities: the active one, the prepared one, then older ones that are still published.
    pub fn x509_authorities(&self) -> Vec<X509Authority> {
        let state = self.shared.state.read();
        x509_authorities(self.kind(), &state.journal, &state.bundle)
    }

    /// Makes the next authority and publishes its root. One that was prepared before has signed nothing and goes.
    ///
    /// # Errors
    /// The server's CA comes from its cloud, it has none yet, or the key or the store fails.
    pub async fn prepare_x509_authority(&self) -> Result<X509Authority, IssueError> {
        if self.is_upstream() {
            return Err(AuthorityError::Upstream.into());
        }
        {
            let _rotation = self.shared.rotation.lock().await;
            let active = self.shared.state.read().journal.active().map(|(slot, _)| slot);
            let slot = active.ok_or(IssueError::NoAuthority(issuer_core::LeaseReason::NoAuthority))?.other();
            self.prepare(slot, self.now()).await?;
        }
        let prepared = self.shared.state.read().journal.prepared().map(|(_, ca)| ca.certificate.clone());
        self.authority_of(&prepared.unwrap_or_default())
    }

    /// Lets the prepared authority sign from now on.
    ///
    /// # Errors
    /// The server's CA comes from its cloud, the ID is not that of the prepared authority, or the store fails.
    pub async fn activate_x509_authority(&self, id: &str) -> Result<X509Authority, IssueError> {
        {
            let _rotation = self.shared.rotation.lock().await;
            let slot = plan_activation(self.kind(), &self.shared.state.read().journal, id)?;
            self.activate(slot).await?;
        }
        self.find_authority(id)
    }

    /// Marks an old authority as tainted: what it signed proves nothing any more and is signed anew.
    ///
    /// # Errors
    /// The server's CA comes from its cloud, the ID is not that of an old authority, or the store fails.
    pub async fn taint_x509_authority(&self, id: &str) -> Result<X509Authority, IssueError> {
        let (kind, wanted) = (self.kind(), id.to_owned());
        self.commit(Batch::new(), move |state| {
            let bundle = plan_taint(kind, &state.journal, &state.bundle, &wanted)?;
            let changed = (bundle != state.bundle).then_some(Mutation::Bundle(bundle));
            Ok((changed.into_iter().collect(), ()))
        })
        .await?;
        self.tick().await?;
        self.find_authority(id)
    }

    /// Takes a tainted authority out of the bundle: nobody trusts it any more.
    ///
    /// # Errors
    /// The server's CA comes from its cloud, the ID is not that of a tainted authority, or the store fails.
    pub async fn revoke_x509_authority(&self, id: &str) -> Result<X509Authority, IssueError> {
        let revoked = self.find_authority(id);
        let (kind, id) = (self.kind(), id.to_owned());
        self.commit(Batch::new(), move |state| {
            let bundle = plan_revocation(kind, &state.journal, &state.bundle, &id)?;
            Ok((vec![Mutation::Bundle(bundle)], ()))
        })
        .await?;
        revoked
    }

    fn kind(&self) -> AuthorityKind {
        self.shared.config.authority.kind()
    }

    fn authority_of(&self, certificate: &[u8]) -> Result<X509Authority, IssueError> {
        self.find_authority(&issuer_core::authority_id(certificate).unwrap_or_default())
    }

    fn find_authority(&self, id: &str) -> Result<X509Authority, IssueError> {
        let mut all = self.x509_authorities().into_iter();
        Ok(all.find(|authority| authority.id == id).ok_or_else(|| AuthorityError::Unknown(id.to_owned()))?)
    }
}
