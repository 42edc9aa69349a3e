//! `spire.api.server.agent.v1.Agent`: the nodes that joined, and join tokens.

use super::{
    convert::{selectors_from_api, status},
    page::page,
};
use crate::{IssueError, Issuer};
use issuer_core::{Node, Selector, SetMatch, check_member};
use midge_api::entries::{id_from_api, id_to_api, selector_to_api};
use midge_api::spire::api::{
    server::agent::v1::{
        BanAgentRequest, CountAgentsRequest, CountAgentsResponse, CreateJoinTokenRequest, DeleteAgentRequest,
        GetAgentRequest, ListAgentsRequest, ListAgentsResponse, agent_server::Agent, count_agents_request,
        list_agents_request,
    },
    types,
};
use midge_identity::{SpiffeId, UnixMillis, is_node};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::{Request, Response, Status};

pub(super) struct AgentService {
    issuer: Issuer,
}

impl AgentService {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer }
    }

    fn chosen(&self, filter: Option<list_agents_request::Filter>) -> Result<Vec<Arc<Node>>, Status> {
        let filter = AgentFilter::new(filter.unwrap_or_default())?;
        Ok(self.issuer.nodes().into_iter().filter(|node| filter.admits(node)).collect())
    }

    fn agent_id(&self, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
        let invalid = |why: String| Status::invalid_argument(format!("invalid agent ID: {why}"));
        let id = id_from_api(id).map_err(invalid)?;
        check_member(self.issuer.trust_domain(), &id).map_err(|error| invalid(error.to_string()))?;
        Ok(id)
    }

    /// The ID of a box: nothing else joins with a token.
    fn box_id(&self, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
        let id = self.agent_id(id)?;
        if is_node(&id) {
            return Ok(id);
        }
        let wanted = format!("spiffe://{}/edge/<node>", self.issuer.trust_domain());
        Err(Status::invalid_argument(format!(
            "invalid agent ID: \"{id}\" is no box that could join: use {wanted}"
        )))
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let filter = request.into_inner().filter.map(count_filter);
        let count = i32::try_from(self.chosen(filter)?.len()).unwrap_or(i32::MAX);
        Ok(Response::new(CountAgentsResponse { count }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let nodes = self.chosen(request.filter)?;
        // Nodes come in the order of their IDs, which is not that of the IDs' text.
        let mut nodes: Vec<(String, Arc<Node>)> =
            nodes.into_iter().map(|node| (node.id.to_string(), node)).collect();
        nodes.sort_by(|one, other| one.0.cmp(&other.0));
        let (nodes, next_page_token) =
            page(nodes, request.page_size, &request.page_token, |(id, _)| id.clone());
        let agents = nodes.iter().map(|(_, node)| masked(node, request.output_mask.as_ref())).collect();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<types::Agent>, Status> {
        let request = request.into_inner();
        let id = self.agent_id(request.id.as_ref())?;
        let node = self.issuer.node(&id).ok_or_else(|| Status::not_found("agent not found"))?;
        Ok(Response::new(masked(&node, request.output_mask.as_ref())))
    }

    async fn delete_agent(&self, request: Request<DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        self.issuer.delete_node(&id).await.map_err(|error| node_status("failed to remove agent", &error))?;
        Ok(Response::new(()))
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        self.issuer.ban_node(&id).await.map_err(|error| node_status("failed to ban agent", &error))?;
        Ok(Response::new(()))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let request = request.into_inner();
        let Some(ttl) = u64::try_from(request.ttl).ok().filter(|ttl| *ttl >= 1) else {
            return Err(Status::invalid_argument("ttl is required, you must provide one"));
        };
        if let Some(node) = &self.issuer.config().node {
            let here = if self.issuer.is_upstream() { "" } else { ", and this one has none" };
            return Err(Status::failed_precondition(format!(
                "this is box {node}: a box joins with a token of its cloud, so it is made there{here}"
            )));
        }
        let agent_id = self.box_id(request.agent_id.as_ref())?;
        let token = Some(request.token).filter(|token| !token.is_empty());
        let made = self.issuer.create_join_token(Duration::from_secs(ttl), token, Some(agent_id)).await;
        let made = made.map_err(|error| status("failed to create token", &error))?;
        Ok(Response::new(types::JoinToken { value: made.token, expires_at: seconds(made.expires_at) }))
    }
}

/// SPIRE says only "agent not found" here.
fn node_status(attempt: &str, error: &IssueError) -> Status {
    match error {
        IssueError::Join(error @ issuer_core::JoinError::UnknownNode) => Status::not_found(error.to_string()),
        _ => status(attempt, error),
    }
}

struct AgentFilter {
    attestation_type: String,
    selectors: Option<(SetMatch, BTreeSet<Selector>)>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: Option<UnixMillis>,
}

impl AgentFilter {
    fn new(filter: list_agents_request::Filter) -> Result<Self, Status> {
        Ok(Self {
            attestation_type: filter.by_attestation_type,
            selectors: selectors_from_api(filter.by_selector_match)?,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: match filter.by_expires_before.as_str() {
                "" => None,
                text => Some(parse_time(text).ok_or_else(|| {
                    Status::invalid_argument(format!("malformed expires before filter: \"{text}\""))
                })?),
            },
        })
    }

    fn admits(&self, node: &Node) -> bool {
        (self.attestation_type.is_empty() || self.attestation_type == node.attestation_type)
            && self.banned.is_none_or(|banned| banned == node.banned)
            // A join token is spent: none of our nodes can attest again.
            && self.can_reattest.is_none_or(|can| !can)
            && self.expires_before.is_none_or(|time| node.svid_not_after < time)
            && self.selectors.as_ref().is_none_or(|(how, given)| how.holds(given, &selectors(node)))
    }
}

/// Reads RFC 3339 or what SPIRE's command sends, "2006-01-02 15:04:05 -0700 -07".
fn parse_time(text: &str) -> Option<UnixMillis> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        let mut parts = text.split(' ');
        let (date, clock, zone) = (parts.next()?, parts.next()?, parts.next()?);
        let (hours, minutes) = zone.split_at_checked(3)?;
        OffsetDateTime::parse(&format!("{date}T{clock}{hours}:{minutes}"), &Rfc3339).ok()
    })?;
    u64::try_from(time.unix_timestamp()).ok().map(UnixMillis::from_secs)
}

/// The two filters have the same fields.
fn count_filter(filter: count_agents_request::Filter) -> list_agents_request::Filter {
    list_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    }
}

fn selectors(node: &Node) -> BTreeSet<Selector> {
    BTreeSet::from([Selector { kind: "spiffe_id".to_owned(), value: node.id.to_string() }])
}

fn masked(node: &Node, mask: Option<&types::AgentMask>) -> types::Agent {
    let all = types::Agent {
        id: Some(id_to_api(&node.id)),
        attestation_type: node.attestation_type.clone(),
        x509svid_serial_number: decimal(&node.svid_serial),
        x509svid_expires_at: seconds(node.svid_not_after),
        selectors: selectors(node).iter().map(selector_to_api).collect(),
        banned: node.banned,
        can_reattest: false,
    };
    let Some(mask) = mask else { return all };
    types::Agent {
        id: all.id,
        attestation_type: if mask.attestation_type { all.attestation_type } else { String::new() },
        x509svid_serial_number: if mask.x509svid_serial_number {
            all.x509svid_serial_number
        } else {
            String::new()
        },
        x509svid_expires_at: if mask.x509svid_expires_at { all.x509svid_expires_at } else { 0 },
        selectors: if mask.selectors { all.selectors } else { Vec::new() },
        banned: mask.banned && all.banned,
        can_reattest: mask.can_reattest && all.can_reattest,
    }
}

/// SPIRE shows serials in decimal.
fn decimal(hex: &str) -> String {
    u128::from_str_radix(hex, 16).map(|number| number.to_string()).unwrap_or_default()
}

fn seconds(time: UnixMillis) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        let expected = Some(UnixMillis::from_secs(1_700_000_000));
        assert_eq!(parse_time("2023-11-14T22:13:20Z"), expected);
        assert_eq!(parse_time("2023-11-14 22:13:20 +0000 +00"), expected);
        assert_eq!(parse_time("2023-11-14 23:13:20 +0100 +01"), expected);
        for wrong in ["tomorrow", "2023-11-14", "2023-11-14 22:13:20 Z", "1969-01-01T00:00:00Z"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
