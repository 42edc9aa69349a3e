//! Share groups: who is in them and whose turn it is.

use crate::slab::Key;
use crate::subscription::{Grant, Subscribed};
use crate::word_hasher::WordHasher;
use mqtt_proto::{SharedFilter, TopicFilter};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

/// One share group on one filter; a number is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(u64);

impl GroupId {
    /// Stands for a group that is no more, of which something is left.
    pub(crate) const GONE: Self = Self(0);
}

/// One member of a group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) session: Key,
    pub(crate) grant: Grant,
    /// As of the subscription.
    pub(crate) filtered: bool,
}

impl Member {
    pub(crate) fn new(session: Key, subscribed: &Subscribed) -> Self {
        Self { session, grant: subscribed.grant(), filtered: subscribed.is_filtered() }
    }
}

/// What a member joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// A group that it made.
    New(GroupId),
    /// A group of others.
    Existing,
    /// A group that it was in.
    Again,
}

#[derive(Debug)]
struct Group {
    name: (Arc<str>, TopicFilter),
    members: Vec<Member>,
    turn: usize,
    /// Whether a member is there after a crash too, and as of which count of changes.
    kept: Option<(u64, bool)>,
}

impl Group {
    fn turn_among(&self, count: usize) -> usize {
        self.turn.checked_rem(count).unwrap_or(0)
    }

    fn is_kept_by(&self, doubts: u64) -> Option<bool> {
        self.kept.filter(|(of, _)| *of == doubts).map(|(_, kept)| kept)
    }
}

/// All share groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<GroupId, Group, BuildHasherDefault<WordHasher>>,
    by_name: HashMap<(Arc<str>, TopicFilter), GroupId>,
    last: u64,
    /// Counts changes of whether sessions that are members are stored.
    doubts: u64,
}

impl Groups {
    /// Adds a member or replaces its options.
    pub(crate) fn join(&mut self, filter: &SharedFilter, member: Member) -> Option<Joined> {
        let name = (filter.group.clone()?, filter.filter.clone());
        if let Some(&id) = self.by_name.get(&name) {
            let Group { members, kept, .. } = self.groups.get_mut(&id)?;
            *kept = None;
            match members.iter_mut().find(|other| other.session == member.session) {
                Some(existing) => {
                    *existing = member;
                    return Some(Joined::Again);
                }
                None => members.push(member),
            }
            return Some(Joined::Existing);
        }
        self.last += 1;
        let id = GroupId(self.last);
        self.by_name.insert(name.clone(), id);
        self.groups.insert(id, Group { name, members: vec![member], turn: 0, kept: None });
        Some(Joined::New(id))
    }

    /// Removes a member. Returns the group and whether it is gone with it.
    pub(crate) fn leave(&mut self, filter: &SharedFilter, session: Key) -> Option<(GroupId, bool)> {
        let name = (filter.group.clone()?, filter.filter.clone());
        let id = *self.by_name.get(&name)?;
        let group = self.groups.get_mut(&id)?;
        group.members.retain(|member| member.session != session);
        group.kept = None;
        let is_gone = group.members.is_empty();
        if is_gone {
            self.by_name.remove(&group.name);
            self.groups.remove(&id);
        }
        Some((id, is_gone))
    }

    /// Returns the subscription that its members share.
    pub(crate) fn filter(&self, id: GroupId) -> Option<SharedFilter> {
        let (name, filter) = &self.groups.get(&id)?.name;
        Some(SharedFilter { group: Some(Arc::clone(name)), filter: filter.clone() })
    }

    /// Returns the group of this subscription, if it has members.
    pub(crate) fn find(&self, filter: &SharedFilter) -> Option<GroupId> {
        self.by_name.get(&(filter.group.clone()?, filter.filter.clone())).copied()
    }

    pub(crate) fn members(&self, id: GroupId) -> &[Member] {
        self.groups.get(&id).map_or(&[], |group| &group.members)
    }

    /// Tells whether any member is there after a crash too, which is asked of each only after a change.
    pub(crate) fn is_kept(&mut self, id: GroupId, is_stored: impl Fn(&Member) -> bool) -> bool {
        let doubts = self.doubts;
        let Some(group) = self.groups.get_mut(&id) else { return false };
        group.is_kept_by(doubts).unwrap_or_else(|| {
            let kept = group.members.iter().any(is_stored);
            group.kept = Some((doubts, kept));
            kept
        })
    }

    /// Returns whose turn it is among `count` members, and whether any member is there after a crash too, where that is
    /// known.
    pub(crate) fn state(&self, id: GroupId, count: usize) -> Option<(usize, Option<bool>)> {
        let group = self.groups.get(&id)?;
        Some((group.turn_among(count), group.is_kept_by(self.doubts)))
    }

    /// Says that a session that may be a member is stored from now on, or not any more.
    pub(crate) fn doubt(&mut self) {
        self.doubts += 1;
    }

    /// Returns the name its members share it by.
    pub(crate) fn name(&self, id: GroupId) -> Option<&Arc<str>> {
        self.groups.get(&id).map(|group| &group.name.0)
    }

    /// Returns whose turn it is among `count` members, and passes the turn on.
    pub(crate) fn next_turn(&mut self, id: GroupId, count: usize) -> usize {
        let Some(group) = self.groups.get_mut(&id) else { return 0 };
        let turn = group.turn_among(count);
        group.turn = turn + 1;
        turn
    }
}
