//! Kinds of identities as people read them: patterns with captures, exceptions, an example.

use crate::cell::{Cell, PartIndex, Term};
use crate::model::Held;
use crate::overlap::{self, Level, Overlaps};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names of parts, from the captures of the rules that speak of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    rules: Vec<Arc<Held>>,
    /// Their places by whom they speak of.
    index: Overlaps<usize>,
}

/// One kind of identities, written out.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) id: String,
    pub(crate) except: Vec<String>,
    pub(crate) example: String,
    names: Vec<String>,
    values: Vec<String>,
}

impl Shown {
    /// Returns the part as the pattern spells it.
    pub(crate) fn name(&self, part: PartIndex) -> String {
        self.names.get(part).cloned().unwrap_or_default()
    }

    /// Returns the part of the example.
    pub(crate) fn value(&self, part: PartIndex) -> String {
        self.values.get(part).cloned().unwrap_or_default()
    }
}

impl Names {
    pub(crate) fn of<'a>(rules: impl Iterator<Item = &'a Arc<Held>>) -> Self {
        let rules: Vec<Arc<Held>> = rules.cloned().collect();
        let mut index = Overlaps::default();
        rules.iter().enumerate().for_each(|(at, held)| index.insert(&overlap::levels(&held.rule.id), at));
        Self { rules, index }
    }

    /// Returns the rules that may speak of identities of the cell.
    fn speaking_of(&self, cell: &Cell) -> impl Iterator<Item = &Arc<Held>> {
        let parts: Vec<Term> = (0..cell.len()).map(|part| cell.resolve(part)).collect();
        let levels = parts.iter().map(|term| match term {
            Term::Text(text) => Level::Text(text),
            Term::Part(_) => Level::Any,
        });
        let open = (!cell.is_ended()).then_some(Level::Rest);
        let (places, _) = self.index.of(&overlap::cut(levels.chain(open)));
        places.into_iter().filter_map(|at| self.rules.get(at))
    }

    /// Writes a cell out; the parts that are spoken of, or are compared, are named. `others` are
    /// identities that cannot be the example.
    pub(crate) fn show(&self, cell: &Cell, spoken_of: &BTreeSet<PartIndex>, others: &[&str]) -> Shown {
        let mut named: BTreeSet<PartIndex> = spoken_of.clone();
        for part in 0..cell.len() {
            named.extend(
                cell.exclusions(part)
                    .1
                    .into_iter()
                    .chain((!cell.exclusions(part).1.is_empty()).then_some(part)),
            );
            if let Term::Part(earlier) = cell.resolve(part)
                && earlier != part
            {
                named.insert(earlier);
            }
        }
        let captured = self.captured(cell, &named);
        let spelled = |part: PartIndex| match cell.resolve(part) {
            Term::Text(text) => text.to_string(),
            Term::Part(open) => {
                captured.get(open).cloned().flatten().map_or_else(|| "*".into(), |name| format!("{{{name}}}"))
            }
        };
        let names: Vec<String> = (0..cell.len()).map(spelled).collect();
        let mut values = Vec::new();
        let mut example = String::new();
        // Another value for each identity that is told apart by its own rules.
        for round in 0..=others.len() {
            values = self::example(cell, &captured, round);
            example = format!("spiffe://{}", values.join("/"));
            if !others.contains(&example.as_str()) {
                break;
            }
        }
        Shown { id: pattern(&names, cell), except: exceptions(cell, &names), example, names, values }
    }

    /// Returns a name for each part that needs one.
    fn captured(&self, cell: &Cell, named: &BTreeSet<PartIndex>) -> Vec<Option<String>> {
        let mut captured: Vec<Option<String>> = vec![None; cell.len()];
        if named.contains(&0)
            && let Some(first) = captured.first_mut()
        {
            *first = Some("td".into());
        }
        for rule in self.speaking_of(cell).filter(|rule| rule.applies(cell) != Ok(false)) {
            for (part, name) in rule.captures() {
                let taken = captured.iter().any(|known| known.as_deref() == Some(name));
                if let Some(known) = captured.get_mut(part)
                    && known.is_none()
                    && !taken
                    && named.contains(&part)
                {
                    *known = Some(name.to_owned());
                }
            }
        }
        for part in named {
            if let Some(known) = captured.get_mut(*part)
                && known.is_none()
            {
                *known = Some(format!("segment-{part}"));
            }
        }
        captured
    }
}

fn pattern(parts: &[String], cell: &Cell) -> String {
    let rest = if cell.is_ended() { "" } else { "/**" };
    format!("spiffe://{}{rest}", parts.join("/"))
}

/// Returns patterns of what the cell leaves out.
fn exceptions(cell: &Cell, names: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for part in 0..cell.len() {
        let (texts, parts) = cell.exclusions(part);
        let others = parts.iter().filter_map(|other| names.get(*other).cloned());
        for value in texts.iter().map(ToString::to_string).chain(others) {
            let own = names.get(part);
            let replaced = |(at, name): (usize, &String)| {
                // All places of a capture that stands twice change together.
                let same = at == part || (own.is_some_and(|own| own.starts_with('{')) && own == Some(name));
                if same { value.clone() } else { name.clone() }
            };
            let replaced: Vec<String> = names.iter().enumerate().map(replaced).collect();
            found.push(pattern(&replaced, cell));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Returns one value for each part that makes an identity of the cell; another one for each `round`.
fn example(cell: &Cell, captured: &[Option<String>], round: usize) -> Vec<String> {
    let mut values: Vec<String> = Vec::with_capacity(cell.len());
    for part in 0..cell.len() {
        let value = match cell.resolve(part) {
            Term::Text(text) => text.to_string(),
            Term::Part(earlier) if earlier < part => values.get(earlier).cloned().unwrap_or_default(),
            Term::Part(_) => {
                let (texts, parts) = cell.exclusions(part);
                let taken = |value: &str| {
                    texts.iter().any(|text| **text == *value)
                        || parts.iter().any(|other| values.get(*other).is_some_and(|known| known == value))
                };
                let name = captured.get(part).cloned().flatten();
                let wanted = |number: usize| match (part, &name) {
                    (0, _) if number == 0 => "example.org".to_owned(),
                    (0, _) => format!("example-{number}.org"),
                    (_, Some(name)) => format!("{name}-{}", number + 1),
                    (_, None) if number == 0 => "x".to_owned(),
                    (_, None) => format!("x{number}"),
                };
                (round..).map(wanted).find(|value| !taken(value)).unwrap_or_default()
            }
        };
        values.push(value);
    }
    if round > 0 && !cell.is_ended() {
        values.push(format!("x{round}"));
    }
    values
}
