//! Who can reach a topic: by pattern for everyone there could be, and one by one for those there are.

use crate::cell::{Cell, PartIndex, Question, Term};
use crate::explore::{Bounds, Left, Stop, TooMuch, explore};
use crate::grant::{Grant, Sides};
use crate::model::{Held, Ruleset};
use crate::modes::Asked;
use crate::overlap::{Overlaps, levels};
use crate::request::{Request, Verb};
use crate::shown::Names;
use crate::tree::{Leaf, Tree};
use midge_identity::SpiffeId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What keeping and telling the name of a rule costs, in steps; it bounds the memory of all.
const STEPS_OF_NAME: usize = 50;

/// Identities that can make a request.
#[derive(Clone, Debug)]
pub struct Who {
    tree: Tree<Reach>,
    points: BTreeMap<SpiffeId, Reach>,
    names: Names,
}

/// One kind of identities that can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WhoKind {
    /// Pattern of the identities.
    pub id: String,
    /// Identities and patterns of identities that match it but do not belong to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// One identity of the kind.
    pub example: String,
    /// What they can.
    #[serde(flatten)]
    pub way: Way,
}

/// A way in which identities can make a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Way {
    /// The only listeners on which they can; empty where they can on whichever the request may come by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// Whether a subscription is granted and brings less than every topic of its filter.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_part: bool,
    /// Rules that let them, each with its place and with the conditions on the connection it makes.
    pub rules: Vec<String>,
}

/// The ways in which the identities of a cell can make the request; none when it is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reach(Vec<Way>);

impl Leaf for Reach {
    fn replace(&self, _part: PartIndex, _by: &Term) -> Self {
        self.clone()
    }

    fn mentions(&self, _part: PartIndex) -> bool {
        false
    }
}

impl Who {
    /// Finds everyone who could make the request on some connection. What a rule demands of the client id counts as met
    /// where the request does not say it; where it does not say the listener, each is looked at.
    ///
    /// # Errors
    /// When there is too much to look at for an exact answer.
    pub fn can(rules: &Ruleset, request: &Request) -> Result<Self, TooMuch> {
        let bearing = |held: &&Arc<Held>| bears(held, request);
        let patterns: Vec<&Arc<Held>> = rules.patterns().iter().filter(bearing).collect();
        let asked = Asked::each(request, rules.modes());
        let mut left = Left::of(Bounds::AT_HAND);
        let tree = explore(Cell::all(), (&patterns, 0), &mut left, |cell, found, left| {
            left.take_steps(found.len())?;
            let found = found.iter().filter_map(|at| patterns.get(*at).copied());
            Reach::of(&found.collect::<Vec<_>>(), &asked, cell, left)
        })?;
        let mut index = Overlaps::default();
        patterns.iter().enumerate().for_each(|(at, held)| index.insert(&levels(&held.rule.id), at));
        let excepted: BTreeSet<SpiffeId> = patterns.iter().flat_map(|held| held.excepts()).collect();
        let mut points = BTreeMap::new();
        for id in rules.points() {
            let mut found: Vec<&Arc<Held>> = rules.own(id).iter().filter(bearing).collect();
            if found.is_empty() && !excepted.contains(id) {
                continue;
            }
            let cell = Cell::of(id);
            let (matching, steps) = index.of(&levels(&id.to_string()));
            left.take_steps(steps)?;
            found.extend(matching.into_iter().filter_map(|at| patterns.get(at)));
            found.retain(|held| held.applies(&cell) == Ok(true));
            left.take_steps(found.len())?;
            match Reach::of(&found, &asked, &cell, &mut left) {
                Ok(reach) if reach != tree.at(&cell) => {
                    points.insert(id.clone(), reach);
                }
                Err(Stop::TooMuch(error)) => return Err(error),
                // No question is open about one identity.
                Ok(_) | Err(Stop::Question(_)) => {}
            }
        }
        Ok(Self { tree, points, names: Names::of(patterns.into_iter()) })
    }

    /// Returns the ways of one identity; none when it cannot make the request.
    pub fn ways(&self, id: &SpiffeId) -> Vec<Way> {
        self.points.get(id).cloned().unwrap_or_else(|| self.tree.at(&Cell::of(id))).0
    }

    /// Returns them kind by kind: on each listener an identity belongs to one kind at most.
    pub fn kinds(&self) -> Vec<WhoKind> {
        let mut kinds = Vec::new();
        for (id, reach) in &self.points {
            let id = id.to_string();
            kinds.extend(reach.0.iter().map(|way| WhoKind {
                id: id.clone(),
                except: Vec::new(),
                example: id.clone(),
                way: way.clone(),
            }));
        }
        let regions = self.tree.regions(self.points.keys()).into_iter();
        for region in regions.filter(|region| !region.found.0.is_empty()) {
            let own: Vec<String> = region.ids.iter().map(ToString::to_string).collect();
            if !region.cell.is_general() && !own.is_empty() {
                continue;
            }
            let own_texts: Vec<&str> = own.iter().map(String::as_str).collect();
            let shown = self.names.show(&region.cell, &BTreeSet::new(), &own_texts);
            let except: Vec<String> = shown.except.into_iter().chain(own).collect();
            kinds.extend(region.found.0.iter().map(|way| WhoKind {
                id: shown.id.clone(),
                except: except.clone(),
                example: shown.example.clone(),
                way: way.clone(),
            }));
        }
        kinds.sort_by(|a, b| a.id.cmp(&b.id));
        kinds
    }
}

/// Tells whether the rule has anything to say about such requests and their topics.
fn bears(held: &Held, request: &Request) -> bool {
    let mut wanted = Overlaps::default();
    wanted.insert(&levels(request.filter.filter.as_str()), ());
    // What the identity may publish to, it may name.
    request.response_topic.iter().for_each(|topic| wanted.insert(&levels(topic.as_str()), ()));
    let mut patterns = held.patterns.iter().filter(|pattern| request.verb.concerns(pattern.effect));
    patterns.any(|pattern| wanted.any(&levels(&pattern.text)))
}

impl Reach {
    /// Tells what follows from the rules that speak of a cell.
    fn of(found: &[&Arc<Held>], asked: &[Asked], cell: &Cell, left: &mut Left) -> Result<Self, Stop> {
        let mut whole = Gathered::default();
        let mut in_part = Gathered::default();
        for places in Asked::alike(asked, found.iter().map(|held| &***held)) {
            let Some(first) = places.first().and_then(|at| asked.get(*at)) else { continue };
            let (grant, allowing) = reach(found, first, cell, left)?;
            let gathered = match grant {
                Grant::Nothing => continue,
                Grant::Whole => &mut whole,
                Grant::Part => &mut in_part,
            };
            gathered.places.extend(places);
            gathered.rules.extend(allowing.into_iter().map(|held| told(held)));
        }
        let ways = [(whole, false), (in_part, true)];
        let ways = ways.into_iter().filter(|(gathered, _)| !gathered.places.is_empty());
        let ways: Vec<Way> = ways.map(|(gathered, in_part)| gathered.way(asked, in_part)).collect();
        let names: usize = ways.iter().map(|way| way.rules.len()).sum();
        left.take_steps(names.saturating_mul(STEPS_OF_NAME))?;
        Ok(Self(ways))
    }
}

/// On which of the listeners, and by which rules.
#[derive(Default)]
struct Gathered {
    places: BTreeSet<usize>,
    rules: BTreeSet<String>,
}

impl Gathered {
    fn way(self, asked: &[Asked], in_part: bool) -> Way {
        let named = self.places.iter().filter_map(|at| asked.get(*at)).map(|asked| asked.listener.clone());
        let listeners = if self.places.len() == asked.len() { Vec::new() } else { named.collect() };
        Way { listeners, in_part, rules: self.rules.into_iter().collect() }
    }
}

/// Decides the request on one listener, and returns the rules that allow some of it.
fn reach<'h>(
    found: &[&'h Arc<Held>],
    asked: &Asked,
    cell: &Cell,
    left: &mut Left,
) -> Result<(Grant, Vec<&'h Arc<Held>>), Stop> {
    let request = &asked.request;
    let denies_here = |held: &Held| held.denies_on(request.listener.as_deref());
    let freely = request.names_freely(found.iter().map(|held| &***held), cell, |held, is_deny| {
        Ok(if is_deny { denies_here(held) } else { request.may_connect(held, cell) })
    })?;
    let mut sides = Sides::of(request);
    let mut allowing = Vec::new();
    for held in found {
        let allows = request.may_meet(held, cell)? && (freely || request.names_by(held, cell)?);
        let denies = denies_here(held);
        let mut lets = false;
        for pattern in held.patterns.iter().filter(|pattern| request.verb.concerns(pattern.effect)) {
            let is_deny = pattern.effect.is_deny();
            if !(if is_deny { denies } else { allows }) {
                continue;
            }
            left.take_steps(1)?;
            let filter = pattern.filter.resolve(cell);
            lets |= !is_deny && sides.wanted().meet(&filter, cell)?.is_some();
            sides.add(pattern.effect, filter, held.rule.qos_max);
        }
        if lets {
            allowing.push(*held);
        }
    }
    Ok((sides.grant(asked.mode, cell, left)?, allowing))
}

fn told(held: &Held) -> String {
    let rule = &held.rule;
    let mut text = format!("{} ({})", rule.name, rule.source);
    if !rule.listener.is_empty() {
        text.push_str(&format!(" on listener {}", rule.listener.join(" or ")));
    }
    if !rule.client_id.is_empty() {
        text.push_str(&format!(" as client {}", rule.client_id.join(" or ")));
    }
    text
}

impl Request {
    /// Tells whether the request can meet the rule's conditions: those on the connection count as met
    /// where it does not say what they are about.
    fn may_meet(&self, held: &Held, cell: &Cell) -> Result<bool, Question> {
        let rule = &held.rule;
        if !self.may_connect(held, cell) || self.unmet_facts(rule).is_some() {
            return Ok(false);
        }
        match (&rule.share_groups, &self.filter.group, self.verb) {
            (Some(groups), Some(group), Verb::Subscribe) => held.joins(groups, group, cell),
            _ => Ok(true),
        }
    }

    fn may_connect(&self, held: &Held, cell: &Cell) -> bool {
        let rule = &held.rule;
        let is_elsewhere = |listener| !rule.listener.is_empty() && !rule.listener.contains(listener);
        let is_other = |client_id: &String| !held.may_be_client(client_id, cell);
        !self.listener.as_ref().is_some_and(is_elsewhere) && !self.client_id.as_ref().is_some_and(is_other)
    }
}
