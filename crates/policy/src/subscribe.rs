//! SUBSCRIBE: whether a filter is allowed as a whole, and what to make of one that is so in part.

use crate::contain::{cover, may_overlap, overlap};
use crate::meet::{covers, meet};
use crate::permit::{Extent, Limits, SubscribePart};
use crate::template::LEVELS_MAX;
use crate::trie::{At, Mark, canonical, short};
use crate::{Action, Denial, DenyReason, Effect, Rights, Subject, SubscribeMode, SubscribePermit};
use mqtt_proto::{QoS, SharedFilter, TopicFilter, TopicName};
use std::ops::ControlFlow;

/// Most filters that one requested filter is narrowed to.
pub const NARROW_MAX: usize = 64;

/// Most parts that are looked at for it, so that no client can ask for much work.
pub const SHARED_MAX: usize = 4096;

/// Most steps that are taken to see which of these filters include denied topics. One of which it is not seen is
/// delivered by as if it did.
const FILTERED_STEPS_MAX: usize = 16_384;

const DENIES: [Effect; 2] = [Effect::DenySubscribe, Effect::DenyReceive];

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
        let reads = self.reads();
        DENIES.into_iter().any(|effect| reads.iter().any(|root| root.has(effect)))
            && self.cover(reads, filter, |mark| mark.effect.is_deny()).is_ok()
    }

    /// Returns the filter of these levels, unless it is denied altogether.
    fn permitted(&self, levels: &[&str]) -> Option<TopicFilter> {
        let filter = TopicFilter::new(levels.join("/")).ok()?;
        (!self.denies_all(&filter)).then_some(filter)
    }

    /// Tells whether a topic under the filter is denied; also when that takes too many steps to be seen.
    fn may_deny_some(&self, filter: &TopicFilter, left: &mut usize) -> bool {
        let reads = self.reads();
        DENIES.into_iter().any(|effect| may_overlap(&reads, filter, effect, left))
    }

    fn reads(&self) -> Vec<At<'_>> {
        self.roots(|layer| &layer.reads)
    }

    fn cover(
        &self,
        reads: Vec<At<'_>>,
        filter: &TopicFilter,
        accept: impl Fn(Mark) -> bool,
    ) -> Result<Mark, Option<TopicName>> {
        cover(reads, filter, accept, |one, two| self.order(one, two))
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
        let mut first: Option<Mark> = None;
        for root in self.rights.roots(|layer| &layer.literals) {
            root.visit_same(&self.filter, &mut |mark| {
                if accept(mark) && first.is_none_or(|known| self.rights.is_before(mark, known)) {
                    first = Some(mark);
                }
            });
        }
        first
    }

    /// Tells whether a right lets subscribe at the quality of service and in the group.
    fn accepts(&self, mark: Mark, effect: Effect, qos: QoS) -> bool {
        let lets = |limits: &Limits| qos <= limits.qos_max;
        mark.effect == effect
            && self.rights.limits(mark).is_some_and(lets)
            && self.rights.lets_join(mark, self.group)
    }

    fn whole(&self) -> Result<SubscribePermit, Refusal> {
        let reads = self.rights.reads();
        let broad = self.filter.as_str().contains(['+', '#']);
        if let Some((found, witness)) = overlap(&reads, &self.filter, Effect::DenySubscribe) {
            let mut mark = found;
            if let Some(witness) = &witness {
                self.rights.visit(witness, |layer| &layer.reads, &mut |other| {
                    if other.effect == Effect::DenySubscribe && self.rights.is_before(other, mark) {
                        mark = other;
                    }
                });
            }
            let part = witness.filter(|_| broad).map(|witness| DenyReason::DeniedPart { witness });
            return Err((Some(mark), part.unwrap_or(DenyReason::Denied)));
        }
        let mut missing = None;
        for granted in self.qualities() {
            let accepted = |mark| self.accepts(mark, Effect::Subscribe, granted);
            match self.rights.cover(reads.clone(), &self.filter, accepted) {
                Ok(mark) => {
                    let filtered = overlap(&reads, &self.filter, Effect::DenyReceive).is_some();
                    return self.permit(mark, Extent::Whole, vec![self.all(granted, filtered)]);
                }
                Err(witness) => missing = witness,
            }
            if let Some(mark) = self.literal(|mark| self.accepts(mark, Effect::SubscribeLiteral, granted)) {
                return self.permit(mark, Extent::Whole, vec![self.all(granted, true)]);
            }
        }
        if let Some(group) = self.group
            && let Ok(mark) = self.rights.cover(reads, &self.filter, |mark| mark.effect == Effect::Subscribe)
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
        let held = self.rights.held(mark).ok_or((None, DenyReason::NoRule))?;
        let (epoch, rule) = (self.rights.epoch, held.rule.clone());
        Ok(SubscribePermit { epoch, rule, extent, parts: parts.into() })
    }

    /// Visits what the filter shares with rights to subscribe, wider parts first: its levels, the first rule that
    /// allows it, and the highest quality of service.
    fn shared<'s>(
        &'s self,
        mut visitor: impl FnMut(&[&'s str], Mark, QoS) -> ControlFlow<DenyReason>,
    ) -> ControlFlow<DenyReason> {
        // Its parts have as many levels.
        if self.filter.levels().count() > LEVELS_MAX {
            return ControlFlow::Break(DenyReason::TooManyParts { max: NARROW_MAX });
        }
        let qos_max =
            |mark: &Mark| self.rights.limits(*mark).map(|limits| limits.qos_max).unwrap_or_default();
        meet(&self.rights.reads(), &self.filter, Effect::Subscribe, &mut |levels, marks| {
            let accepted = |mark: &&Mark| self.accepts(**mark, Effect::Subscribe, QoS::AtMostOnce);
            let accepted = || marks.iter().filter(accepted);
            let (Some(first), Some(qos)) =
                (accepted().min_by(|a, b| self.rights.order(**a, **b)), accepted().map(qos_max).max())
            else {
                return ControlFlow::Continue(());
            };
            visitor(levels, *first, qos.min(self.qos))
        })
    }

    fn narrowed(&self, refusal: Refusal) -> Result<SubscribePermit, Refusal> {
        if self.rights.denies_all(&self.filter) {
            return Err(refusal);
        }
        let (mut kept, mut looked): (Vec<Kept<'_>>, usize) = (Vec::new(), 0);
        let flow = self.shared(|levels, mark, qos| {
            looked += 1;
            // Left out are parts that another one contains, and those that are denied altogether.
            let is_needless =
                kept.iter().any(|wider: &Kept<'_>| wider.qos >= qos && covers(&wider.levels, levels));
            let filter = if is_needless { None } else { self.rights.permitted(levels) };
            kept.extend(filter.map(|filter| Kept { levels: levels.to_vec(), filter, qos, mark }));
            if looked > SHARED_MAX || kept.len() > NARROW_MAX {
                ControlFlow::Break(DenyReason::TooManyParts { max: NARROW_MAX })
            } else {
                ControlFlow::Continue(())
            }
        });
        if let ControlFlow::Break(reason) = flow {
            return Err((None, reason));
        }
        let Some(mark) = kept.iter().map(|kept| kept.mark).min_by(|a, b| self.rights.order(*a, *b)) else {
            return Err(refusal);
        };
        // In the order of their filters.
        kept.sort_unstable_by(|a, b| a.filter.as_str().cmp(b.filter.as_str()));
        let mut left = FILTERED_STEPS_MAX;
        let parts = kept.into_iter().map(|Kept { filter, qos, .. }| {
            let filtered = self.rights.may_deny_some(&filter, &mut left);
            SubscribePart { filter: short(filter), qos, filtered }
        });
        self.permit(mark, Extent::Narrowed, parts.collect())
    }

    fn filtered(&self, refusal: Refusal) -> Result<SubscribePermit, Refusal> {
        if self.rights.denies_all(&self.filter) {
            return Err(refusal);
        }
        let mut best: Option<(Mark, QoS)> = None;
        let mut looked = 0;
        let flow = self.shared(|levels, mark, qos| {
            looked += 1;
            let improves = best.is_none_or(|(known, best)| qos > best || self.rights.is_before(mark, known));
            if improves && self.rights.permitted(levels).is_some() {
                let (known, before) = best.unwrap_or((mark, qos));
                best = Some((if self.rights.is_before(mark, known) { mark } else { known }, qos.max(before)));
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

/// A part that a filter is narrowed to, in canonical form.
struct Kept<'a> {
    levels: Vec<&'a str>,
    filter: TopicFilter,
    qos: QoS,
    mark: Mark,
}
