//! Which of several identities a mapper is, and which identity its broker has.

use midge_identity::SpiffeId;
use spiffe::X509Svid;
use spiffe::x509_source::SvidPicker;
use std::fmt;
use std::sync::Arc;

/// Which of the identities a workload is given is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdentityChoice {
    /// The first one.
    #[default]
    First,
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
    /// The first whose path ends with these whole segments, such as `/mapper/led-1`.
    PathSuffix(String),
    /// The one with this hint.
    Hint(String),
}

impl IdentityChoice {
    pub(crate) fn position<'a>(
        &self,
        svids: impl Iterator<Item = (&'a SpiffeId, Option<&'a str>)>,
    ) -> Option<usize> {
        let mut svids = svids;
        svids.position(|(id, hint)| match self {
            Self::First => true,
            Self::Id(wanted) => id == wanted,
            Self::PathSuffix(suffix) => ends_with_segments(id.path(), suffix),
            Self::Hint(wanted) => hint == Some(wanted),
        })
    }
}

impl SvidPicker for IdentityChoice {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        self.position(svids.iter().map(|svid| (svid.spiffe_id(), svid.hint())))
    }
}

impl fmt::Display for IdentityChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => formatter.write_str("any"),
            Self::Id(id) => id.fmt(formatter),
            Self::PathSuffix(suffix) => write!(formatter, "…/{}", suffix.trim_start_matches('/')),
            Self::Hint(hint) => write!(formatter, "hint {hint:?}"),
        }
    }
}

/// `/mapper/led` is at the end of `/edge/box/mapper/led`, and not at that of `/edge/box/big-mapper/led`.
fn ends_with_segments(path: &str, suffix: &str) -> bool {
    let suffix = suffix.trim_matches('/');
    let start = path.strip_suffix(suffix);
    !suffix.is_empty() && start.is_some_and(|start| start.ends_with('/'))
}

/// Returns the SPIFFE ID of the MQTT broker on the box of this workload: `…/edge/<node>/broker` for `…/edge/<node>/…`.
pub fn broker_beside(own: &SpiffeId) -> Option<SpiffeId> {
    let mut segments = own.path().split('/').skip(1);
    let (role, node) = (segments.next()?, segments.next()?);
    if role != "edge" || segments.next().is_none() {
        return None;
    }
    format!("spiffe://{}/edge/{node}/broker", own.trust_domain_name()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_chosen_by_id_suffix_hint_or_order() {
        let ids: Vec<SpiffeId> = ["app/a", "big-mapper/led", "mapper/led", "mapper/led-2"]
            .map(|path| id(&format!("spiffe://example.org/edge/box/{path}")))
            .into();
        let hints = [None, Some("internal"), None, Some("led")];
        let pick = |choice: IdentityChoice| choice.position(ids.iter().zip(hints));
        assert_eq!(pick(IdentityChoice::First), Some(0));
        assert_eq!(pick(IdentityChoice::Id(ids[3].clone())), Some(3));
        assert_eq!(pick(IdentityChoice::Id(id("spiffe://example.org/edge/other/mapper/led"))), None);
        assert_eq!(pick(IdentityChoice::PathSuffix("/mapper/led".into())), Some(2));
        assert_eq!(pick(IdentityChoice::PathSuffix("led".into())), Some(1));
        assert_eq!(pick(IdentityChoice::PathSuffix("ed".into())), None);
        assert_eq!(pick(IdentityChoice::PathSuffix("/".into())), None);
        assert_eq!(pick(IdentityChoice::Hint("led".into())), Some(3));
        assert_eq!(pick(IdentityChoice::Hint("".into())), None);
    }

    #[test]
    fn the_broker_is_beside_a_workload_of_the_box() {
        let broker = |own: &str| broker_beside(&id(own)).map(|id| id.to_string());
        assert_eq!(
            broker("spiffe://example.org/edge/box-1/mapper/led").as_deref(),
            Some("spiffe://example.org/edge/box-1/broker")
        );
        assert_eq!(broker("spiffe://example.org/edge/box-1"), None);
        assert_eq!(broker("spiffe://example.org/cloud/box-1/app"), None);
    }

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }
}
