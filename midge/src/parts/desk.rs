//! Devices, rules and nodes for the admin socket: from the event-bus at an edge, from the cloudhub
//! at a cloud.

use super::edge_cloud::LinkView;
use super::node_audit::NodeAudit;
use super::policy::PolicyHandle;
use super::service::Desk;
use async_trait::async_trait;
use bridge_core::twin::{MsgTwin, TwinValue};
use bridge_core::{DeviceId, DeviceRecord};
use cloud_bridge::cloudhub::{CloudHub, Desired, EventId, HubError, InvalidEventId, NodeEvent};
use event_bus::{DeviceError, EventBusHandle};
use midge_api::midge::v1::{
    ApplyRulesRequest, CloudLink, DeleteRuleRequest, Device, Event, HandedRule, ListEventsRequest,
    ListEventsResponse, ListRulesResponse, Node, TwinProperty,
};
use midge_broker::SubscribeModes;
use midge_identity::{node_id, node_of};
use midge_issuer::Issuer;
use midge_policy::{Policy, Rule};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::Status;

/// The desk of an edge.
pub(crate) struct EdgeDesk {
    pub(crate) bus: Option<EventBusHandle>,
    pub(crate) link: Option<LinkView>,
    /// Whether a cloud hands out the devices: then they are made and set there.
    pub(crate) managed: bool,
    /// Name of the box.
    pub(crate) node: String,
    pub(crate) policy: PolicyHandle,
    pub(crate) subscribe_modes: SubscribeModes,
}

impl EdgeDesk {
    fn bus(&self) -> Result<&EventBusHandle, Status> {
        self.bus
            .as_ref()
            .ok_or_else(|| Status::failed_precondition("the event-bus is off (event-bus.enabled)"))
    }

    /// The bus, if the devices asked for are those of this box.
    fn bus_of(&self, node: &str) -> Result<&EventBusHandle, Status> {
        if node.is_empty() || node == self.node {
            return self.bus();
        }
        Err(Status::invalid_argument(format!(
            "this is box {} and knows no device of {node}: leave --node out, or ask the cloud",
            self.node
        )))
    }

    fn shown(&self, device: &bridge_core::twin::Device) -> Device {
        Device { node: self.node.clone(), ..edge_device(device) }
    }

    fn own(&self, node: &str) -> Result<&EventBusHandle, Status> {
        if self.managed {
            return Err(Status::failed_precondition(
                "devices of this box are managed by the cloud: change them there",
            ));
        }
        self.bus_of(node)
    }
}

#[async_trait]
impl Desk for EdgeDesk {
    async fn create_device(&self, device: Device) -> Result<Device, Status> {
        let desired = desired_of(&device).collect();
        let created =
            self.own(&device.node)?.create_device(device_id(&device.id)?, device.description, desired).await;
        created.map(|device| self.shown(&device)).map_err(|error| device_status(&error))
    }

    async fn devices(&self, node: &str) -> Result<Vec<Device>, Status> {
        let devices = self.bus_of(node)?.devices().await.map_err(|error| device_status(&error))?;
        Ok(devices.iter().map(|device| self.shown(device)).collect())
    }

    async fn set_device(
        &self,
        node: &str,
        id: &str,
        desired: HashMap<String, String>,
    ) -> Result<Device, Status> {
        let set = self.own(node)?.set_device(device_id(id)?, desired.into_iter().collect()).await;
        set.map(|device| self.shown(&device)).map_err(|error| device_status(&error))
    }

    async fn device(&self, node: &str, id: &str) -> Result<Device, Status> {
        let device = self.bus_of(node)?.device(device_id(id)?).await;
        device.map(|device| self.shown(&device)).map_err(|error| device_status(&error))
    }

    async fn delete_device(&self, node: &str, id: &str) -> Result<Device, Status> {
        let bus = self.own(node)?;
        let was = self.device(node, id).await?;
        bus.delete_device(device_id(id)?).await.map_err(|error| device_status(&error))?;
        Ok(was)
    }

    async fn apply_rules(&self, _request: ApplyRulesRequest) -> Result<Vec<String>, Status> {
        Err(Status::failed_precondition(
            "rules are handed out by a cloud; on an edge put them into policy.dir",
        ))
    }

    async fn rules(&self) -> Result<ListRulesResponse, Status> {
        Err(Status::failed_precondition("rules are handed out by a cloud; ask it"))
    }

    async fn delete_rule(&self, _request: DeleteRuleRequest) -> Result<ListRulesResponse, Status> {
        Err(Status::failed_precondition("rules are handed out by a cloud; take them back there"))
    }

    async fn accept_audit(&self, _node: &str) -> Result<u64, Status> {
        Err(Status::failed_precondition("audit logs of nodes are at their cloud; ask it"))
    }

    async fn events(&self, _request: ListEventsRequest) -> Result<ListEventsResponse, Status> {
        Err(Status::failed_precondition("what nodes upload is at their cloud; ask it"))
    }

    async fn nodes(&self) -> Result<Vec<Node>, Status> {
        Err(Status::failed_precondition("an edge knows no other nodes; ask the cloud"))
    }

    fn link(&self) -> Option<CloudLink> {
        let link = self.link.as_ref()?;
        let url = link.url.clone();
        let status = link.status.borrow().clone();
        Some(match status {
            Some(status) => CloudLink {
                connected: status.connected,
                since_ms: i64::try_from(status.since.0).unwrap_or(i64::MAX),
                last_error: status.last_error.unwrap_or_default(),
                pending: u64::try_from(status.pending).unwrap_or(u64::MAX),
                url,
                audit_seq: status.audit,
                audit_error: status.audit_error.unwrap_or_default(),
                dropped: status.dropped,
            },
            None => CloudLink { url, last_error: "not enrolled yet".into(), ..CloudLink::default() },
        })
    }

    fn policy(&self) -> Result<&PolicyHandle, Status> {
        Ok(&self.policy)
    }

    fn subscribe_modes(&self) -> SubscribeModes {
        self.subscribe_modes
    }
}

/// The desk of a cloud.
pub(crate) struct CloudDesk {
    pub(crate) hub: CloudHub,
    pub(crate) issuer: Issuer,
    pub(crate) node_audit: NodeAudit,
}

#[async_trait]
impl Desk for CloudDesk {
    async fn create_device(&self, device: Device) -> Result<Device, Status> {
        if device.node.is_empty() {
            return Err(Status::invalid_argument("name the node of the device with --node"));
        }
        let desired = desired_of(&device).map(|(name, value)| (name, wanted(value))).collect();
        let id = device_id(&device.id)?;
        let created = self.hub.create_device(&device.node, id, device.description, desired).await;
        created.map(|record| cloud_device(&record)).map_err(|error| hub_status(&error))
    }

    async fn devices(&self, node: &str) -> Result<Vec<Device>, Status> {
        let devices = self.hub.devices(named(node)).await.map_err(|error| hub_status(&error))?;
        Ok(devices.iter().map(cloud_device).collect())
    }

    async fn set_device(
        &self,
        node: &str,
        id: &str,
        desired: HashMap<String, String>,
    ) -> Result<Device, Status> {
        let desired = desired.into_iter().map(|(name, value)| (name, wanted(value))).collect();
        let set = self.hub.set_device(&device_id(id)?, named(node), desired).await;
        set.map(|record| cloud_device(&record)).map_err(|error| hub_status(&error))
    }

    async fn device(&self, node: &str, id: &str) -> Result<Device, Status> {
        let device = self.hub.device(&device_id(id)?, named(node)).await;
        device.map(|record| cloud_device(&record)).map_err(|error| hub_status(&error))
    }

    async fn delete_device(&self, node: &str, id: &str) -> Result<Device, Status> {
        let was = self.device(node, id).await?;
        let deleted = self.hub.delete_device(&device_id(id)?, Some(&was.node)).await;
        deleted.map(|()| was).map_err(|error| hub_status(&error))
    }

    async fn apply_rules(&self, request: ApplyRulesRequest) -> Result<Vec<String>, Status> {
        let rules = Rule::from_toml_str(&request.toml, "rules");
        // What is faulty together, as two rules of one name, is found when they are compiled together.
        let rules = rules.and_then(|rules| Policy::compile(rules.clone(), 1).map(|_| rules));
        let rules = rules.map_err(|errors| {
            Status::invalid_argument(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        let names = rules.iter().map(|rule| rule.name.clone()).collect();
        let mut contents = Vec::with_capacity(rules.len());
        for rule in rules {
            let content = serde_json::to_value(&rule).map_err(|error| Status::internal(error.to_string()))?;
            contents.push((rule.name, content));
        }
        self.hub.put_rules(named(&request.node), contents).await.map_err(|error| hub_status(&error))?;
        Ok(names)
    }

    async fn rules(&self) -> Result<ListRulesResponse, Status> {
        let rules = self.hub.rules().await.map_err(|error| hub_status(&error))?;
        let handed = |rule: cloud_bridge::cloudhub::HandedRule| HandedRule {
            node: rule.node.unwrap_or_default(),
            toml: serde_json::from_value::<Rule>(rule.content)
                .ok()
                .and_then(|rule| toml::to_string(&rule).ok())
                .unwrap_or_default(),
            name: rule.name,
        };
        Ok(ListRulesResponse { rules: rules.into_iter().map(handed).collect() })
    }

    async fn delete_rule(&self, request: DeleteRuleRequest) -> Result<ListRulesResponse, Status> {
        self.hub
            .delete_rule(named(&request.node), &request.name)
            .await
            .map_err(|error| hub_status(&error))?;
        self.rules().await
    }

    async fn accept_audit(&self, node: &str) -> Result<u64, Status> {
        let known = node_id(self.issuer.trust_domain(), node);
        known.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let accepted = self.node_audit.accept(node).await.map_err(Status::data_loss)?;
        accepted.ok_or_else(|| Status::not_found(format!("there is no audit log of a node {node}")))
    }

    async fn events(&self, request: ListEventsRequest) -> Result<ListEventsResponse, Status> {
        let ListEventsRequest { node, since } = request;
        let known = node_id(self.issuer.trust_domain(), &node);
        let known = known.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let after: Option<EventId> = named(&since)
            .map(|since| {
                since.parse().map_err(|error: InvalidEventId| Status::invalid_argument(error.to_string()))
            })
            .transpose()?;
        let events = self.hub.events(&node, after).await.map_err(|error| hub_status(&error))?;
        // What a node has sent before it was deleted is still there.
        if events.is_empty() && !self.issuer.nodes().iter().any(|node| node.id == known) {
            let text = format!("no node {node} has joined; `midge node list` shows those that have");
            return Err(Status::not_found(text));
        }
        Ok(ListEventsResponse { events: events.into_iter().map(event_of).collect() })
    }

    async fn nodes(&self) -> Result<Vec<Node>, Status> {
        let sessions = self.hub.sessions();
        let node = |node: &issuer_core::Node| {
            let name = node_of(&node.id).unwrap_or_else(|| node.id.path()).to_owned();
            let session = sessions.iter().find(|session| session.node == name);
            Node {
                spiffe_id: node.id.to_string(),
                connected: session.is_some_and(|session| session.connected),
                since_ms: session.map_or(0, |session| millis(session.since.0)),
                joined_at_ms: millis(node.joined_at.0),
                ca_not_after_ms: millis(node.ca_not_after.0),
                banned: node.banned,
                pending: session.map_or(0, |session| session.pending),
                remote: session.map(|session| session.remote.to_string()).unwrap_or_default(),
                name,
            }
        };
        Ok(self.issuer.nodes().iter().map(|known| node(known)).collect())
    }

    fn link(&self) -> Option<CloudLink> {
        None
    }

    fn policy(&self) -> Result<&PolicyHandle, Status> {
        Err(Status::failed_precondition("a cloud decides about no topics; ask an edge"))
    }
}

fn event_of((id, event): (EventId, NodeEvent)) -> Event {
    let (kind, topic) = event.kind.split_once('/').unwrap_or((&event.kind, ""));
    let payload = match &event.content {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Event {
        id: id.to_string(),
        at_ms: millis(event.at.0),
        kind: kind.to_owned(),
        topic: topic.to_owned(),
        payload,
    }
}

fn device_id(text: &str) -> Result<DeviceId, Status> {
    text.parse().map_err(|error: bridge_core::InvalidDeviceId| Status::invalid_argument(error.to_string()))
}

fn named(node: &str) -> Option<&str> {
    Some(node).filter(|node| !node.is_empty())
}

fn desired_of(device: &Device) -> impl Iterator<Item = (String, String)> {
    device.twin.iter().filter_map(|(name, property)| Some((name.clone(), property.desired.clone()?)))
}

fn wanted(value: String) -> Desired {
    Desired { value, ..Desired::default() }
}

fn edge_device(device: &bridge_core::twin::Device) -> Device {
    Device {
        id: device.id.to_string(),
        name: device.id.name().to_owned(),
        description: device.description.clone(),
        twin: device
            .twin
            .iter()
            .map(|(name, twin)| (name.clone(), property(Some(twin), Some(twin))))
            .collect(),
        state: device.state.clone(),
        last_online_ms: online_ms(&device.last_online),
        ..Device::default()
    }
}

fn cloud_device(record: &DeviceRecord) -> Device {
    let names: BTreeSet<&String> = record.desired.keys().chain(record.reported.keys()).collect();
    let twin: BTreeMap<String, TwinProperty> = names
        .into_iter()
        .map(|name| (name.clone(), property(record.desired.get(name), record.reported.get(name))))
        .collect();
    Device {
        id: record.id.to_string(),
        name: record.id.name().to_owned(),
        description: record.description.clone(),
        node: record.node.clone(),
        twin: twin.into_iter().collect(),
        state: record.state.clone(),
        last_online_ms: online_ms(&record.last_online),
    }
}

fn property(desired: Option<&MsgTwin>, actual: Option<&MsgTwin>) -> TwinProperty {
    let value = |value: Option<&TwinValue>| value.and_then(|value| value.value.clone());
    let mut kinds = [desired, actual].into_iter().flatten().filter_map(|twin| twin.metadata.as_ref());
    let kind = kinds.find(|of| !of.kind.is_empty()).map(|of| of.kind.clone()).unwrap_or_default();
    let desired = desired.and_then(|twin| twin.expected.as_ref());
    let actual = actual.and_then(|twin| twin.actual.as_ref());
    let at =
        |value: Option<&TwinValue>| value.and_then(|value| value.metadata).map_or(0, |set| set.timestamp);
    TwinProperty {
        desired: value(desired),
        actual: value(actual),
        desired_at_ms: at(desired),
        actual_at_ms: at(actual),
        r#type: kind,
    }
}

/// When a device was last online, as its mapper said; 0 where it did not.
fn online_ms(last_online: &str) -> i64 {
    let time = OffsetDateTime::parse(last_online, &Rfc3339).ok();
    time.and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()).unwrap_or_default()
}

fn millis(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn device_status(error: &DeviceError) -> Status {
    let text = error.to_string();
    match error {
        DeviceError::Unknown(_) => Status::not_found(text),
        DeviceError::Exists(_) => Status::already_exists(text),
        DeviceError::Invalid(_) => Status::invalid_argument(text),
        DeviceError::Stopping => Status::unavailable(text),
        _ => Status::data_loss(text),
    }
}

fn hub_status(error: &HubError) -> Status {
    let text = error.to_string();
    match error {
        HubError::NoDevice(_) | HubError::NoRule(_) => Status::not_found(text),
        HubError::DeviceExists { .. } => Status::already_exists(text),
        HubError::Store(_) => Status::data_loss(text),
        HubError::DeviceId(_)
        | HubError::Desired(_)
        | HubError::NodeName { .. }
        | HubError::RuleTaken { .. }
        | HubError::RuleName(_)
        | HubError::Ambiguous { .. } => Status::invalid_argument(text),
        _ => Status::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_says_what_type_a_value_has_and_when_it_was_set() {
        let twin: MsgTwin = serde_json::from_value(serde_json::json!({
            "expected": { "value": "ON", "metadata": { "timestamp": 7 } },
            "actual": { "value": "OFF", "metadata": { "timestamp": 5 } },
            "metadata": { "type": "string" },
        }))
        .unwrap();
        let shown = property(Some(&twin), Some(&twin));
        assert_eq!((shown.desired_at_ms, shown.actual_at_ms, &*shown.r#type), (7, 5, "string"));
        assert_eq!((online_ms("2023-11-14T22:13:20Z"), online_ms("")), (1_700_000_000_000, 0));
    }
}
