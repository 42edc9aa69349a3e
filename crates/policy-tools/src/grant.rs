//! How much of a request the identities of a cell are granted: the broker's own decision of a SUBSCRIBE
//! (`crates/policy/src/subscribe.rs`), of many identities at once.

use crate::access::Side;
use crate::cell::Cell;
use crate::explore::{Left, Stop};
use crate::request::{Request, Verb};
use crate::topics::{Filter, Topics};
use midge_policy::{Effect, LEVELS_MAX, NARROW_MAX, SHARED_MAX, SubscribeMode};
use mqtt_proto::QoS;

/// How much is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    Nothing,
    /// A subscription that brings less than every topic of its filter.
    Part,
    Whole,
}

/// What rules say of one request.
pub(crate) struct Sides {
    wanted: Filter,
    /// What is granted at best.
    qos: u8,
    is_subscription: bool,
    /// What decides whether all is allowed.
    side: Side,
    /// Rights to topics, and rights to the filter alone, with the highest quality of service.
    allow: Vec<(Filter, u8)>,
    literal: Vec<(Filter, u8)>,
    /// What is not delivered beside what is refused.
    withheld: Vec<Filter>,
}

/// What a filter shares with a right.
struct Shared {
    filter: Filter,
    qos: u8,
    is_permitted: bool,
}

impl Sides {
    pub(crate) fn of(request: &Request) -> Self {
        let wanted = Filter::read(request.filter.filter.as_str(), |_| None);
        let is_subscription = request.verb == Verb::Subscribe;
        Self {
            wanted: if is_subscription { wanted.canonical() } else { wanted },
            qos: request.qos as u8,
            is_subscription,
            side: Side::plain(),
            allow: Vec::new(),
            literal: Vec::new(),
            withheld: Vec::new(),
        }
    }

    pub(crate) fn wanted(&self) -> &Filter {
        &self.wanted
    }

    pub(crate) fn add(&mut self, effect: Effect, filter: Filter, qos_max: Option<u8>) {
        let qos = qos_max.unwrap_or(QoS::ExactlyOnce as u8).min(self.qos);
        if self.is_subscription && effect == Effect::DenyReceive {
            return self.withheld.push(filter);
        }
        self.side.add(effect, [&filter]);
        match effect {
            Effect::Subscribe if self.is_subscription => self.allow.push((filter, qos)),
            Effect::SubscribeLiteral => self.literal.push((filter, qos)),
            _ => {}
        }
    }

    /// Decides the request.
    pub(crate) fn grant(&self, mode: SubscribeMode, cell: &Cell, left: &mut Left) -> Result<Grant, Stop> {
        if !self.is_subscription {
            let allowed = self.side.allows(&self.wanted, cell, left)?;
            return Ok(if allowed { Grant::Whole } else { Grant::Nothing });
        }
        if self.side.allows_subscription(&self.wanted, cell, left)? {
            let is_part = self.is_literal(cell)? || self.is_withheld(cell)?;
            return Ok(if is_part { Grant::Part } else { Grant::Whole });
        }
        let is_granted = match mode {
            SubscribeMode::Reject => false,
            _ if self.side.names_as_denied(&self.wanted, cell, left)? => false,
            _ if self.wanted.level_count() > LEVELS_MAX => false,
            SubscribeMode::Narrow => self.is_narrowed(cell, left)?,
            SubscribeMode::Filter => self.is_filtered(cell, left)?,
        };
        Ok(if is_granted { Grant::Part } else { Grant::Nothing })
    }

    /// Tells whether what is granted as a whole is so by a right to the filter alone: at the highest quality of service
    /// that is to be had, rights to its topics come first.
    fn is_literal(&self, cell: &Cell) -> Result<bool, Stop> {
        let mut literal = None;
        for (filter, qos) in &self.literal {
            if filter.canonical().is_same(&self.wanted, cell)? {
                literal = literal.max(Some(*qos));
            }
        }
        let Some(literal) = literal else { return Ok(false) };
        let as_good = self.allow.iter().filter(|(_, qos)| *qos >= literal).map(|(filter, _)| filter);
        Ok(Topics::rest(&self.wanted, as_good, cell)?.is_some())
    }

    fn is_withheld(&self, cell: &Cell) -> Result<bool, Stop> {
        for deny in &self.withheld {
            if self.wanted.meet(deny, cell)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns what the filter shares with rights.
    fn shared(&self, cell: &Cell, left: &mut Left) -> Result<Vec<Shared>, Stop> {
        let mut shared = Vec::new();
        for (filter, qos) in &self.allow {
            if let Some(met) = self.wanted.meet(filter, cell)? {
                let denies = self.side.deny.iter().chain(&self.withheld);
                left.take_steps(self.side.deny.iter().len() + self.withheld.len())?;
                let is_permitted = Topics::rest(&met, denies, cell)?.is_some();
                shared.push(Shared { filter: met.canonical(), qos: *qos, is_permitted });
            }
        }
        Ok(shared)
    }

    fn is_narrowed(&self, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
        let shared = self.shared(cell, left)?;
        if !shared.iter().any(|shared| shared.is_permitted) {
            return Ok(false);
        }
        // Only of so many it makes a difference which of them are the same, or part of others.
        Ok(shared.len() <= NARROW_MAX || is_within_bounds(shared, cell, left)?)
    }

    fn is_filtered(&self, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
        let shared = self.shared(cell, left)?;
        let permitted = shared.iter().filter(|shared| shared.is_permitted).count();
        if permitted > 0 && shared.len() - permitted > SHARED_MAX {
            // Which of them the broker looks at before it gives up depends on their order.
            left.has_steps(usize::MAX)?;
        }
        Ok(permitted > 0)
    }
}

/// Tells whether a filter that shares this with rights is narrowed, and not refused for having too many parts.
fn is_within_bounds(shared: Vec<Shared>, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
    let mut apart: Vec<Shared> = Vec::new();
    'shared: for one in shared {
        left.take_steps(apart.len())?;
        for known in &mut apart {
            if known.filter.is_same(&one.filter, cell)? {
                known.qos = known.qos.max(one.qos);
                continue 'shared;
            }
        }
        apart.push(one);
    }
    if apart.len() > SHARED_MAX {
        return Ok(false);
    }
    let mut kept = 0;
    for (at, one) in apart.iter().enumerate().filter(|(_, one)| one.is_permitted) {
        left.take_steps(apart.len())?;
        let mut is_needless = false;
        for (_, wider) in
            apart.iter().enumerate().filter(|(other, wider)| *other != at && wider.qos >= one.qos)
        {
            is_needless |= match wider.filter.meet(&one.filter, cell)? {
                Some(met) => met.canonical().is_same(&one.filter, cell)?,
                None => false,
            };
        }
        kept += usize::from(!is_needless);
        if kept > NARROW_MAX {
            return Ok(false);
        }
    }
    Ok(kept > 0)
}
