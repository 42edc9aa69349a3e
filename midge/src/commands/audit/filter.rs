//! Which records are wanted.

use crate::cli::AuditFilter;
use crate::commands::duration;
use crate::exit::{self, failure};
use midge_audit::{Line, event};
use midge_identity::UnixMillis;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Every kind of event, as docs/audit.md has them.
#[rustfmt::skip]
const KINDS: [&str; 60] = [
    "log-created", "file-opened", "checkpoint", "log-resumed", "log-repaired", "tail-missing", "head-missing", "head-invalid",
    "log-trimmed", "key-changed", "gap", "repeated", "started", "stopped",
    "connected", "connect-refused", "connection-refused", "disconnected", "session-ended", "reauthenticated",
    "subscribed", "unsubscribed", "subscribe-denied", "subscription-revoked", "publish-denied", "will-denied",
    "receive-denied", "retained-purged",
    "entry-created", "entry-updated", "entry-deleted", "token-made", "token-gone", "node-joined", "node-updated",
    "node-banned", "node-deleted", "svid-issued", "svid-renewed", "ca-issued", "ca-requested", "ca-prepared",
    "ca-activated", "ca-installed", "ca-tainted", "ca-key-lost", "bundle-changed", "federated-bundle-set", "federated-bundle-deleted",
    "policy-loaded", "policy-changed", "policy-refused", "rules-applied", "rule-deleted", "device-created", "device-set", "device-deleted", "session-deleted",
    "node-audit-accepted",
    "admin",
];

/// What `--since`, `--identity` and `--kind` say.
#[derive(Debug, Default)]
pub(super) struct Filter {
    since: Option<UnixMillis>,
    identity: Option<String>,
    kinds: Vec<String>,
}

impl Filter {
    pub(super) fn new(filter: &AuditFilter) -> anyhow::Result<Self> {
        if let Some(kind) = filter.kinds.iter().find(|kind| !is_kind(kind)) {
            let text = format!(
                "--kind \"{kind}\" is no kind of event{}; docs/audit.md lists them, and * stands for the rest, as in '*-denied'",
                like(kind)
            );
            return Err(failure(exit::USAGE, text));
        }
        Ok(Self {
            since: filter.since.as_deref().map(point_in_time).transpose()?,
            identity: filter.identity.clone(),
            kinds: filter.kinds.clone(),
        })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.since.is_none() && self.identity.is_none() && self.kinds.is_empty()
    }

    pub(super) fn wants(&self, line: &Line) -> bool {
        let is_kind = match self.kinds.as_slice() {
            // They say nothing to somebody who wants to know what happened.
            [] => line.event != event::CHECKPOINT,
            kinds => kinds.iter().any(|kind| matches(kind, &line.event)),
        };
        is_kind
            && self.since.is_none_or(|since| line.at >= since)
            && self.identity.as_ref().is_none_or(|wanted| {
                let identity = line.text("identity").or_else(|| line.text("spiffe-id"));
                identity.is_some_and(|identity| matches(wanted, identity) || identity.ends_with(&**wanted))
            })
    }
}

/// Whether some event can be of this kind: who mistypes one must not read that nothing happened.
fn is_kind(wanted: &str) -> bool {
    KINDS.iter().any(|kind| matches(wanted, kind))
}

/// Names a kind that may have been meant: one that begins alike.
fn like(wrong: &str) -> String {
    let alike =
        |kind: &&&str| kind.chars().zip(wrong.chars()).take_while(|(one, other)| one == other).count();
    let nearest = KINDS.iter().rev().max_by_key(alike).filter(|kind| alike(kind) >= 3);
    nearest.map(|kind| format!(" (is it \"{kind}\"?)")).unwrap_or_default()
}

/// A text, or its start, its end, or both where `*` stands for the rest.
fn matches(wanted: &str, text: &str) -> bool {
    match (wanted.strip_prefix('*'), wanted.strip_suffix('*')) {
        (Some(rest), Some(_)) => text.contains(rest.strip_suffix('*').unwrap_or_default()),
        (Some(end), None) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => text == wanted,
    }
}

/// Reads `10m`, `2h`, `1d` (ago), a time such as `2026-01-31T23:59:59Z`, or milliseconds since the epoch.
pub(super) fn point_in_time(text: &str) -> anyhow::Result<UnixMillis> {
    let wrong = || {
        let what = "write 10m, 2h or 1d for so long ago, or a time such as 2026-01-31T23:59:59Z";
        failure(exit::USAGE, format!("\"{text}\" is no time: {what}"))
    };
    if let Ok(millis) = text.parse() {
        return Ok(UnixMillis(millis));
    }
    if let Some(secs) = duration::secs(text) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        return Ok(now.before(Duration::from_secs(secs)));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong())?;
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(millis).map(UnixMillis).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(point_in_time("1970-01-01T00:00:01.5Z").unwrap(), UnixMillis(1_500));
        assert_eq!(point_in_time("1970-01-01T01:00:00+01:00").unwrap(), UnixMillis(0));
        assert_eq!(point_in_time("123").unwrap(), UnixMillis(123));
        let (hour, day) = (point_in_time("1h").unwrap(), point_in_time("1d").unwrap());
        let between = hour.since(day);
        assert!(between > Duration::from_secs(22 * 3_600) && between < Duration::from_secs(24 * 3_600));
        for wrong in ["", "yesterday", "5x", "-1m", "1960-01-01T00:00:00Z", "ä"] {
            assert!(point_in_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_kind_that_does_not_exist_is_refused_and_those_of_the_documentation_are_taken() {
        let of =
            |kind: &str| Filter::new(&AuditFilter { since: None, identity: None, kinds: vec![kind.into()] });
        let error = of("conected").unwrap_err().to_string();
        assert!(error.contains("\"conected\" is no kind of event (is it \"connected\"?)"), "{error}");
        assert!(of("").is_err());
        for kind in ["connected", "*-denied", "svid-*", "*denied*", "*", "**"] {
            of(kind).unwrap();
        }
        for kind in ["foo*", "*foo", "*foo*", "*-deniedx*", "con*ted"] {
            let error = of(kind).unwrap_err().to_string();
            assert!(error.contains("is no kind of event"), "{error}");
        }
        let documented = include_str!("../../../../docs/audit.md");
        for kind in KINDS {
            assert!(documented.contains(&format!("`{kind}`")), "{kind}");
        }
        let (first, last) = ("### Of clients", "`policy-changed` has the names");
        let listed = documented.split_once(first).and_then(|(_, rest)| rest.split_once(last)).unwrap().0;
        let words = listed.split('`').skip(1).step_by(2);
        for word in words.filter(|word| word.ends_with("ed") && word.contains('-')) {
            assert!(KINDS.contains(&word), "{word}");
        }
    }

    #[test]
    fn kinds_and_identities_may_end_in_anything() {
        assert!(matches("*-denied", "publish-denied") && matches("svid*", "svid-issued"));
        assert!(matches("*denied*", "publish-denied") && matches("*", "a") && matches("**", "a"));
        assert!(!matches("*denied*", "connected"));
        assert!(!matches("*-denied", "connected") && !matches("connect", "connected"));
    }
}
