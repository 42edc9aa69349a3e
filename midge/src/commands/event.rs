//! `midge event …`: what applications on nodes have sent up, as it is kept at the cloud.

use super::admin::Admin;
use crate::cli::EventCommand;
use crate::output::{self, Output};
use bridge_core::twin::rfc3339;
use midge_api::midge::v1::{Event, ListEventsRequest};
use midge_identity::UnixMillis;
use std::time::Duration;

/// How often new events are asked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(admin: &Admin, command: EventCommand, output: Output) -> anyhow::Result<()> {
    let EventCommand::List { node, since, follow } = command;
    let mut request = ListEventsRequest { node, since: since.unwrap_or_default() };
    let (mut client, mut all) = (admin.midge().await?, Vec::new());
    loop {
        let page = client.list_events(request.clone()).await;
        let events = page.map_err(|status| admin.error(&status))?.into_inner().events;
        if let Some(last) = events.last() {
            request.since.clone_from(&last.id);
        } else if follow {
            tokio::time::sleep(FOLLOW_EVERY).await;
        } else {
            break;
        }
        match output {
            Output::Json if follow => {
                for event in &events {
                    output::line(serde_json::to_string(event)?);
                }
            }
            Output::Json => all.extend(events),
            Output::Pretty => events.iter().for_each(|event| output::line(text_of(event))),
        }
    }
    match output {
        Output::Json => output::json(&serde_json::json!({ "events": all })),
        Output::Pretty => Ok(()),
    }
}

/// One line: nobody's topic or payload may look like another.
fn text_of(event: &Event) -> String {
    let at = rfc3339(UnixMillis(u64::try_from(event.at_ms).unwrap_or_default()));
    let topic = output::plain(&event.topic);
    format!("{} {at} {topic} {}", event.id, output::plain(&event.payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let event = Event {
            id: "1-7".into(),
            at_ms: 1_700_000_000_000,
            kind: "upload".into(),
            topic: "a/user/b".into(),
            payload: "one\n1-8 two".into(),
        };
        assert_eq!(text_of(&event), "1-7 2023-11-14T22:13:20Z a/user/b one\\n1-8 two");
    }
}
