//! Midge's own gRPC service on the admin socket, for the edge and for the cloud.

use super::active_policy;
use super::data_dir::absolute;
use super::policy::PolicyHandle;
use super::policy_service;
use super::problems::{Condition, Problem};
use super::trail::Trail;
use async_trait::async_trait;
use broker_core::{SessionSnapshot, SessionState};
use futures_util::{Stream, StreamExt as _};
use midge_api::entries::{entry_to_api, id_to_api};
use midge_api::midge::v1::{
    AcceptNodeAuditRequest, AcceptNodeAuditResponse, AgentView, ApplyRulesRequest, AuditLog as AuditStatus,
    CertificateAuthority, CloudLink, CreateDeviceRequest, Degraded, DeleteDeviceRequest, DeleteRuleRequest,
    Device, EndSessionRequest, EndSessionResponse, Lease, ListDevicesRequest, ListDevicesResponse,
    ListEventsRequest, ListEventsResponse, ListNodesRequest, ListNodesResponse, ListRulesRequest,
    ListRulesResponse, ListSessionsRequest, ListSessionsResponse, Listener, Node, ObserveAccessRequest,
    PolicyPage, ReloadPolicyRequest, ReloadPolicyResponse, Session, SetDeviceRequest, ShadowPolicy,
    ShowDeviceRequest, ShowPolicyRequest, ShowShadowRequest, SignX509svidRequest, SignX509svidResponse,
    StatusRequest, StatusResponse, WatchEntriesRequest, midge_server::Midge,
};
use midge_api::spire::api::types::X509svid;
use midge_audit::AuditLog;
use midge_broker::{Hub, SubscribeModes};
use midge_identity::{Proof, SpiffeId, UnixMillis};
use midge_issuer::{IssueError, Issuer, IssuerView, bundles_to_api};
use midge_runtime::CancellationToken;
use mqtt_proto::Version;
use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

/// Devices, rules and nodes: where they are kept differs between edge and cloud.
#[async_trait]
pub(crate) trait Desk: Send + Sync + 'static {
    /// Creates a device.
    async fn create_device(&self, device: Device) -> Result<Device, Status>;
    /// Lists devices, of one node unless it is empty.
    async fn devices(&self, node: &str) -> Result<Vec<Device>, Status>;
    /// Sets desired values.
    async fn set_device(
        &self,
        node: &str,
        id: &str,
        desired: HashMap<String, String>,
    ) -> Result<Device, Status>;
    /// Returns one device.
    async fn device(&self, node: &str, id: &str) -> Result<Device, Status>;
    /// Deletes a device and returns what it was.
    async fn delete_device(&self, node: &str, id: &str) -> Result<Device, Status>;
    /// Hands rules out and returns their names.
    async fn apply_rules(&self, request: ApplyRulesRequest) -> Result<Vec<String>, Status>;
    /// Lists the rules handed out.
    async fn rules(&self) -> Result<ListRulesResponse, Status>;
    /// Takes a rule back.
    async fn delete_rule(&self, request: DeleteRuleRequest) -> Result<ListRulesResponse, Status>;
    /// Takes note of what is wrong with a node's audit log. Returns how much that was.
    async fn accept_audit(&self, node: &str) -> Result<u64, Status>;
    /// Returns a page of what a node has uploaded.
    async fn events(&self, request: ListEventsRequest) -> Result<ListEventsResponse, Status>;
    /// Lists nodes.
    async fn nodes(&self) -> Result<Vec<Node>, Status>;
    /// Returns the link to the cloud, where there is one.
    fn link(&self) -> Option<CloudLink>;
    /// Returns the policy that decides.
    fn policy(&self) -> Result<&PolicyHandle, Status>;
    /// Returns what its listeners make of subscriptions that are allowed in part.
    fn subscribe_modes(&self) -> SubscribeModes {
        SubscribeModes::default()
    }
}

/// The service.
pub(crate) struct Service {
    pub(crate) role: &'static str,
    pub(crate) node: String,
    pub(crate) issuer: Issuer,
    pub(crate) hub: Option<Hub>,
    pub(crate) desk: Box<dyn Desk>,
    pub(crate) condition: Condition,
    /// The audit log and its newest file.
    pub(crate) audit: (AuditLog, PathBuf),
    pub(crate) trail: Arc<Trail>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) started: Instant,
    /// Streams without an end of their own end with the process.
    pub(crate) stopping: CancellationToken,
}

impl Service {
    fn federated(&self) -> Vec<String> {
        self.issuer.federated_bundles().iter().map(|bundle| bundle.trust_domain().to_string()).collect()
    }

    fn hub(&self) -> Result<&Hub, Status> {
        self.hub.as_ref().ok_or_else(|| Status::unimplemented("the cloud has no MQTT sessions; ask an edge"))
    }

    fn audit_status(&self) -> AuditStatus {
        let (log, path) = &self.audit;
        let status = log.status();
        AuditStatus {
            path: absolute(path),
            key: status.key,
            signed_seq: status.signed.seq,
            signed_hash: status.signed.hash.to_string(),
            lost: log.lost(),
        }
    }
}

#[async_trait]
impl Midge for Service {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let issuer = self.issuer.snapshot();
        let lease = Lease {
            until_ms: issuer.lease.until.map(signed_ms),
            // Without an end, what remains is the life of the present CA, which is renewed.
            remaining_secs: issuer.lease.until.map(|_| signed(issuer.lease.remaining.as_secs())),
            reason: issuer.lease.reason.to_string(),
            warning: issuer.lease.warning.to_string(),
        };
        let ca = issuer.ca.map(|ca| CertificateAuthority {
            serial: ca.serial,
            not_after_ms: signed(ca.not_after.0),
            slot: ca.slot.to_string(),
            prepared: ca.prepared,
        });
        Ok(Response::new(StatusResponse {
            role: self.role.into(),
            trust_domain: self.issuer.trust_domain().to_string(),
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_secs: self.started.elapsed().as_secs(),
            lease: Some(lease),
            ca,
            cloud: self.desk.link(),
            sessions: self.hub.as_ref().map_or(0, |hub| hub.metrics().sessions),
            entries: count(issuer.entries),
            degraded: self
                .condition
                .problems()
                .into_iter()
                .map(|Problem { what, remedy }| Degraded { what, remedy })
                .collect(),
            nodes: count(issuer.nodes),
            listeners: self.listeners.clone(),
            pid: std::process::id(),
            federated: self.federated(),
            audit: Some(self.audit_status()),
            policy: self.desk.policy().ok().map(policy_service::status),
        }))
    }

    async fn list_sessions(
        &self,
        _request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let sessions = self.hub()?.sessions_from().iter().map(session).collect();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }

    async fn end_session(
        &self,
        request: Request<EndSessionRequest>,
    ) -> Result<Response<EndSessionResponse>, Status> {
        let EndSessionRequest { spiffe_id, client_id } = request.into_inner();
        let identity = SpiffeId::new(&spiffe_id)
            .map_err(|error| Status::invalid_argument(format!("spiffe_id \"{spiffe_id}\": {error}")))?;
        if !self.hub()?.end_session(&identity, &client_id) {
            let text = format!(
                "no session of {spiffe_id} with client id \"{client_id}\"; `midge session list` shows those there are"
            );
            return Err(Status::not_found(text));
        }
        self.trail
            .act("session-deleted", |record| record.with("identity", spiffe_id).with("client-id", client_id));
        Ok(Response::new(EndSessionResponse {}))
    }

    type WatchEntriesStream = Pin<Box<dyn Stream<Item = Result<AgentView, Status>> + Send>>;

    async fn watch_entries(
        &self,
        request: Request<WatchEntriesRequest>,
    ) -> Result<Response<Self::WatchEntriesStream>, Status> {
        let agent = agent_id(&request.into_inner().agent_id)?;
        check_ban(&self.issuer, &agent)?;
        let issuer = self.issuer.clone();
        let views = WatchStream::new(self.issuer.subscribe()).map(move |view| {
            check_ban(&issuer, &agent)?;
            Ok(agent_view(&issuer, &agent, &view))
        });
        Ok(Response::new(Box::pin(views.take_until(self.stopping.clone().cancelled_owned()))))
    }

    async fn sign_x509svid(
        &self,
        request: Request<SignX509svidRequest>,
    ) -> Result<Response<SignX509svidResponse>, Status> {
        let SignX509svidRequest { entry_id, csr, agent_id: agent } = request.into_inner();
        let agent = agent_id(&agent)?;
        check_ban(&self.issuer, &agent)?;
        if !self.issuer.served_by(&agent).iter().any(|entry| entry.id == entry_id) {
            return Err(Status::permission_denied(format!("agent {agent} does not serve entry {entry_id}")));
        }
        let signed = self.issuer.sign_svid(&entry_id, &csr).map_err(|error| match error {
            IssueError::NoAuthority(_) | IssueError::CaExpired(_) => Status::unavailable(error.to_string()),
            _ => Status::invalid_argument(error.to_string()),
        })?;
        let svid = X509svid {
            cert_chain: signed.chain,
            id: Some(id_to_api(&signed.id)),
            expires_at: signed_secs(signed.expires),
            hint: String::new(),
        };
        let (issued_at_ms, expires_at_ms) = (signed_ms(signed.issued), signed_ms(signed.expires));
        Ok(Response::new(SignX509svidResponse { svid: Some(svid), issued_at_ms, expires_at_ms }))
    }

    async fn create_device(&self, request: Request<CreateDeviceRequest>) -> Result<Response<Device>, Status> {
        let device =
            request.into_inner().device.ok_or_else(|| Status::invalid_argument("no device given"))?;
        let created = self.desk.create_device(device).await?;
        let mut properties: Vec<String> = created.twin.keys().cloned().collect();
        properties.sort();
        self.trail.act("device-created", |record| {
            record
                .with("device", created.id.as_str())
                .with("node", created.node.as_str())
                .with("properties", properties)
        });
        Ok(Response::new(created))
    }

    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let devices = self.desk.devices(&request.into_inner().node).await?;
        Ok(Response::new(ListDevicesResponse { devices }))
    }

    async fn set_device(&self, request: Request<SetDeviceRequest>) -> Result<Response<Device>, Status> {
        let SetDeviceRequest { id, desired, node } = request.into_inner();
        // The names only: a desired value is a payload.
        let mut properties: Vec<String> = desired.keys().cloned().collect();
        properties.sort();
        let device = self.desk.set_device(&node, &id, desired).await?;
        self.trail.act("device-set", |record| {
            record
                .with("device", device.id.as_str())
                .with("node", device.node.as_str())
                .with("properties", properties)
        });
        Ok(Response::new(device))
    }

    async fn show_device(&self, request: Request<ShowDeviceRequest>) -> Result<Response<Device>, Status> {
        let ShowDeviceRequest { id, node } = request.into_inner();
        self.desk.device(&node, &id).await.map(Response::new)
    }

    async fn delete_device(&self, request: Request<DeleteDeviceRequest>) -> Result<Response<Device>, Status> {
        let DeleteDeviceRequest { id, node } = request.into_inner();
        let device = self.desk.delete_device(&node, &id).await?;
        self.trail.act("device-deleted", |record| {
            record.with("device", device.id.as_str()).with("node", device.node.as_str())
        });
        Ok(Response::new(device))
    }

    async fn apply_rules(
        &self,
        request: Request<ApplyRulesRequest>,
    ) -> Result<Response<ListRulesResponse>, Status> {
        let request = request.into_inner();
        let node = request.node.clone();
        let names = self.desk.apply_rules(request).await?;
        self.trail.act("rules-applied", |record| record.with("node", node).with("rules", names));
        self.desk.rules().await.map(Response::new)
    }

    async fn list_rules(
        &self,
        _request: Request<ListRulesRequest>,
    ) -> Result<Response<ListRulesResponse>, Status> {
        self.desk.rules().await.map(Response::new)
    }

    async fn delete_rule(
        &self,
        request: Request<DeleteRuleRequest>,
    ) -> Result<Response<ListRulesResponse>, Status> {
        let request = request.into_inner();
        let (node, name) = (request.node.clone(), request.name.clone());
        let answer = self.desk.delete_rule(request).await?;
        self.trail.act("rule-deleted", |record| record.with("node", node).with("rules", vec![name]));
        Ok(Response::new(answer))
    }

    type ShowPolicyStream = Pin<Box<dyn Stream<Item = Result<PolicyPage, Status>> + Send>>;

    async fn show_policy(
        &self,
        _request: Request<ShowPolicyRequest>,
    ) -> Result<Response<Self::ShowPolicyStream>, Status> {
        let policy = self.desk.policy()?;
        let policy = Arc::clone(&policy.policy.borrow());
        let pages = active_policy::pages(&policy, &self.desk.subscribe_modes());
        Ok(Response::new(Box::pin(tokio_stream::iter(pages.into_iter().map(Ok)))))
    }

    async fn accept_node_audit(
        &self,
        request: Request<AcceptNodeAuditRequest>,
    ) -> Result<Response<AcceptNodeAuditResponse>, Status> {
        let node = request.into_inner().node;
        let findings = self.desk.accept_audit(&node).await?;
        self.trail.act("node-audit-accepted", |record| record.with("node", node).with("findings", findings));
        Ok(Response::new(AcceptNodeAuditResponse { findings }))
    }

    async fn reload_policy(
        &self,
        _request: Request<ReloadPolicyRequest>,
    ) -> Result<Response<ReloadPolicyResponse>, Status> {
        let policy = self.desk.policy()?;
        policy_service::reload(policy).await.map(Response::new)
    }

    async fn show_shadow(
        &self,
        _request: Request<ShowShadowRequest>,
    ) -> Result<Response<ShadowPolicy>, Status> {
        Ok(Response::new(policy_service::shadow(self.desk.policy()?)))
    }

    type ObserveAccessStream = policy_service::Observations;

    async fn observe_access(
        &self,
        request: Request<Streaming<ObserveAccessRequest>>,
    ) -> Result<Response<Self::ObserveAccessStream>, Status> {
        let policy = self.desk.policy()?.clone();
        let mut requests = request.into_inner();
        let first = requests.message().await?.ok_or_else(|| Status::invalid_argument("no request came"))?;
        policy_service::observe(policy, first, requests).map(Response::new)
    }

    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<ListEventsResponse>, Status> {
        self.desk.events(request.into_inner()).await.map(Response::new)
    }

    async fn list_nodes(
        &self,
        _request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let nodes = self.desk.nodes().await?;
        Ok(Response::new(ListNodesResponse { nodes }))
    }
}

fn session((session, remote): &(SessionSnapshot, Option<Arc<str>>)) -> Session {
    let protocol = if session.version == Version::V5 { "5.0" } else { "3.1.1" };
    let base = Session {
        client_id: session.client_id.to_string(),
        spiffe_id: session.identity.to_string(),
        protocol: protocol.into(),
        subscriptions: session.subscriptions.iter().map(|(filter, _)| filter.to_string()).collect(),
        queued: count(session.queued),
        inflight: count(session.inflight),
        ..Session::default()
    };
    match &session.state {
        SessionState::Live { since, proof, expires, .. } => Session {
            connected: true,
            connected_at_ms: Some(signed(since.0)),
            proof: Some(proof_name(proof).into()),
            identity_expires_ms: expires.map(|expires| signed(expires.0)),
            remote: remote.as_deref().map(str::to_owned),
            ..base
        },
        SessionState::Parked { since, ends } => Session {
            parked_at_ms: Some(signed(since.0)),
            ends_at_ms: ends.map(|ends| signed(ends.0)),
            ..base
        },
    }
}

fn proof_name(proof: &Proof) -> &'static str {
    match proof {
        Proof::X509Svid { .. } => "x509-svid",
        Proof::Local { .. } => "local",
    }
}

fn agent_id(text: &str) -> Result<SpiffeId, Status> {
    SpiffeId::new(text).map_err(|error| Status::invalid_argument(format!("agent_id \"{text}\": {error}")))
}

fn check_ban(issuer: &Issuer, agent: &SpiffeId) -> Result<(), Status> {
    if issuer.is_banned(agent) {
        return Err(Status::permission_denied(format!(
            "agent {agent} is banned: `midge node delete {agent}` lets it back"
        )));
    }
    Ok(())
}

fn agent_view(issuer: &Issuer, agent: &SpiffeId, view: &IssuerView) -> AgentView {
    AgentView {
        revision: view.revision,
        trust_domain: view.trust_domain.to_string(),
        entries: issuer.served_by(agent).iter().map(|entry| entry_to_api(entry)).collect(),
        bundles: bundles_to_api(&view.bundles),
        good_authorities: view.good_authorities.iter().cloned().collect(),
    }
}

fn signed_ms(time: UnixMillis) -> i64 {
    signed(time.0)
}

fn signed_secs(time: UnixMillis) -> i64 {
    signed(time.as_secs())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
