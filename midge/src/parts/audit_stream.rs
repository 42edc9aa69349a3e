//! `$identity/audit/#`: the audit log as it grows, for identities that may subscribe to it.

use bytes::Bytes;
use midge_audit::AuditLog;
use midge_broker::Hub;
use mqtt_proto::{Publication, QoS, TopicName};
use tokio::sync::mpsc;

/// Lines that wait for the broker; beyond it they are not streamed. The files have them.
const WAITING_MAX: usize = 1_024;
/// Lines published before others have their turn at the broker.
const BATCH: usize = 64;
const TOPIC: &str = "$identity/audit/";

/// Streams every line from now on; whoever runs the future publishes them.
pub(crate) fn stream(log: &AuditLog, hub: Hub) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let (sender, mut lines) = mpsc::channel(WAITING_MAX);
    log.stream_to(move |event, line| {
        if !is_of_the_stream(event, line) {
            // The writer must not wait: what does not fit is not streamed.
            sender.try_send((event, Bytes::copy_from_slice(line))).unwrap_or_default();
        }
    });
    async move {
        let mut batch = Vec::with_capacity(BATCH);
        while lines.recv_many(&mut batch, BATCH).await > 0 {
            let publications = batch.drain(..).filter_map(|(event, line)| publication(event, line));
            hub.publish_own(publications);
        }
        Ok(())
    }
}

fn publication(event: &str, payload: Bytes) -> Option<Publication> {
    let topic = TopicName::new(format!("{TOPIC}{event}")).ok()?;
    Some(Publication { topic, payload, qos: QoS::AtLeastOnce, retain: false, properties: None })
}

/// Whether delivering the stream has caused it: a message of it that its receiver may not have any more.
fn is_of_the_stream(event: &str, line: &[u8]) -> bool {
    let names = |key: &str| {
        let start = format!("\"{key}\":\"{TOPIC}");
        line.windows(start.len()).any(|window| window == start.as_bytes())
    };
    let is_of_receipt = || {
        const OF: &[u8] = br#""of":"receive-denied""#;
        line.windows(OF.len()).any(|window| window == OF)
    };
    match event {
        "receive-denied" => names("topic"),
        midge_audit::event::REPEATED => is_of_receipt() && names("class"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_feed_itself() {
        let denied = br#"{"event":"receive-denied","topic":"$identity/audit/connected"}"#;
        assert!(is_of_the_stream("receive-denied", denied));
        assert!(is_of_the_stream(
            "repeated",
            br#"{"of":"receive-denied","class":"$identity/audit/connected"}"#
        ));
        assert!(!is_of_the_stream("receive-denied", br#"{"event":"receive-denied","topic":"a/b"}"#));
        // Somebody else's wish is news, whatever it names.
        assert!(!is_of_the_stream("publish-denied", br#"{"topic":"$identity/audit/x"}"#));
        let repeated = br#"{"of":"publish-denied","class":"$identity/audit/x","count":3}"#;
        assert!(!is_of_the_stream("repeated", repeated));
    }
}
