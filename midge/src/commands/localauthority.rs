//! `midge localauthority x509 …`: the authorities of a cloud, or of a box without one.

use super::admin::Admin;
use crate::cli::{AuthorityId, LocalAuthorityCommand, X509AuthorityCommand};
use crate::output::{self, Output};
use midge_api::spire::api::server::localauthority::v1::{
    ActivateX509AuthorityRequest, AuthorityState, GetX509AuthorityStateRequest, PrepareX509AuthorityRequest,
    RevokeX509AuthorityRequest, TaintX509AuthorityRequest, authority_state::Status,
};
use serde_json::{Value, json};

pub(crate) async fn run(admin: &Admin, command: LocalAuthorityCommand, output: Output) -> anyhow::Result<()> {
    let LocalAuthorityCommand::X509(command) = command;
    let mut client = admin.local_authorities().await?;
    let error = |status| admin.error(&status);
    match command {
        X509AuthorityCommand::Show => {
            let answer =
                client.get_x509_authority_state(GetX509AuthorityStateRequest {}).await.map_err(error)?;
            show(&answer.into_inner().states, output)
        }
        X509AuthorityCommand::Prepare => {
            let answer =
                client.prepare_x509_authority(PrepareX509AuthorityRequest {}).await.map_err(error)?;
            done(answer.into_inner().prepared_authority, &Done::PREPARED, output)
        }
        X509AuthorityCommand::Activate(AuthorityId { authority_id }) => {
            let request = ActivateX509AuthorityRequest { authority_id };
            let answer = client.activate_x509_authority(request).await.map_err(error)?;
            done(answer.into_inner().activated_authority, &Done::ACTIVATED, output)
        }
        X509AuthorityCommand::Taint(AuthorityId { authority_id }) => {
            let request = TaintX509AuthorityRequest { authority_id };
            let answer = client.taint_x509_authority(request).await.map_err(error)?;
            done(answer.into_inner().tainted_authority, &Done::TAINTED, output)
        }
        X509AuthorityCommand::Revoke(AuthorityId { authority_id }) => {
            let request = RevokeX509AuthorityRequest { authority_id };
            let answer = client.revoke_x509_authority(request).await.map_err(error)?;
            done(answer.into_inner().revoked_authority, &Done::REVOKED, output)
        }
    }
}

/// What has been done, and what comes next.
struct Done {
    what: &'static str,
    then: &'static str,
}

impl Done {
    const PREPARED: Self =
        Self { what: "prepared", then: "once boxes and agents have its root, `activate` lets it sign" };
    const ACTIVATED: Self = Self { what: "active", then: "`taint` ends what the one before it signed" };
    const TAINTED: Self = Self {
        what: "tainted",
        then: "what it signed is renewed now; `revoke` it when every box was connected since",
    };
    const REVOKED: Self = Self { what: "revoked", then: "nobody trusts it any more" };
}

fn done(authority: Option<AuthorityState>, done: &Done, output: Output) -> anyhow::Result<()> {
    let authority = authority.unwrap_or_default();
    if output == Output::Json {
        return output::json(&document(&authority));
    }
    output::line(format_args!("Authority {} is {}; {}", authority.authority_id, done.what, done.then));
    Ok(())
}

fn show(authorities: &[AuthorityState], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        let authorities: Vec<Value> = authorities.iter().map(document).collect();
        return output::json(&json!({ "authorities": authorities }));
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let row = |authority: &AuthorityState| {
        let left = u64::try_from(authority.expires_at.saturating_sub(now)).unwrap_or_default();
        let ends = if left == 0 { "ended".into() } else { format!("in {}", output::span(left)) };
        let tainted = if authority.tainted { "tainted" } else { "" };
        vec![authority.authority_id.clone(), name(authority.status()).into(), tainted.into(), ends]
    };
    let rows: Vec<Vec<String>> = authorities.iter().map(row).collect();
    output::table(&["AUTHORITY ID", "STATE", "TRUST", "ENDS"], &rows);
    Ok(())
}

fn document(authority: &AuthorityState) -> Value {
    json!({
        "authority_id": authority.authority_id,
        "state": name(authority.status()),
        "tainted": authority.tainted,
        "expires_at": authority.expires_at,
    })
}

fn name(status: Status) -> &'static str {
    match status {
        Status::Unknown => "unknown",
        Status::Prepared => "prepared",
        Status::Active => "active",
        Status::Old => "old",
    }
}
