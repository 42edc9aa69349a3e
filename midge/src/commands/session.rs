use super::admin::Admin;
use crate::cli::SessionCommand;
use crate::output::{self, Output};
use midge_api::midge::v1::ListSessionsRequest;

pub(crate) async fn run(admin: &Admin, command: SessionCommand, output: Output) -> anyhow::Result<()> {
    let SessionCommand::List = command;
    let response = admin.midge().await?.list_sessions(ListSessionsRequest {}).await;
    let sessions = response.map_err(|status| admin.error(&status))?.into_inner().sessions;
    if output == Output::Json {
        return output::json(&serde_json::json!({ "sessions": sessions }));
    }
    let rows: Vec<Vec<String>> = sessions
        .into_iter()
        .map(|session| {
            let state = if session.connected { "connected" } else { "parked" };
            vec![
                session.spiffe_id,
                session.client_id,
                state.into(),
                session.protocol,
                session.proof,
                session.queued.to_string(),
                session.subscriptions.join(" "),
            ]
        })
        .collect();
    output::table(&["SPIFFE ID", "CLIENT ID", "STATE", "MQTT", "PROOF", "QUEUED", "SUBSCRIPTIONS"], &rows);
    Ok(())
}
