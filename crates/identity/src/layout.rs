//! Whose a path in a trust domain is: `/edge/<node>` is a box, whatever lies below it speaks by the CA of that box,
//! and `/cloud/hub` is the cloud's end of the channel.
//!
//! Names that end with `_id` make an ID, the others read one. What else lies below a box is its entries' affair.

use crate::{SpiffeId, SpiffeIdError, TrustDomain};

/// Returns the ID of a box by its name.
///
/// # Errors
/// The name cannot be a segment of an ID.
pub fn node_id(trust_domain: &TrustDomain, node: &str) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::from_segments(trust_domain.clone(), &["edge", node])
}

/// Returns the ID of a box's MQTT broker.
///
/// # Errors
/// The name cannot be a segment of an ID.
pub fn broker_id(trust_domain: &TrustDomain, node: &str) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::from_segments(trust_domain.clone(), &["edge", node, "broker"])
}

/// Returns the ID of a box's event bus.
///
/// # Errors
/// The name cannot be a segment of an ID.
pub fn event_bus_id(trust_domain: &TrustDomain, node: &str) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::from_segments(trust_domain.clone(), &["edge", node, "event-bus"])
}

/// Returns the ID of the cloud's end of the channel.
///
/// # Errors
/// The ID would be longer than one may be.
pub fn cloud_hub_id(trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::from_segments(trust_domain.clone(), &["cloud", "hub"])
}

/// Returns the name of the box whose ID this is, or below which it lies.
pub fn node_of(id: &SpiffeId) -> Option<&str> {
    id.path().strip_prefix("/edge/")?.split('/').next().filter(|node| !node.is_empty())
}

/// Tells whether it is the ID of a box, and not only of something below one.
pub fn is_node(id: &SpiffeId) -> bool {
    matches!(segments(id).as_slice(), ["edge", _])
}

/// Tells whether it is the ID of an agent in a process of its own, or lies below one.
pub fn is_agent(id: &SpiffeId) -> bool {
    let mut segments = id.path().split('/').skip(1);
    (segments.next(), segments.nth(1)) == (Some("edge"), Some("agent"))
}

/// Tells whether it is the ID of an agent in a process of its own beside this box.
pub fn is_agent_of(id: &SpiffeId, node: &SpiffeId) -> bool {
    let below = id.path().strip_prefix(node.path()).and_then(|rest| rest.strip_prefix("/agent/"));
    id.trust_domain() == node.trust_domain() && below.is_some_and(|host| !host.is_empty())
}

/// Tells whether a box, its broker, its event bus or the cloud's end of the channel proves itself by this ID.
pub fn is_builtin(id: &SpiffeId) -> bool {
    matches!(segments(id).as_slice(), ["edge", _] | ["edge", _, "broker" | "event-bus"] | ["cloud", "hub"])
}

/// Returns the path prefix for which the CA of a box may speak, if the ID is a box's or lies below one.
pub fn scope_of(id: &SpiffeId) -> Option<String> {
    node_of(id).map(|node| format!("/edge/{node}/"))
}

fn segments(id: &SpiffeId) -> Vec<&str> {
    id.path().split('/').skip(1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> SpiffeId {
        SpiffeId::new(format!("spiffe://td{path}")).unwrap()
    }

    #[test]
    fn what_is_made_is_read_as_what_it_is() {
        let td = TrustDomain::new("td").unwrap();
        let node = node_id(&td, "box").unwrap();
        assert_eq!(node, id("/edge/box"));
        assert!(is_node(&node) && is_builtin(&node));
        for part in [broker_id(&td, "box").unwrap(), event_bus_id(&td, "box").unwrap()] {
            assert!(is_builtin(&part) && !is_node(&part), "{part}");
            assert_eq!(node_of(&part), Some("box"));
        }
        let hub = cloud_hub_id(&td).unwrap();
        assert!(is_builtin(&hub) && !is_node(&hub) && node_of(&hub).is_none());
        for name in ["", "a/b", "..", "a b"] {
            assert!(node_id(&td, name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_box_has_what_lies_below_its_path() {
        for path in ["/edge/box", "/edge/box/app", "/edge/box/app/x"] {
            assert_eq!(
                (node_of(&id(path)), scope_of(&id(path)).as_deref()),
                (Some("box"), Some("/edge/box/"))
            );
        }
        for path in ["/edge", "/edges/box", "/cloud", "/app", ""] {
            assert_eq!((node_of(&id(path)), scope_of(&id(path))), (None, None), "{path}");
            assert!(!is_node(&id(path)), "{path}");
        }
        assert!(!is_node(&id("/edge/box/app")));
    }

    #[test]
    fn only_the_servers_own_parts_are_builtin() {
        for path in
            ["/edge/box/brokers", "/edge/box/broker/x", "/edge/box/app/broker", "/edge/box/agent/b", "/edge"]
        {
            assert!(!is_builtin(&id(path)), "{path}");
        }
    }

    #[test]
    fn an_agent_is_beside_its_own_box_only() {
        let node = id("/edge/box");
        assert!(is_agent_of(&id("/edge/box/agent/host"), &node));
        for path in ["/edge/box", "/edge/box/agent", "/edge/box2/agent/host", "/edge/box/app/agent"] {
            assert!(!is_agent_of(&id(path), &node), "{path}");
        }
        let elsewhere = SpiffeId::new("spiffe://other/edge/box/agent/host").unwrap();
        assert!(is_agent(&elsewhere) && !is_agent_of(&elsewhere, &node));
        assert!(is_agent(&id("/edge/box/agent/host")) && !is_agent(&id("/edge/box/app/agent")));
        assert!(!is_agent(&node));
    }
}
