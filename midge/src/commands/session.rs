//! `midge session …`: the MQTT sessions of the box.

use super::admin::Admin;
use crate::cli::SessionCommand;
use crate::output::{self, Output};
use midge_api::midge::v1::{EndSessionRequest, ListSessionsRequest, Session};
use midge_identity::UnixMillis;

pub(crate) async fn run(admin: &Admin, command: SessionCommand, output: Output) -> anyhow::Result<()> {
    match command {
        SessionCommand::List => list(admin, output).await,
        SessionCommand::End { spiffe_id, client_id } => end(admin, spiffe_id, client_id, output).await,
    }
}

async fn end(admin: &Admin, spiffe_id: String, client_id: String, output: Output) -> anyhow::Result<()> {
    let request = EndSessionRequest { spiffe_id: spiffe_id.clone(), client_id: client_id.clone() };
    admin.midge().await?.end_session(request).await.map_err(|status| admin.error(&status))?;
    if output == Output::Json {
        let ended = serde_json::json!({ "spiffe_id": spiffe_id, "client_id": client_id });
        return output::json(&serde_json::json!({ "ended": ended }));
    }
    output::line(format_args!(
        "Session {client_id} of {spiffe_id} is ended; while an entry and a rule let it in, it may connect again"
    ));
    Ok(())
}

async fn list(admin: &Admin, output: Output) -> anyhow::Result<()> {
    let response = admin.midge().await?.list_sessions(ListSessionsRequest {}).await;
    let sessions = response.map_err(|status| admin.error(&status))?.into_inner().sessions;
    if output == Output::Json {
        return output::json(&serde_json::json!({ "sessions": sessions }));
    }
    let rows: Vec<Vec<String>> = sessions
        .into_iter()
        .map(|session| {
            let state = state(&session);
            vec![
                session.spiffe_id,
                session.client_id,
                state,
                session.protocol,
                session.proof.unwrap_or_default(),
                session.remote.unwrap_or_default(),
                session.queued.to_string(),
                session.subscriptions.join(" "),
            ]
        })
        .collect();
    output::table(
        &["SPIFFE ID", "CLIENT ID", "STATE", "MQTT", "PROOF", "FROM", "QUEUED", "SUBSCRIPTIONS"],
        &rows,
    );
    Ok(())
}

/// Whether a client is there, and until when the session waits for one.
fn state(session: &Session) -> String {
    if session.connected {
        return "connected".into();
    }
    let ends = session.ends_at_ms.and_then(|at| u64::try_from(at).ok());
    ends.map_or_else(|| "parked".into(), |at| format!("parked until {}", UnixMillis(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_session_says_when_it_ends() {
        let parked = Session { ends_at_ms: Some(1_000), ..Session::default() };
        assert_eq!(state(&parked), "parked until 1970-01-01T00:00:01Z");
        assert_eq!(state(&Session::default()), "parked");
        assert_eq!(state(&Session { connected: true, ..parked }), "connected");
    }
}
