//! `midge status`: how an edge or cloud is, and until when it can act alone.

use super::admin::Admin;
use crate::exit;
use crate::output::{self, Output};
use midge_api::midge::v1::{PolicyStatus, StatusRequest, StatusResponse};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) async fn run(admin: &Admin, output: Output) -> anyhow::Result<ExitCode> {
    let response = admin.midge().await?.status(StatusRequest {}).await;
    let status = response.map_err(|status| admin.error(&status))?.into_inner();
    match output {
        Output::Json => output::json(&status)?,
        Output::Pretty => print(&status),
    }
    Ok(if status.degraded.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

fn print(status: &StatusResponse) {
    let mut fields = vec![
        ("Role", status.role.clone()),
        ("Trust domain", status.trust_domain.clone()),
        ("Federated", status.federated.join(", ")),
        ("Node", status.node.clone()),
        ("Version", status.version.clone()),
        ("Uptime", output::span(status.uptime_secs)),
    ];
    if let Some(lease) = &status.lease {
        let text = match lease.remaining_secs {
            None => "never ends".into(),
            Some(secs) if secs <= 0 => "ended".into(),
            Some(secs) => format!("{} more", output::span(u64::try_from(secs).unwrap_or_default())),
        };
        fields.push(("Lease", format!("{text} ({})", lease.reason)));
    }
    if let Some(ca) = &status.ca {
        let next = if ca.prepared { ", next one prepared" } else { "" };
        fields.push(("CA", format!("slot {}, serial {}{next}", ca.slot, ca.serial)));
    }
    if let Some(cloud) = &status.cloud {
        let state =
            if cloud.connected { "connected".into() } else { format!("not connected: {}", cloud.last_error) };
        let lost = if cloud.dropped == 0 { String::new() } else { format!(", {} dropped", cloud.dropped) };
        fields.push(("Cloud", format!("{} {state}, {} pending{lost}", cloud.url, cloud.pending)));
        let audit = match cloud.audit_error.as_str() {
            "" => format!("the cloud has it to line {}", cloud.audit_seq),
            error => format!("the cloud has it to line {}; {error}", cloud.audit_seq),
        };
        fields.push(("Audit at cloud", audit));
    }
    if status.role == "cloud" {
        fields.push(("Nodes", status.nodes.to_string()));
    } else {
        fields.push(("Sessions", status.sessions.to_string()));
    }
    fields.push(("Entries", status.entries.to_string()));
    fields.extend(
        status
            .listeners
            .iter()
            .map(|listener| ("Listener", format!("{} {}", listener.kind, listener.address))),
    );
    if let Some(policy) = &status.policy {
        fields.extend(self::policy(policy));
    }
    if let Some(audit) = &status.audit {
        let lost = if audit.lost == 0 { String::new() } else { format!(", {} events lost", audit.lost) };
        fields.push(("Audit", format!("{}, signed to line {}{lost}", audit.path, audit.signed_seq)));
        fields.push(("Audit key", audit.key.clone()));
    }
    for problem in &status.degraded {
        fields.push(("Degraded", format!("{}; {}", problem.what, problem.remedy)));
    }
    output::fields(&fields);
}

/// Says what is in force, and what was refused of late.
fn policy(policy: &PolicyStatus) -> Vec<(&'static str, String)> {
    let PolicyStatus { epoch, rules, file_rules, builtin_rules, cloud_rules, entry_rules, .. } = policy;
    let files =
        if policy.dir.is_empty() { String::new() } else { format!("{file_rules} of {}, ", policy.dir) };
    let of = format!("{files}{builtin_rules} built-in, {cloud_rules} of the cloud, {entry_rules} of entries");
    let mut fields = vec![("Policy", format!("epoch {epoch}, {rules} rules: {of}"))];
    if policy.warnings > 0 {
        fields.push(("Policy warnings", format!("{} (`midge policy check` shows them)", policy.warnings)));
    }
    if let Some(refused) = &policy.last_refused {
        let corrected = if refused.corrected { ", corrected since" } else { "" };
        let what = format!("{} ago, {}{corrected}: ", ago(refused.at_ms), refused.source);
        let more = refused.faults.len().saturating_sub(1);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let first = refused.faults.first().map(|fault| format!("{}: {}", fault.place, fault.message));
        fields.push(("Policy refused", format!("{what}{}{more}", output::plain(&first.unwrap_or_default()))));
    }
    if let Some(shadow) = &policy.shadow {
        let counts = format!("{} decisions, {} gained, {} lost", shadow.asked, shadow.gained, shadow.lost);
        fields.push(("Shadow policy", format!("{}: {counts}", shadow.dir)));
    }
    fields
}

fn ago(at_ms: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    output::span(now.saturating_sub(u64::try_from(at_ms / 1_000).unwrap_or_default()))
}
