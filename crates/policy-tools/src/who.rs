//! Who can reach a topic: by pattern for everyone there could be, and one by one for those there are.

use crate::access::Side;
use crate::cell::{Cell, Leaf, PartIndex, Question, Term, TooManyKinds, Tree, explore};
use crate::diff::KINDS_MAX;
use crate::model::{Held, Ruleset};
use crate::request::{Request, Verb};
use crate::shown::Names;
use crate::topics::Filter;
use midge_identity::SpiffeId;
use midge_policy::Effect;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// Rules that let them, each with its place and with the conditions on the connection it makes.
    pub rules: Vec<String>,
}

/// Names of the rules that let the identities of a cell make the request; none when it is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reach(Vec<String>);

impl Leaf for Reach {
    fn replace(&self, _part: PartIndex, _by: &Term) -> Self {
        self.clone()
    }

    fn mentions(&self, _part: PartIndex) -> bool {
        false
    }
}

impl Who {
    /// Finds everyone who could make the request. What a rule demands of listener and client id
    /// counts as met where the request does not say them.
    ///
    /// # Errors
    /// When there are too many kinds of identities to look at each.
    pub fn can(rules: &Ruleset, request: &Request) -> Result<Self, TooManyKinds> {
        let bearing: Vec<Arc<Held>> =
            rules.patterns().iter().filter(|held| bears(held, request)).cloned().collect();
        let tree = explore(Cell::all(), Progress::default(), KINDS_MAX, &mut |cell, progress| {
            progress.read(&bearing, cell)?;
            progress.reach(request, cell)
        })?;
        let mut points = BTreeMap::new();
        for id in rules.points() {
            let cell = Cell::of(id);
            let all: Vec<Arc<Held>> = rules.own(id).iter().chain(&bearing).cloned().collect();
            let mut progress = Progress::default();
            // No question is open about one identity.
            if let Ok(reach) = progress.read(&all, &cell).and_then(|()| progress.reach(request, &cell))
                && reach != tree.at(&cell)
            {
                points.insert(id.clone(), reach);
            }
        }
        Ok(Self { tree, points, names: Names::of(bearing.iter()) })
    }

    /// Returns them kind by kind: each identity belongs to one kind at most.
    pub fn kinds(&self) -> Vec<WhoKind> {
        let mut kinds = Vec::new();
        for (id, reach) in self.points.iter().filter(|(_, reach)| !reach.0.is_empty()) {
            let id = id.to_string();
            kinds.push(WhoKind { id: id.clone(), except: Vec::new(), example: id, rules: reach.0.clone() });
        }
        for (cell, reach) in self.tree.cells().into_iter().filter(|(_, reach)| !reach.0.is_empty()) {
            let own: Vec<String> = self
                .points
                .keys()
                .filter(|id| cell.contains(&Cell::of(id)))
                .map(ToString::to_string)
                .collect();
            if !cell.is_general() && !own.is_empty() {
                continue;
            }
            let own_texts: Vec<&str> = own.iter().map(String::as_str).collect();
            let shown = self.names.show(&cell, &BTreeSet::new(), &own_texts);
            kinds.push(WhoKind {
                id: shown.id,
                except: shown.except.into_iter().chain(own).collect(),
                example: shown.example,
                rules: reach.0.clone(),
            });
        }
        kinds.sort_by(|a, b| a.id.cmp(&b.id));
        kinds
    }
}

/// Tells whether the rule has anything to say about such requests.
fn bears(held: &Held, request: &Request) -> bool {
    held.patterns.iter().any(|pattern| {
        matches!(
            (request.verb, pattern.effect),
            (Verb::Publish | Verb::Will, Effect::Publish | Effect::DenyPublish)
                | (
                    Verb::Subscribe,
                    Effect::Subscribe
                        | Effect::SubscribeLiteral
                        | Effect::DenySubscribe
                        | Effect::DenySubscribeLiteral
                )
                | (
                    Verb::Receive,
                    Effect::Subscribe | Effect::Receive | Effect::DenySubscribe | Effect::DenyReceive
                )
        )
    })
}

/// How far the rules have been looked at for a cell.
#[derive(Clone, Default)]
struct Progress {
    next: usize,
    found: Vec<Arc<Held>>,
}

impl Progress {
    fn read(&mut self, rules: &[Arc<Held>], cell: &Cell) -> Result<(), Question> {
        while let Some(held) = rules.get(self.next) {
            if held.applies(cell)? {
                self.found.push(Arc::clone(held));
            }
            self.next += 1;
        }
        Ok(())
    }

    fn reach(&self, request: &Request, cell: &Cell) -> Result<Reach, Question> {
        let wanted = Filter::read(request.filter.filter.as_str(), |_| None);
        let mut side = Side::default();
        let mut allowing = Vec::new();
        for held in &self.found {
            let allows = request.may_meet(held, cell)?;
            let denies = held.denies_on(request.listener.as_deref())
                && (held.rule.listener.is_empty() || request.listener.is_some());
            let mut lets = false;
            let access = request.verb.access();
            let literal = (request.verb == Verb::Subscribe).then_some(crate::Access::SubscribeLiteral);
            for list in literal.unwrap_or(access).lists(held, cell) {
                let holds = if list.effect.is_deny() { denies } else { allows };
                if !holds {
                    continue;
                }
                side.add(&list);
                if !list.effect.is_deny() {
                    for filter in &list.filters {
                        lets |= wanted.meet(filter, cell)?.is_some();
                    }
                }
            }
            if lets {
                allowing.push(told(held));
            }
        }
        let allowed = if request.verb == Verb::Subscribe {
            side.allows_subscription(&wanted, cell)?
        } else {
            side.allows(&wanted, cell)?
        };
        allowing.sort();
        Ok(Reach(if allowed { allowing } else { Vec::new() }))
    }
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
        let known = Self {
            listener: self.listener.clone().or_else(|| rule.listener.first().cloned()),
            ..self.clone()
        };
        let conditions = midge_policy::Rule { client_id: Vec::new(), share_groups: None, ..rule.clone() };
        if known.unmet_by(&conditions).is_some() {
            return Ok(false);
        }
        if let Some(client_id) = &self.client_id
            && !held.may_be_client(client_id, cell)
        {
            return Ok(false);
        }
        match (&rule.share_groups, &self.filter.group, self.verb) {
            (Some(groups), Some(group), Verb::Subscribe) => held.joins(groups, group, cell),
            _ => Ok(true),
        }
    }
}
