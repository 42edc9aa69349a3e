//! The policy on the admin socket: how it is, reload, the candidate, and observing.

use super::data_dir::absolute;
use super::policy::{Fault, Lint, PolicyHandle};
use futures_util::Stream;
use midge_api::midge::v1::{
    ObserveAccessRequest, ObservedPage, PolicyFinding, PolicyStatus, RefusedChange, ReloadPolicyResponse,
    ReloadedCandidate, ShadowDifference, ShadowPolicy, ShadowSample, ShadowStatus,
};
use midge_identity::UnixMillis;
use midge_policy::{RuleName, Subject};
use midge_policy_tools::{Difference, Finding, Severity};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// How long a reload waits to hear what the rules do not do; they are in force by then.
const LINT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest observation: a month.
const OBSERVE_MAX_SECS: u64 = 31 * 86_400;

/// Lines of one message: far below the limit of 4 MiB that gRPC has for one, as topics may have 64 KiB.
const PAGE_BYTES: usize = 1024 * 1024;

/// Returns how the policy is.
pub(crate) fn status(policy: &PolicyHandle) -> PolicyStatus {
    let state = policy.state.borrow().clone();
    let (taken, refused) = state
        .changes
        .iter()
        .fold((0, 0), |(taken, refused), changes| (taken + changes.taken, refused + changes.refused));
    let shadow = policy.watchers.shadow().map(|shadow| ShadowStatus {
        dir: shown(state.shadow_dir.as_deref()),
        asked: shadow.asked,
        gained: shadow.gained,
        lost: shadow.lost,
    });
    PolicyStatus {
        epoch: state.epoch,
        rules: count(state.rules),
        file_rules: count(state.counts.files),
        builtin_rules: count(state.counts.builtin),
        cloud_rules: count(state.counts.cloud),
        entry_rules: count(state.counts.entries),
        dir: shown(state.dir.as_deref()),
        taken_at_ms: millis(state.taken_at),
        taken,
        refused,
        last_refused: state.refused.map(|refused| RefusedChange {
            at_ms: millis(refused.at),
            source: refused.origin.name().into(),
            faults: refused.faults.iter().map(fault).collect(),
            corrected: refused.is_corrected,
        }),
        warnings: match &state.lint {
            Lint::Known(findings) => count(findings.len()),
            Lint::Unknown | Lint::TooMany(_) => 0,
        },
        shadow,
    }
}

/// Reads the policy files now.
pub(crate) async fn reload(policy: &PolicyHandle) -> Result<ReloadPolicyResponse, Status> {
    let reloaded = policy.reload().await.ok_or_else(|| Status::unavailable("the box is stopping"))?;
    let candidate = reloaded.candidate.map(|candidate| ReloadedCandidate {
        present: candidate.is_there,
        changed: *candidate.taken.as_ref().unwrap_or(&false),
        faults: candidate.taken.err().iter().flatten().map(fault).collect(),
    });
    let in_force = |taken, changed| {
        let state = policy.state.borrow();
        ReloadPolicyResponse {
            taken,
            changed,
            epoch: state.epoch,
            rules: count(state.rules),
            candidate: candidate.clone(),
            ..ReloadPolicyResponse::default()
        }
    };
    let (load, changed) = match reloaded.files {
        Ok(loaded) => loaded,
        Err(faults) => {
            let faults = faults.iter().map(fault).collect();
            return Ok(ReloadPolicyResponse { faults, ..in_force(false, false) });
        }
    };
    let answer = in_force(true, changed);
    let mut state = policy.state.clone();
    // A later load may overtake this one; then its rules are those in force.
    let linted = tokio::time::timeout(LINT_TIMEOUT, state.wait_for(|state| state.linted >= load)).await;
    let lint = linted.ok().and_then(Result::ok).map(|state| state.lint.clone()).unwrap_or_default();
    Ok(match lint {
        Lint::Known(findings) => {
            ReloadPolicyResponse { linted: true, warnings: findings.iter().map(finding).collect(), ..answer }
        }
        Lint::Unknown | Lint::TooMany(_) => answer,
    })
}

/// Returns what the candidate would decide otherwise.
pub(crate) fn shadow(policy: &PolicyHandle) -> ShadowPolicy {
    let state = policy.state.borrow().clone();
    let refused = state.shadow_refused.filter(|refused| !refused.is_corrected);
    let base = ShadowPolicy {
        dir: shown(state.shadow_dir.as_deref()),
        faults: refused.iter().flat_map(|refused| &refused.faults).map(fault).collect(),
        ..ShadowPolicy::default()
    };
    let found = policy.watchers.with_shadow(|shadow, counts| ShadowPolicy {
        active: true,
        rules: count(counts.rules),
        since_ms: millis(counts.since),
        asked: counts.asked,
        gained: counts.gained,
        lost: counts.lost,
        differences: shadow.differences().into_iter().map(difference).collect(),
        uncounted: shadow.uncounted(),
        ..base.clone()
    });
    found.unwrap_or(base)
}

pub(crate) type Observations = Pin<Box<dyn Stream<Item = Result<ObservedPage, Status>> + Send>>;

/// Watches for a while; what was seen comes at the end of it, when another request comes, or when the box stops.
pub(crate) fn observe(
    policy: PolicyHandle,
    request: ObserveAccessRequest,
    mut requests: Streaming<ObserveAccessRequest>,
) -> Result<Observations, Status> {
    let ObserveAccessRequest { secs, denied } = request;
    if secs == 0 || secs > OBSERVE_MAX_SECS {
        return Err(Status::invalid_argument(format!("secs must be 1 to {OBSERVE_MAX_SECS}, not {secs}")));
    }
    let observed = policy
        .watchers
        .observe(denied)
        .ok_or_else(|| Status::resource_exhausted("others observe already; wait for them to end"))?;
    let (sender, pages) = tokio::sync::mpsc::channel(2);
    tokio::spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(secs)) => {}
            () = policy.ended() => {}
            // Another request says that it is enough; that none follows says nothing.
            Ok(Some(_)) = requests.message() => {}
            // Nobody is left to be told.
            () = sender.closed() => return,
        }
        let (seen, left_out) = observed.take();
        let lines = seen.iter().filter_map(|seen| serde_json::to_string(seen).ok());
        let mut page = ObservedPage { lines: Vec::new(), left_out };
        let mut bytes = 0;
        for line in lines {
            bytes += line.len();
            page.lines.push(line);
            if bytes > PAGE_BYTES {
                let full = std::mem::replace(&mut page, ObservedPage { lines: Vec::new(), left_out });
                if sender.send(Ok(full)).await.is_err() {
                    return;
                }
                bytes = 0;
            }
        }
        // Whoever has left needs none.
        drop(sender.send(Ok(page)).await);
    });
    Ok(Box::pin(ReceiverStream::new(pages)))
}

fn difference(difference: &Difference) -> ShadowDifference {
    let rule = |rule: &Option<RuleName>| rule.as_ref().map(ToString::to_string).unwrap_or_default();
    let samples = difference.samples.iter().map(|sample| ShadowSample {
        spiffe_id: sample.id.to_string(),
        topic: match &sample.subject {
            Subject::Topic(topic) => topic.as_str().into(),
            Subject::Filter(filter) => match &filter.group {
                Some(group) => format!("$share/{group}/{}", filter.filter),
                None => filter.filter.to_string(),
            },
            Subject::Client(client_id) => client_id.to_string(),
        },
        why: sample.why.clone(),
    });
    ShadowDifference {
        action: difference.action.into(),
        kind: if difference.would_allow { "gained" } else { "lost" }.into(),
        active_rule: rule(&difference.active),
        candidate_rule: rule(&difference.candidate),
        count: difference.count,
        samples: samples.collect(),
    }
}

fn fault(fault: &Fault) -> PolicyFinding {
    PolicyFinding {
        severity: "error".into(),
        code: "fault".into(),
        rule: fault.rule.clone().unwrap_or_default(),
        place: fault.place.clone(),
        message: fault.message.clone(),
        remedy: String::new(),
    }
}

fn finding(finding: &Finding) -> PolicyFinding {
    PolicyFinding {
        severity: if finding.severity == Severity::Warning { "warning" } else { "note" }.into(),
        code: finding.code.into(),
        rule: finding.rule.clone(),
        place: finding.place.clone(),
        message: finding.message.clone(),
        remedy: finding.remedy.clone(),
    }
}

/// Whoever reads it may be in another directory than the process.
fn shown(path: Option<&Path>) -> String {
    path.map(absolute).unwrap_or_default()
}

fn millis(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
