//! The agent of this process, served by the identity server of this process: no socket between.

use async_trait::async_trait;
use midge_agent::{AgentView, SignFailure, Signed, Upstream};
use midge_identity::SpiffeId;
use midge_issuer::{IssueError, Issuer, IssuerView};
use std::sync::Arc;
use tokio::sync::watch;

/// What the in-process agent serves from.
pub(crate) struct LocalUpstream {
    issuer: Issuer,
    views: watch::Receiver<Arc<AgentView>>,
}

/// Keeps the agent's view in step with the identity server's.
pub(crate) struct ViewTask {
    issuer: Issuer,
    agent: SpiffeId,
    views: watch::Receiver<Arc<IssuerView>>,
    sender: watch::Sender<Arc<AgentView>>,
}

impl LocalUpstream {
    /// Returns the upstream and the task that feeds it. `agent` is the box itself.
    pub(crate) fn new(issuer: Issuer, agent: SpiffeId) -> (Self, ViewTask) {
        let view = agent_view(&issuer, &agent, &issuer.view());
        let (sender, views) = watch::channel(Arc::new(view));
        let task = ViewTask { views: issuer.subscribe(), issuer: issuer.clone(), agent, sender };
        (Self { issuer, views }, task)
    }
}

impl ViewTask {
    /// Follows the identity server until it ends.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        loop {
            self.views.changed().await?;
            let view = Arc::clone(&self.views.borrow_and_update());
            let view = agent_view(&self.issuer, &self.agent, &view);
            self.sender.send_replace(Arc::new(view));
        }
    }
}

fn agent_view(issuer: &Issuer, agent: &SpiffeId, view: &IssuerView) -> AgentView {
    let entries = Arc::new(issuer.served_by(agent));
    AgentView::new(view.revision, view.trust_domain.clone(), entries, Arc::clone(&view.bundles))
        .with_good_authorities(Arc::clone(&view.good_authorities))
}

#[async_trait]
impl Upstream for LocalUpstream {
    fn view(&self) -> watch::Receiver<Arc<AgentView>> {
        self.views.clone()
    }

    async fn sign(&self, entry_id: &str, csr_der: Vec<u8>) -> Result<Signed, SignFailure> {
        match self.issuer.sign_svid(entry_id, &csr_der) {
            Ok(svid) => Ok(Signed { chain: svid.chain, issued: svid.issued, expires: svid.expires }),
            Err(error @ (IssueError::NoAuthority(_) | IssueError::CaExpired(_))) => {
                Err(SignFailure::Unavailable(error.to_string()))
            }
            Err(error) => Err(SignFailure::Refused(error.to_string())),
        }
    }
}
