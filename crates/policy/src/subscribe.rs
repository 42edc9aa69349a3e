//! SUBSCRIBE: whether a filter is allowed as a whole, and what to make of one that is so in part.

use crate::permit::{Extent, SubscribePart};
use crate::template::LEVELS_MAX;
use crate::trie::{Mark, Pattern, Trie, canonical, short};
use crate::{Action, Denial, DenyReason, Effect, Rights, Subject, SubscribeMode, SubscribePermit};
use mqtt_proto::{QoS, SharedFilter, TopicFilter};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Most filters that one requested filter is narrowed to.
pub const NARROW_MAX: usize = 64;

/// Most patterns that are looked at for it, so that no client can ask for much work.
const SHARED_MAX: usize = 4096;

/// A mark and why it denies.
type Refusal = (Option<Mark>, DenyReason);

impl Rights {
    /// Decides one filter of a SUBSCRIBE. Allowed as a whole is a filter when every topic that it
    /// matches is allowed and none is denied, or when a literal right names it and no topic that it
    /// matches is denied. What is allowed in part only is decided as `mode` says; a filter under which
    /// nothing is allowed is refused in every mode.
    ///
    /// # Errors
    /// When the identity may not subscribe to the filter.
    pub fn subscribe(
        &self,
        filter: &SharedFilter,
        qos: QoS,
        mode: SubscribeMode,
    ) -> Result<SubscribePermit, Denial> {
        let asked = Asked {
            rights: self,
            spelled: &filter.filter,
            filter: canonical(&filter.filter),
            group: filter.group.as_deref(),
            qos,
        };
        let whole = asked.literally_denied().and_then(|()| asked.whole());
        let decided = match (whole, mode) {
            (Ok(permit), _) => Ok(permit),
            // A filter that is denied as it stands is not to be had in parts.
            (Err(refusal), _) if asked.literally_denied().is_err() => Err(refusal),
            (Err(refusal), SubscribeMode::Reject) => Err(refusal),
            (Err(refusal), SubscribeMode::Narrow) => asked.narrowed(refusal),
            (Err(refusal), SubscribeMode::Filter) => asked.filtered(refusal),
        };
        decided.map_err(|(rule, reason)| {
            self.denial(Action::Subscribe, Subject::Filter(filter.clone()), rule, reason)
        })
    }

    fn denies_all(&self, filter: &TopicFilter) -> bool {
        self.held.reads.cover(filter, |mark| mark.effect.is_deny()).is_ok()
    }

    fn denies_some(&self, filter: &TopicFilter) -> bool {
        let reads = &self.held.reads;
        [Effect::DenySubscribe, Effect::DenyReceive]
            .into_iter()
            .any(|effect| reads.overlap(filter, effect).is_some())
    }
}

/// One filter and who asks for it.
struct Asked<'a> {
    rights: &'a Rights,
    spelled: &'a TopicFilter,
    /// In canonical form.
    filter: TopicFilter,
    group: Option<&'a str>,
    qos: QoS,
}

impl Asked<'_> {
    fn literally_denied(&self) -> Result<(), Refusal> {
        match self.literal(|mark| mark.effect == Effect::DenySubscribeLiteral) {
            Some(mark) => Err((Some(mark), DenyReason::Denied)),
            None => Ok(()),
        }
    }

    /// Returns the first accepted mark on this very filter.
    fn literal(&self, accept: impl Fn(Mark) -> bool) -> Option<Mark> {
        let literals = &self.rights.held.literals;
        let from = literals.partition_point(|(filter, _)| *filter < self.filter);
        let same = literals.iter().skip(from).take_while(|(filter, _)| *filter == self.filter);
        same.map(|(_, mark)| *mark).find(|mark| accept(*mark))
    }

    /// Tells whether a right lets subscribe at the quality of service and in the group.
    fn accepts(&self, mark: Mark, effect: Effect, qos: QoS) -> bool {
        let lets = |held: &crate::rights::HeldRule| qos <= held.limits.qos_max && held.lets_join(self.group);
        mark.effect == effect && self.rights.held.rule(mark).is_some_and(lets)
    }

    fn whole(&self) -> Result<SubscribePermit, Refusal> {
        let reads = &self.rights.held.reads;
        let broad = self.filter.as_str().contains(['+', '#']);
        if let Some((found, witness)) = reads.overlap(&self.filter, Effect::DenySubscribe) {
            let mut mark = found;
            if let Some(witness) = &witness {
                reads.visit(witness, &mut |other| {
                    if other.effect == Effect::DenySubscribe && other.rule < mark.rule {
                        mark = other;
                    }
                });
            }
            let part = witness.filter(|_| broad).map(|witness| DenyReason::DeniedPart { witness });
            return Err((Some(mark), part.unwrap_or(DenyReason::Denied)));
        }
        let mut missing = None;
        for granted in self.qualities() {
            match reads.cover(&self.filter, |mark| self.accepts(mark, Effect::Subscribe, granted)) {
                Ok(mark) => {
                    let filtered = reads.overlap(&self.filter, Effect::DenyReceive).is_some();
                    return self.permit(mark, Extent::Whole, vec![self.all(granted, filtered)]);
                }
                Err(witness) => missing = witness,
            }
            if let Some(mark) = self.literal(|mark| self.accepts(mark, Effect::SubscribeLiteral, granted)) {
                return self.permit(mark, Extent::Whole, vec![self.all(granted, true)]);
            }
        }
        if let Some(group) = self.group
            && let Ok(mark) = reads.cover(&self.filter, |mark| mark.effect == Effect::Subscribe)
        {
            return Err((Some(mark), DenyReason::ShareGroup { group: group.into() }));
        }
        let part = missing.filter(|_| broad).map(|witness| DenyReason::NotCovered { witness });
        Err((None, part.unwrap_or(DenyReason::NoRule)))
    }

    /// Returns what might be granted, best first.
    fn qualities(&self) -> impl Iterator<Item = QoS> {
        let asked = self.qos;
        [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce].into_iter().filter(move |qos| *qos <= asked)
    }

    fn all(&self, qos: QoS, filtered: bool) -> SubscribePart {
        SubscribePart { filter: self.spelled.clone(), qos, filtered }
    }

    fn permit(
        &self,
        mark: Mark,
        extent: Extent,
        parts: Vec<SubscribePart>,
    ) -> Result<SubscribePermit, Refusal> {
        let held = self.rights.held.rule(mark).ok_or((None, DenyReason::NoRule))?;
        let (epoch, rule) = (self.rights.epoch, held.rule.clone());
        Ok(SubscribePermit { epoch, rule, extent, parts: parts.into() })
    }

    /// Visits what the filter shares with each right to subscribe.
    fn shared(
        &self,
        mut visitor: impl FnMut(Mark, QoS, TopicFilter) -> ControlFlow<DenyReason>,
    ) -> ControlFlow<DenyReason> {
        // Its parts have as many levels.
        if self.filter.levels().count() > LEVELS_MAX {
            return ControlFlow::Break(DenyReason::TooManyParts { max: NARROW_MAX });
        }
        self.rights.held.reads.meet(&self.filter, &mut |mark, shared| {
            if !self.accepts(mark, Effect::Subscribe, QoS::AtMostOnce) {
                return ControlFlow::Continue(());
            }
            let max = self.rights.held.rule(mark).map(|held| held.limits.qos_max).unwrap_or_default();
            visitor(mark, max.min(self.qos), shared)
        })
    }

    fn narrowed(&self, refusal: Refusal) -> Result<SubscribePermit, Refusal> {
        let too_many = DenyReason::TooManyParts { max: NARROW_MAX };
        let mut parts: BTreeMap<Box<str>, (TopicFilter, QoS, Mark)> = BTreeMap::new();
        let flow = self.shared(|mark, qos, shared| {
            let known = parts.entry(shared.as_str().into()).or_insert((shared, qos, mark));
            known.1 = known.1.max(qos);
            known.2 = if mark.rule < known.2.rule { mark } else { known.2 };
            if parts.len() > SHARED_MAX {
                ControlFlow::Break(too_many.clone())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let ControlFlow::Break(reason) = flow {
            return Err((None, reason));
        }
        let parts: Vec<_> = parts.into_values().collect();
        let kept = self.kept(&parts);
        let Some(mark) = kept.iter().map(|(_, mark)| *mark).min_by_key(|mark| mark.rule) else {
            return Err(refusal);
        };
        if kept.len() > NARROW_MAX {
            return Err((None, too_many));
        }
        self.permit(mark, Extent::Narrowed, kept.into_iter().map(|(part, _)| part).collect())
    }

    /// Leaves out parts that another one contains, and those that are denied altogether.
    fn kept(&self, parts: &[(TopicFilter, QoS, Mark)]) -> Vec<(SubscribePart, Mark)> {
        let pattern = |(index, (filter, _, _)): (usize, &'_ (TopicFilter, QoS, Mark))| {
            let levels = filter.levels().map(str::to_owned).collect::<Vec<_>>();
            (levels, Mark { effect: Effect::Subscribe, rule: index, class: index })
        };
        let patterns: Vec<_> = parts.iter().enumerate().map(pattern).collect();
        let trie = Trie::of(
            patterns
                .iter()
                .map(|(levels, mark)| Pattern {
                    levels: levels.iter().map(String::as_str).collect(),
                    mark: *mark,
                })
                .collect(),
        );
        let is_needless = |index: usize, filter: &TopicFilter, qos: QoS| {
            let is_wider = |mark: Mark| {
                mark.rule != index && parts.get(mark.rule).is_some_and(|(_, other, _)| *other >= qos)
            };
            trie.cover_alone(filter, is_wider).is_some()
        };
        let mut kept = Vec::new();
        for (index, (filter, qos, mark)) in parts.iter().enumerate() {
            if !is_needless(index, filter, *qos) && !self.rights.denies_all(filter) {
                let filtered = self.rights.denies_some(filter);
                kept.push((SubscribePart { filter: short(filter.clone()), qos: *qos, filtered }, *mark));
            }
        }
        kept
    }

    fn filtered(&self, refusal: Refusal) -> Result<SubscribePermit, Refusal> {
        let mut best: Option<(Mark, QoS)> = None;
        let mut looked = 0;
        let flow = self.shared(|mark, qos, shared| {
            looked += 1;
            let improves = best.is_none_or(|(known, best)| qos > best || mark.rule < known.rule);
            if improves && !self.rights.denies_all(&shared) {
                let (known, before) = best.unwrap_or((mark, qos));
                best = Some((if mark.rule < known.rule { mark } else { known }, qos.max(before)));
            }
            if looked > SHARED_MAX {
                ControlFlow::Break(DenyReason::NoRule)
            } else {
                ControlFlow::Continue(())
            }
        });
        match best {
            Some((mark, qos)) => self.permit(mark, Extent::Filtered, vec![self.all(qos, true)]),
            None if flow.is_break() => Err((None, DenyReason::TooManyParts { max: NARROW_MAX })),
            None => Err(refusal),
        }
    }
}
