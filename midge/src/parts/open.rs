//! `open-to-own-uid`: for measuring and conformance suites.

use super::edge::EdgeBox;
use issuer_core::{Origin, RegistrationEntry, Selector};
use midge_identity::SpiffeId;

/// Reserved: an entry with this ID is replaced or deleted at each start.
const ENTRY: &str = "open-to-own-uid";

/// Everything that clients exchange messages by. `#` has no topic that begins with `$` (MQTT 5.0 §4.7.2); of
/// those, KubeEdge's are for clients, and `$SYS` and `$identity` are the broker's own word.
const PUBLISH: [&str; 3] = ["#", "$hw/#", "$ke/#"];

/// The same, with the broker's figures.
const SUBSCRIBE: [&str; 4] = ["#", "$hw/#", "$ke/#", "$SYS/#"];

/// Returns the user that runs this process.
pub(crate) fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Gives the user that runs this process an identity that may do everything.
pub(crate) async fn allow_own_uid(node: &EdgeBox) -> anyhow::Result<()> {
    let uid = own_uid();
    tracing::warn!(
        uid,
        publish = PUBLISH.join(" "),
        subscribe = SUBSCRIBE.join(" "),
        "OPEN: every process of this user may publish and subscribe to everything (open-to-own-uid)"
    );
    close(node).await?;
    node.issuer.create_entry(entry(&node.id, uid)?, Origin::Edge).await?;
    Ok(())
}

fn entry(node: &SpiffeId, uid: u32) -> anyhow::Result<RegistrationEntry> {
    let owned = |topics: &[&str]| topics.iter().map(|topic| (*topic).to_owned()).collect();
    let spiffe_id = SpiffeId::new(format!("{node}/app/open"))?;
    let selectors = vec![Selector { kind: "unix".into(), value: format!("uid:{uid}") }];
    Ok(RegistrationEntry {
        publish: owned(&PUBLISH),
        subscribe: owned(&SUBSCRIBE),
        ..RegistrationEntry::new(ENTRY, spiffe_id, node.clone(), selectors)
    })
}

/// Takes that identity away again, where an earlier start has given it.
pub(crate) async fn close(node: &EdgeBox) -> anyhow::Result<()> {
    if node.issuer.entry(ENTRY).is_ok_and(|entry| entry.origin == Origin::Edge) {
        node.issuer.delete_entry(ENTRY).await?;
        tracing::info!("the entry of an earlier open-to-own-uid is deleted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::{PublishFacts, Rule, Sources, SubscribeMode};
    use mqtt_proto::{QoS, SharedFilter, TopicName};

    fn rights(id: &SpiffeId) -> std::sync::Arc<midge_policy::Rights> {
        let entry = entry(&SpiffeId::new("spiffe://td/edge/n").unwrap(), 1000).unwrap();
        let mut sources = Sources::default();
        sources.set_files(&[], true).unwrap();
        let grant = Rule::grant(&entry.id, &entry.spiffe_id, &entry.publish, &entry.subscribe);
        assert_eq!(sources.set_grants(&[grant], []), []);
        sources.policy().rights(id)
    }

    fn may_publish(id: &SpiffeId, topic: &str) -> bool {
        rights(id).publish(&TopicName::new(topic).unwrap(), PublishFacts::default()).is_ok()
    }

    fn may_subscribe(id: &SpiffeId, filter: &str) -> bool {
        let filter = SharedFilter::new(filter).unwrap();
        rights(id).subscribe(&filter, QoS::AtLeastOnce, SubscribeMode::Reject).is_ok()
    }

    #[test]
    fn what_clients_exchange_is_open_and_the_word_of_the_broker_is_not() {
        let open = SpiffeId::new("spiffe://td/edge/n/app/open").unwrap();
        let uploads = ["a/b", "$hw/events/upload/x", "$ke/events/device/led/data/update"];
        assert!(uploads.iter().all(|topic| may_publish(&open, topic)));
        assert!(may_publish(&open, "$hw/events/device/led/twin/update"));
        let own_word = ["$SYS/broker/version", "$identity/audit/connected", "$other/x"];
        assert!(!own_word.iter().any(|topic| may_publish(&open, topic)));
        assert!(!may_publish(&open, "$hw/events/device/led/twin/cloud_updated"), "forges desired values");

        let filters = ["$hw/events/device/+/twin/#", "$ke/#", "$SYS/#", "+/user/#"];
        assert!(filters.iter().all(|filter| may_subscribe(&open, filter)));
        assert!(!["$identity/audit/#", "$other/#"].iter().any(|filter| may_subscribe(&open, filter)));
    }

    #[test]
    fn nobody_else_gets_anything() {
        let other = SpiffeId::new("spiffe://td/edge/n/app/other").unwrap();
        assert!(!["a/b", "$hw/events/upload/x"].iter().any(|topic| may_publish(&other, topic)));
        assert!(!["a/b", "$hw/#", "$SYS/#"].iter().any(|filter| may_subscribe(&other, filter)));
    }
}
