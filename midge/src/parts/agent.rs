//! `midge agent`: the Workload API in a process of its own, served by the edge on the same host.

use crate::commands::connect;
use crate::config::AgentConfig;
use crate::exit::{self, WithCode as _, failure};
use anyhow::Context as _;
use midge_agent::{Agent, AgentError, RemoteConfig, RemoteUpstream, Upstream};
use midge_api::midge::v1::StatusRequest;
use midge_api::midge::v1::midge_client::MidgeClient;
use midge_identity::{SpiffeId, TrustDomain, node_id};
use midge_runtime::{Backoff, CancellationToken, Clock, ServiceNotifier, Supervisor};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time the tasks have to end after a stop.
const GRACE: Duration = Duration::from_secs(5);
/// Limits of the waits for an edge that is not there yet.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Runs the agent until it is asked to stop.
pub(crate) async fn run(config: AgentConfig) -> anyhow::Result<()> {
    let mut tasks = Supervisor::new();
    let token = tasks.token();
    tasks.spawn("agent", serve(config, token));
    tasks.run_until_shutdown(GRACE).await
}

async fn serve(config: AgentConfig, token: CancellationToken) -> anyhow::Result<()> {
    let wanted = config.agent_id.as_ref().map(|id| SpiffeId::new(id).context("agent-id").code(exit::CONFIG));
    let wanted = wanted.transpose()?;
    let Some(own) = token.run_until_cancelled(box_id(&config.edge_socket)).await else { return Ok(()) };
    let agent_id = agent_of(own?, wanted)?;
    let remote = RemoteConfig { socket: config.edge_socket.clone(), agent_id: agent_id.clone() };
    let Some(upstream) = RemoteUpstream::connect(remote, &token).await else { return Ok(()) };
    let agent = Agent::bind(
        midge_agent::AgentConfig::new(&config.workload_socket),
        Arc::clone(&upstream) as Arc<dyn Upstream>,
        Clock::system(),
        token.child_token(),
    )
    .map_err(agent_error)?;
    ServiceNotifier::from_env().ready();
    tracing::info!(agent = %agent_id, socket = %config.workload_socket.display(), "serving");
    // Ends with the agent too, not only with the process.
    let stop = token.child_token();
    let served = async {
        let served = agent.serve().await;
        stop.cancel();
        served
    };
    let (served, ()) = tokio::join!(served, upstream.follow(stop.clone()));
    served.map_err(agent_error)
}

/// Asks the edge which box it is; waits for an edge that is not there yet.
async fn box_id(socket: &Path) -> anyhow::Result<SpiffeId> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let reason = match connect(socket).await {
            Ok(channel) => match MidgeClient::new(channel).status(StatusRequest {}).await {
                Ok(status) => {
                    let status = status.into_inner();
                    return box_of(socket, &status.trust_domain, &status.node);
                }
                Err(status) if status.message().is_empty() => format!("no edge answers: {}", status.code()),
                Err(status) => status.message().to_owned(),
            },
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let text = format!(
                    "cannot reach the edge at {} (edge-socket): {error}; run the agent as the user that the edge runs as",
                    socket.display()
                );
                return Err(failure(exit::PERMISSION, text));
            }
            Err(error) => error.to_string(),
        };
        if backoff.attempts() == 0 {
            tracing::warn!(socket = %socket.display(), reason, "waiting for the edge (edge-socket)");
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

fn box_of(socket: &Path, trust_domain: &str, node: &str) -> anyhow::Result<SpiffeId> {
    if node.is_empty() {
        let text =
            format!("edge-socket = \"{}\" is a cloud's; name the admin socket of an edge", socket.display());
        return Err(failure(exit::CONFIG, text));
    }
    Ok(node_id(&TrustDomain::new(trust_domain)?, node)?)
}

/// The agent is the box itself unless it is told to be one below it: the entries of another box are not here.
fn agent_of(own: SpiffeId, wanted: Option<SpiffeId>) -> anyhow::Result<SpiffeId> {
    let Some(wanted) = wanted else { return Ok(own) };
    if wanted == own || wanted.to_string().starts_with(&format!("{own}/")) {
        return Ok(wanted);
    }
    let text = format!(
        "agent-id = \"{wanted}\" is not of this box: write {own}, or an ID below it such as {own}/agent/<name>"
    );
    Err(failure(exit::CONFIG, text))
}

fn agent_error(error: AgentError) -> anyhow::Error {
    let code = match error {
        AgentError::SocketInUse { .. } | AgentError::UpstreamEnded => exit::UNAVAILABLE,
        AgentError::NotASocket { .. } => exit::CONFIG,
        _ => exit::IO,
    };
    failure(code, format!("{error} (workload-socket)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_the_box_itself_and_a_cloud_has_none() {
        let socket = Path::new("/run/midge/admin.sock");
        let id = box_of(socket, "plant.example", "box-1").unwrap();
        assert_eq!(id.to_string(), "spiffe://plant.example/edge/box-1");
        let below = SpiffeId::new("spiffe://plant.example/edge/box-1/agent/annex").unwrap();
        assert_eq!(agent_of(id.clone(), Some(below.clone())).unwrap(), below);
        for other in ["spiffe://plant.example/edge/box-10/agent/x", "spiffe://other/edge/box-1/agent/x"] {
            let error = agent_of(id.clone(), Some(SpiffeId::new(other).unwrap())).unwrap_err().to_string();
            assert!(error.contains(other) && error.contains("edge/box-1/agent/<name>"), "{error}");
        }
        let error = box_of(socket, "plant.example", "").unwrap_err().to_string();
        assert!(error.contains("edge-socket") && error.contains("admin socket of an edge"), "{error}");
    }
}
