//! What patterns and a filter have in common, as filters: two filters share nothing or exactly what
//! one other filter matches.

use crate::trie::{Mark, Node, Trie};
use mqtt_proto::TopicFilter;
use std::ops::ControlFlow;

impl Trie {
    /// Visits the intersection of the filter, which is canonical, with every pattern that shares a topic
    /// with it; so are the intersections.
    pub(crate) fn meet<B>(
        &self,
        filter: &TopicFilter,
        visitor: &mut impl FnMut(Mark, TopicFilter) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let levels: Vec<&str> = filter.levels().collect();
        Meet { path: Vec::new(), visitor, broken: std::marker::PhantomData }.walk(self.root(), &levels)
    }
}

struct Meet<'p, 'v, V, B> {
    path: Vec<&'p str>,
    visitor: &'v mut V,
    broken: std::marker::PhantomData<B>,
}

impl<'p, V: FnMut(Mark, TopicFilter) -> ControlFlow<B>, B> Meet<'p, '_, V, B> {
    fn walk(&mut self, node: &'p Node, filter: &[&'p str]) -> ControlFlow<B> {
        // [MQTT-4.7.2-1]: no leading wildcard matches a topic that starts with $.
        let leading = self.path.is_empty();
        let system = leading && filter.first().is_some_and(|level| level.starts_with('$'));
        if !system {
            self.tell(&node.hash, filter)?;
        }
        let Some((level, rest)) = filter.split_first() else {
            return self.tell(&node.exact, &[]);
        };
        match *level {
            "#" => {
                self.tell(&node.exact, &[])?;
                self.beneath(node, leading, filter)
            }
            "+" => self.beneath(node, leading, rest),
            text => {
                let plus = node.plus.as_deref().filter(|_| !system);
                let next = node.literal(text).into_iter().chain(plus);
                next.into_iter().try_for_each(|next| self.enter(text, next, rest))
            }
        }
    }

    fn beneath(&mut self, node: &'p Node, leading: bool, rest: &[&'p str]) -> ControlFlow<B> {
        let mut literal = node.literal.iter().filter(|(text, _)| !(leading && text.starts_with('$')));
        literal.try_for_each(|(text, next)| self.enter(text, next, rest))?;
        node.plus.as_deref().map_or(ControlFlow::Continue(()), |next| self.enter("+", next, rest))
    }

    fn enter(&mut self, level: &'p str, next: &'p Node, rest: &[&'p str]) -> ControlFlow<B> {
        self.path.push(level);
        let flow = self.walk(next, rest);
        self.path.pop();
        flow
    }

    fn tell(&mut self, marks: &[Mark], rest: &[&'p str]) -> ControlFlow<B> {
        if marks.is_empty() {
            return ControlFlow::Continue(());
        }
        let levels: Vec<&str> = self.path.iter().chain(rest).copied().collect();
        // Without levels, or with one empty level alone, there is no topic to share.
        let Ok(shared) = TopicFilter::new(levels.join("/")) else {
            return ControlFlow::Continue(());
        };
        marks.iter().try_for_each(|mark| (self.visitor)(*mark, shared.clone()))
    }
}
